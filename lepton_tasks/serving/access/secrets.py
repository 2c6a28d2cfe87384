"""Files with one secret each, readable by their owner only."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Callable
from pathlib import Path


def secret_in(path: Path, make: Callable[[], bytes]) -> bytes:
    """The secret in a file; created atomically if missing, so that concurrent callers get the same one.

    Args:
        path: The file.
        make: Creates a new secret.
    """
    with contextlib.suppress(FileNotFoundError):
        return path.read_bytes()
    part = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as stream:
            stream.write(make())
        with contextlib.suppress(FileExistsError):  # another process was faster
            os.link(part, path)
    finally:
        part.unlink(missing_ok=True)
    return path.read_bytes()
