"""Files that hold one secret each, of which only their owner may know."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Callable
from pathlib import Path


def secret_in(path: Path, make: Callable[[], bytes]) -> bytes:
    """What a file holds; made, whole or not at all, if it is missing, and equal for all who ask at the same time.

    Args:
        path: The file.
        make: Gives a new secret.
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
