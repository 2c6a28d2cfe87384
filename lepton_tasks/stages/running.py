"""Whether a run of a use case is in progress in this state folder."""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path
from typing import IO


@contextlib.contextmanager
def running(root: Path, use_case: str) -> Iterator[None]:
    """Be seen by `is_running` while the block runs, however it ends; runs do not wait for each other."""
    with _lock(root, use_case) as stream:
        fcntl.flock(stream, fcntl.LOCK_SH)
        yield


def is_running(root: Path, use_case: str) -> bool:
    """Whether anybody is in `running` now. Airflow's stages are not: Airflow knows of its runs."""
    with _lock(root, use_case) as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
        return False


def _lock(root: Path, use_case: str) -> IO[str]:
    folder = root / "work" / ".locks"
    folder.mkdir(parents=True, exist_ok=True)
    return (folder / f"run-{use_case}").open("w")
