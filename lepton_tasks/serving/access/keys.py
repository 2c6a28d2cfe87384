"""The key file ``keys.json``: hashed API keys with models, rate and expiry. A key is shown once, when created.

A plain sha256 is sufficient. Slow hashes (scrypt, argon2) protect passwords that can be guessed. These keys are 256
random bits: at 10^12 guesses per second, finding one takes 10^57 years, while a slow hash would cost every request tens
of milliseconds. No salt is needed for the same reason: precomputed tables of such keys cannot exist.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import fcntl
import fnmatch
import functools
import hashlib
import math
import os
import re
import secrets
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import pydantic

from lepton_tasks.core.access import KEY_PREFIX
from lepton_tasks.core.errors import ConfigError

KEYS_FILE = "keys.json"  # in the server's state folder
MAX_KEYS = 4096
LOGS = "/requests/"
"""Prefix of a model's request log in a key's list of models. Logs contain other clients' data, so a key must name them:
``lepton key add stages --models '*' --models '/requests/*'``."""

_NAME = r"^[a-z0-9][a-z0-9_-]{0,39}$"
_UNITS = {"m": 60, "h": 3600, "d": 86_400}


class Key(pydantic.BaseModel):
    """An API key as stored: its hash and permissions.

    Attributes:
        name: Owner; two keys may share a name during key rotation.
        sha256: Hex digest of the key.
        slot: Unique index of its rate counter.
        models: Shell patterns of the allowed models.
        rate: Requests per second; unlimited by default.
        burst: Requests allowed at once after a pause.
        created: Seconds since the epoch.
        expires: Seconds since the epoch; None for never.
    """

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")

    name: str = pydantic.Field(pattern=_NAME)
    sha256: str = pydantic.Field(pattern="^[0-9a-f]{64}$")
    slot: int = pydantic.Field(ge=0, lt=MAX_KEYS)
    models: Annotated[tuple[str, ...], pydantic.Field(min_length=1)] = ("*",)
    rate: float | None = pydantic.Field(None, gt=0, allow_inf_nan=False)
    burst: int | None = pydantic.Field(None, ge=1)
    created: float = 0.0
    expires: float | None = None

    @functools.cached_property
    def id(self) -> str:
        """Name and the beginning of the digest, as used in logs."""
        return f"{self.name}-{self.sha256[:8]}"

    @property
    def burst_size(self) -> int:
        """Requests allowed at once: `burst`, or those of one second."""
        return self.burst or max(1, math.ceil(self.rate or 1))

    def allows(self, model: str) -> bool:
        """Whether one of the patterns matches; a request log needs a pattern that begins with `LOGS`."""
        patterns = self.models
        if model.startswith(LOGS):
            patterns = tuple(pattern for pattern in patterns if pattern.startswith(LOGS))
        return any(fnmatch.fnmatchcase(model, pattern) for pattern in patterns)


class _KeyFile(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")

    schema_version: int = pydantic.Field(1, ge=1, le=1)
    keys: tuple[Key, ...] = ()

    @pydantic.model_validator(mode="after")
    def _check_unique(self) -> _KeyFile:
        for field in ("sha256", "slot"):
            values = [getattr(key, field) for key in self.keys]
            if len(set(values)) < len(values):
                raise ValueError(f"two keys have the same {field}")
        return self


def read_keys(path: Path) -> tuple[Key, ...]:
    """All keys of a file, including expired ones.

    Raises:
        FileNotFoundError: there is no such file.
        ConfigError: it cannot be read, or is writable by other users.
    """
    try:
        with path.open("rb") as stream:
            if os.fstat(stream.fileno()).st_mode & (stat.S_IWGRP | stat.S_IWOTH):
                raise ConfigError("it is writable by other users.", where=str(path), fix=f"chmod 600 {path}")
            return _KeyFile.model_validate_json(stream.read()).keys
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ConfigError(f"it cannot be read: {error.strerror}.", where=str(path)) from error
    except pydantic.ValidationError as error:
        fault = error.errors(include_url=False, include_input=False)[0]
        at = ".".join(str(part) for part in fault["loc"])
        raise ConfigError(f"{at + ': ' if at else ''}{fault['msg']}.", where=str(path)) from error


def add_key(
    path: Path,
    name: str,
    *,
    now: float,
    models: Sequence[str] = ("*",),
    rate: float | None = None,
    burst: int | None = None,
    expires: float | None = None,
) -> tuple[str, Key]:
    """Create a key and store its hash; earlier keys of the name stay valid until revoked.

    Returns:
        The secret, which is not stored, and the stored key.

    Raises:
        ConfigError: a value or the file is invalid.
    """
    if burst is not None and rate is None:
        raise ConfigError("--burst has no effect without --rate.", where="burst", fix="Give both.")
    token = KEY_PREFIX + secrets.token_urlsafe(32)
    with _edit_keys(path) as keys:
        taken = {key.slot for key in keys}
        slot = next((number for number in range(MAX_KEYS) if number not in taken), None)
        if slot is None:
            raise ConfigError(f"there are {MAX_KEYS} keys already.", where=str(path), fix="Revoke some.")
        digest = hashlib.sha256(token.encode()).hexdigest()
        try:
            key = Key(
                name=name,
                sha256=digest,
                slot=slot,
                models=tuple(models),
                rate=rate,
                burst=burst,
                created=now,
                expires=expires,
            )
        except pydantic.ValidationError as error:
            fault = error.errors(include_url=False)[0]
            raise ConfigError(f"{fault['msg']}: {fault['input']!r}.", where=str(fault["loc"][0])) from error
        keys.append(key)
    return token, key


def revoke_keys(path: Path, which: str, *, old: bool = False) -> list[Key]:
    """Remove keys from the file; running servers refuse them within a second.

    Args:
        path: The file.
        which: A name, or the id of one key.
        old: Keep the newest key of the name.

    Returns:
        The revoked keys.

    Raises:
        ConfigError: there is no such key.
    """
    with _edit_keys(path) as keys:
        found = sorted((key for key in keys if which in (key.name, key.id)), key=lambda key: key.created)
        if not found:
            known = ", ".join(sorted({key.name for key in keys})) or "none"
            raise ConfigError(f"there is no key {which!r}.", where=str(path), fix=f"Known: {known}.")
        revoked = found[:-1] if old else found
        keys[:] = [key for key in keys if key not in revoked]
    return revoked


def expiry(text: str, *, now: float) -> float:
    """Parse ``90d``, ``12h``, ``30m`` from now, or an ISO 8601 date, to seconds since the epoch.

    Raises:
        ConfigError: it is neither, or in the past.
    """
    if match := re.fullmatch(r"(\d{1,6})([mhd])", text):
        return now + int(match[1]) * _UNITS[match[2]]
    try:
        moment = dt.datetime.fromisoformat(text)
    except ValueError as error:
        fix = "Give 30m, 12h, 90d, or a date such as 2031-01-31."
        raise ConfigError(f"{text!r} is not a time.", where="expires", fix=fix) from error
    seconds = (moment if moment.tzinfo else moment.replace(tzinfo=dt.UTC)).timestamp()
    if seconds <= now:
        raise ConfigError(f"{text} is over.", where="expires")
    return seconds


@contextlib.contextmanager
def _edit_keys(path: Path) -> Iterator[list[Key]]:
    """Lock the file and edit its keys; they are written when the block ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with _open_private(path.with_name(f".{path.name}.lock"), os.O_RDWR | os.O_CREAT) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            keys = list(read_keys(path))
        except FileNotFoundError:
            keys = []
        yield keys
        part = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
        text = _KeyFile(keys=tuple(keys)).model_dump_json(indent=2, exclude_none=True)
        try:
            with (
                _open_private(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL) as handle,
                open(handle, "wb", closefd=False) as file,
            ):
                file.write(text.encode() + b"\n")  # unlike `os.write`, writes everything or raises
                file.flush()
                os.fsync(handle)
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)


@contextlib.contextmanager
def _open_private(path: Path, flags: int) -> Iterator[int]:
    """Open a file with mode 0600."""
    handle = os.open(path, flags, 0o600)
    try:
        yield handle
    finally:
        os.close(handle)
