"""Tie a child process's lifetime to its parent's."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PARENT = "LEPTON_PARENT"
"""Variable with the pid of a child's parent, for a child that cannot be told in any other way."""

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)


def die_with(parent: int, number: signal.Signals = signal.SIGTERM) -> None:
    """Have the kernel send this process a signal when its parent ends, even by SIGKILL.

    Only system calls, so a child just forked may call it. Ends the process if `parent` has ended before the call.
    """
    if sys.platform == "linux":
        _libc.prctl(_PR_SET_PDEATHSIG, number)
    if os.getppid() != parent:
        os._exit(1)
