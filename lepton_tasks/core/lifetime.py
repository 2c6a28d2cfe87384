"""Tie a child process's lifetime to its parent's."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PARENT = "LEPTON_PARENT"
"""Environment variable with the pid of a child's parent, for children that cannot receive it otherwise."""

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)


def die_with(parent: int, number: signal.Signals = signal.SIGTERM) -> None:
    """Have the kernel send this process a signal when its parent ends, even by SIGKILL.

    Only makes system calls, so it is safe right after a fork. Exits the process if `parent` has already ended.
    """
    if sys.platform == "linux":
        _libc.prctl(_PR_SET_PDEATHSIG, number)
    if os.getppid() != parent:
        os._exit(1)
