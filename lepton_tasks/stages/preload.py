"""Import libraries of later stages in the background, on cores that the current stage leaves idle."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import threading
from collections.abc import Iterator

# Libraries of `evaluate` and `export`, in order of use: 3 s on a slow machine. `torch.onnx.export` imports the last
# three when it is called.
_LIBRARIES = ("torch", "lepton_tasks.training.export", "torch.export._trace", "onnxscript.function_libs.torch_lib.ops")
_NICENESS = 10


@contextlib.contextmanager
def preloading(enabled: bool) -> Iterator[None]:
    """Import what later stages of this process need while the block waits for another process.

    The block itself must not import torch. Its exit waits for the import in progress.

    Args:
        enabled: Whether there are such stages.
    """
    if not enabled:
        yield
        return
    done = threading.Event()

    def work() -> None:
        if sys.platform == "linux":
            os.setpriority(os.PRIO_PROCESS, 0, _NICENESS)  # of this thread: the waited-for process has priority
        for name in _LIBRARIES:
            if done.is_set():
                return
            with contextlib.suppress(ImportError):  # the stage that needs it will report it
                importlib.import_module(name)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
