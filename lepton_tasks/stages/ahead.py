"""What a run does ahead of time, on cores that its current stage leaves idle: it imports libraries."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import threading
from collections.abc import Iterator

# Of `evaluate` and `export`, in the order in which they come: 3 s on a slow machine. The last three are what
# `torch.onnx.export` imports when it is called.
_LIBRARIES = ("torch", "lepton_tasks.training.export", "torch.export._trace", "onnxscript.function_libs.torch_lib.ops")
_NICE = 10


@contextlib.contextmanager
def importing(wanted: bool) -> Iterator[None]:
    """Import what later stages of this process need while the block waits for another process.

    The block itself must not import torch. What is being imported when it is left is waited for.

    Args:
        wanted: Whether there are such stages.
    """
    left = threading.Event()

    def work() -> None:
        if sys.platform == "linux":
            os.setpriority(os.PRIO_PROCESS, 0, _NICE)  # of this thread: whoever waits has the processor first
        for name in _LIBRARIES:
            if left.is_set():
                return
            with contextlib.suppress(ImportError):  # the stage that needs it will tell
                importlib.import_module(name)

    thread = threading.Thread(target=work if wanted else lambda: None)
    thread.start()
    try:
        yield
    finally:
        left.set()
        thread.join()
