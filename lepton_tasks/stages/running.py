"""Whether a run of a use case is in progress in this state folder."""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path
from typing import IO


@contextlib.contextmanager
def running(root: Path, use_case: str) -> Iterator[None]:
    """Mark the use case as running during the block, for `is_running`; runs do not wait for each other."""
    with _lock(root, use_case) as stream:
        fcntl.flock(stream, fcntl.LOCK_SH)
        yield


def is_running(root: Path, use_case: str) -> bool:
    """Whether any process is inside `running`. Airflow's runs do not count: Airflow tracks them itself."""
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
