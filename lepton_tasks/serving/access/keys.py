"""The key file ``keys.json``: hashed API keys with models, rate and expiry. A key is shown once, when created.

A plain sha256 is enough. A slow hash (scrypt, argon2) makes up for secrets that people choose and others can guess.
These keys are 256 random bits: at 10^12 guesses a second, finding one takes 10^57 years, while every request would pay
for the slow hash, tens of milliseconds. There is no salt for the same reason: no table of such keys can exist.
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
MOST_KEYS = 4096
LOGS = "/requests/"
"""With a model's name, stands for its request log among the models that a key is for: what others sent is read only
with a key that says so, ``lepton key add stages --models '*' --models '/requests/*'``."""

_NAME = r"^[a-z0-9][a-z0-9_-]{0,39}$"
_UNITS = {"m": 60, "h": 3600, "d": 86_400}


class Key(pydantic.BaseModel):
    """One API key, without the key.

    Attributes:
        name: Whose it is; two keys may share a name while one takes over from the other.
        sha256: Hex digest of the key.
        slot: Place of its rate among those of the other keys; never shared.
        models: Patterns of the models it may ask, as the shell has them.
        rate: Requests a second; without it, as many as the server takes.
        burst: Requests that may come at once after a pause.
        created: Seconds since the epoch.
        expires: Seconds since the epoch; without it, never.
    """

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")

    name: str = pydantic.Field(pattern=_NAME)
    sha256: str = pydantic.Field(pattern="^[0-9a-f]{64}$")
    slot: int = pydantic.Field(ge=0, lt=MOST_KEYS)
    models: Annotated[tuple[str, ...], pydantic.Field(min_length=1)] = ("*",)
    rate: float | None = pydantic.Field(None, gt=0, allow_inf_nan=False)
    burst: int | None = pydantic.Field(None, ge=1)
    created: float = 0.0
    expires: float | None = None

    @functools.cached_property
    def id(self) -> str:
        """Name and the beginning of the digest: what logs call it."""
        return f"{self.name}-{self.sha256[:8]}"

    @property
    def most(self) -> int:
        """Requests that may come at once: `burst`, or those of one second."""
        return self.burst or max(1, math.ceil(self.rate or 1))

    def may_ask(self, model: str) -> bool:
        """Whether one of its patterns fits; one of models fits no request log."""
        patterns = [one for one in self.models if one.startswith(LOGS)] if model.startswith(LOGS) else self.models
        return any(fnmatch.fnmatchcase(model, pattern) for pattern in patterns)


class _File(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")

    schema_version: int = pydantic.Field(1, ge=1, le=1)
    keys: tuple[Key, ...] = ()

    @pydantic.model_validator(mode="after")
    def _apart(self) -> _File:
        for field in ("sha256", "slot"):
            values = [getattr(key, field) for key in self.keys]
            if len(set(values)) < len(values):
                raise ValueError(f"two keys have the same {field}")
        return self


def read_keys(path: Path) -> tuple[Key, ...]:
    """All keys of a file, expired ones too.

    Raises:
        FileNotFoundError: there is no such file.
        ConfigError: it cannot be read, or others than its owner may write to it.
    """
    try:
        with path.open("rb") as stream:
            if os.fstat(stream.fileno()).st_mode & (stat.S_IWGRP | stat.S_IWOTH):
                raise ConfigError("it is writable by other users.", where=str(path), fix=f"chmod 600 {path}")
            return _File.model_validate_json(stream.read()).keys
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
    """Make a key and keep its hash; an earlier key of the name stays good until it is revoked.

    Returns:
        The key, which is nowhere else from now on, and what is kept of it.

    Raises:
        ConfigError: a value is wrong, or the file is.
    """
    if burst is not None and rate is None:
        raise ConfigError("--burst has no effect without --rate.", where="burst", fix="Give both.")
    token = KEY_PREFIX + secrets.token_urlsafe(32)
    with _changing(path) as keys:
        taken = {key.slot for key in keys}
        slot = next((number for number in range(MOST_KEYS) if number not in taken), None)
        if slot is None:
            raise ConfigError(f"there are {MOST_KEYS} keys already.", where=str(path), fix="Revoke some.")
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
    """Take keys out of the file; running servers refuse them within a second.

    Args:
        path: The file.
        which: A name, or the id of one key.
        old: Leave the newest key of the name.

    Returns:
        What was revoked.

    Raises:
        ConfigError: there is no such key.
    """
    with _changing(path) as keys:
        found = sorted((key for key in keys if which in (key.name, key.id)), key=lambda key: key.created)
        if not found:
            known = ", ".join(sorted({key.name for key in keys})) or "none"
            raise ConfigError(f"there is no key {which!r}.", where=str(path), fix=f"Known: {known}.")
        gone = found[:-1] if old else found
        keys[:] = [key for key in keys if key not in gone]
    return gone


def expiry(text: str, *, now: float) -> float:
    """``90d``, ``12h``, ``30m`` from now, or a date in ISO 8601, as seconds since the epoch.

    Raises:
        ConfigError: it is neither, or it is over.
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
def _changing(path: Path) -> Iterator[list[Key]]:
    """The keys, to be changed; written when the block ends without an error. One at a time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with _private(path.with_name(f".{path.name}.lock"), os.O_RDWR | os.O_CREAT) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            keys = list(read_keys(path))
        except FileNotFoundError:
            keys = []
        yield keys
        part = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
        text = _File(keys=tuple(keys)).model_dump_json(indent=2, exclude_none=True)
        try:
            with (
                _private(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL) as handle,
                open(handle, "wb", closefd=False) as file,
            ):
                file.write(text.encode() + b"\n")  # all of it, or an error: `os.write` writes what there is room for
                file.flush()
                os.fsync(handle)
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)


@contextlib.contextmanager
def _private(path: Path, flags: int) -> Iterator[int]:
    """An open file that only its owner may read."""
    handle = os.open(path, flags, 0o600)
    try:
        yield handle
    finally:
        os.close(handle)
