"""API key checks: models, rate and expiry, in one or two microseconds per request."""

from __future__ import annotations

import dataclasses
import ipaddress
import logging
import math
import time
from collections.abc import Callable, Iterable, Mapping
from hashlib import sha256
from pathlib import Path

from lepton_tasks.core.access import KEY_VARIABLE, stage_key
from lepton_tasks.core.errors import ConfigError, LeptonError
from lepton_tasks.serving.access.keys import KEYS_FILE, LOGS, MAX_KEYS, Key, read_keys
from lepton_tasks.serving.access.rates import Rates
from lepton_tasks.serving.errors import ForbiddenError, NotAllowedError, TooManyError, status_of

RATES_FILE = "keys.rates"  # in the server's state folder
REQUIRED_FILE = "keys.required"  # in the server's state folder

_REQUIRED_TEXT = """\
This server has had API keys, so it lets nobody in without one, even if keys.json is gone.
For a server without keys, delete keys.json and this file, and restart it.
"""

_CHECK_INTERVAL = 1.0  # seconds
_MAX_CACHED_MODELS = 1000  # bounded, because clients can send arbitrary model names

_log = logging.getLogger("lepton.serving.auth")


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class _ActiveKey:
    """A key prepared for `Guard.admit`."""

    key: Key
    id: str
    expires: float
    interval: float  # seconds between two requests; 0 without a rate limit
    allowed: dict[str, bool]  # cached permission by model


class Guard:
    """Checks API keys. Changes of the key file take effect within a second.

    Without a key file and other keys, access is open: see `check_address`. If the file is deleted, its keys become
    invalid, also after a restart (see `required`); only the stages' key and the given key remain. If the file becomes
    invalid while the server runs, the keys loaded last stay valid.

    Args:
        path: The key file.
        required: Marker file, created once there are keys; while it exists, a key is required.
        rates: File in which the server's processes share the used rates; without it, each process counts separately.
        stages: The key of the stages that share the state folder.
        given: An additional key for all models, from the server's environment.
        clock: Monotonic seconds, common to all processes.
        wall: Seconds since the epoch, for expiry.

    Attributes:
        refused: Number of refused requests by HTTP status.

    Raises:
        ConfigError: the file cannot be used.
    """

    def __init__(
        self,
        path: Path,
        *,
        required: Path | None = None,
        rates: Path | None = None,
        stages: str = "",
        given: str = "",
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.refused = dict.fromkeys((401, 403, 429), 0)
        self._path, self._required, self._clock, self._wall = path, required, clock, wall
        self._rates = Rates(rates, MAX_KEYS)
        self._built_in = _by_digest(
            Key(name=name, sha256=sha256(key.encode()).hexdigest(), slot=0, models=models)
            for name, key, models in (("stages", stages, ("*", f"{LOGS}*")), ("environment", given, ("*",)))
            if key
        )
        closed = given or (required is not None and required.exists())
        self._keys: dict[bytes, _ActiveKey] | None = self._built_in if closed else None
        self._loaded: tuple[int, ...] | None = None
        self._next_check = clock() + _CHECK_INTERVAL
        self._load(self._signature())
        if self._keys is self._built_in and not given:
            self._log_missing_file()

    @property
    def open(self) -> bool:
        """Whether access is open, because there are no keys."""
        return self._keys is None

    def admit(self, authorization: bytes | str | None, model: str) -> str:
        """Check the API key of a request; returns its id, empty if there are no keys.

        Args:
            authorization: The header, ``Bearer KEY``.
            model: The requested model; empty for requests that any valid key may send.

        Raises:
            ForbiddenError: the key is missing, unknown or expired (401).
            NotAllowedError: the key is not valid for this model (403).
            TooManyError: the key's rate limit is exceeded (429).
        """
        if self._keys is None and self._clock() < self._next_check:
            return ""
        try:
            return self._admit(authorization, model)
        except LeptonError as error:
            self.refused[status_of(error)] += 1
            raise

    def _admit(self, authorization: bytes | str | None, model: str) -> str:
        now = self._clock()
        if now >= self._next_check:
            self._reload_if_changed(now)
        if self._keys is None:
            return ""
        raw = authorization.encode("latin-1", "replace") if isinstance(authorization, str) else authorization
        if not raw or raw[:7].lower() != b"bearer ":
            raise ForbiddenError("no API key was sent.", fix="Send the header 'Authorization: Bearer KEY'.")
        # Looked up by hash: timing reveals at most the hash, from which the key cannot be derived.
        known = self._keys.get(sha256(raw[7:].strip()).digest())
        if known is None:
            raise ForbiddenError("the API key is unknown.", fix="Create one with `lepton key add NAME`.")
        if self._wall() >= known.expires:
            raise ForbiddenError(
                f"the API key {known.id} has expired.", fix="Create another with `lepton key add NAME`."
            )
        if model and not _is_allowed(known, model):
            raise NotAllowedError(f"the API key {known.id} is not for {model!r}.")
        if known.interval:
            wait = self._rates.take(known.key.slot, known.interval, known.key.burst_size, now)
            if wait > 0:
                raise TooManyError(
                    f"more than {known.key.rate:g} requests a second.", where=known.id, fix="Wait.", seconds=wait
                )
        return known.id

    def _reload_if_changed(self, now: float) -> None:
        self._next_check = now + _CHECK_INTERVAL
        signature = self._signature()
        if signature == self._loaded:
            return
        try:
            self._load(signature)
        except ConfigError as error:
            self._loaded = signature  # log the error once, not every second
            _log.error("%s The keys known until now stay good.", error)

    def _signature(self) -> tuple[int, ...] | None:
        """Modification time, inode, size and mode of the file; None if it is missing."""
        try:
            about = self._path.stat()
        except OSError:
            return None
        return about.st_mtime_ns, about.st_ino, about.st_size, about.st_mode

    def _load(self, signature: tuple[int, ...] | None) -> None:
        try:
            keys = read_keys(self._path)
        except FileNotFoundError:
            if self._loaded is not None:
                self._keys = self._built_in
                self._log_missing_file()
        else:
            self._keys = _by_digest(keys) | self._built_in
            if self._required is not None and not self._required.exists():
                self._required.write_text(_REQUIRED_TEXT)
            _log.info("%d API keys", len(keys))
        self._loaded = signature

    def _log_missing_file(self) -> None:
        fix = "`lepton key add NAME` makes a new one"
        if self._required is not None:
            fix += f"; for a server without keys, delete {self._required}, too, and restart"
        _log.error("%s is gone, and its keys with it: nobody is let in with them. %s.", self._path, fix)


def _by_digest(keys: Iterable[Key]) -> dict[bytes, _ActiveKey]:
    """Keys by the sha256 of the secret."""
    return {
        bytes.fromhex(key.sha256): _ActiveKey(
            key=key,
            id=key.id,
            expires=math.inf if key.expires is None else key.expires,
            interval=1 / key.rate if key.rate else 0.0,
            allowed={},
        )
        for key in keys
    }


def _is_allowed(known: _ActiveKey, model: str) -> bool:
    answer = known.allowed.get(model)
    if answer is None:
        if len(known.allowed) >= _MAX_CACHED_MODELS:
            known.allowed.clear()
        answer = known.allowed[model] = known.key.allows(model)
    return answer


def check_address(host: str, guard: Guard, *, insecure: bool = False) -> None:
    """Refuse to listen on a non-loopback address with open access.

    Args:
        host: The address to listen on.
        guard: The key check.
        insecure: Allow it.

    Raises:
        ConfigError: access is open and `insecure` is not set.
    """
    if guard.open and not insecure and not _is_loopback(host):
        raise ConfigError(
            "other machines could send requests without a key.",
            where=f"--host {host}",
            fix="Create one with `lepton key add NAME`, set LEPTON_API_KEY, or pass --insecure.",
        )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def guard_of(home: Path, token: str, environment: Mapping[str, str], keys: Path | None = None) -> Guard:
    """The guard of a server's state folder.

    Args:
        home: The folder.
        token: The admin token.
        environment: The server's environment variables.
        keys: The key file, if not in the folder.

    Raises:
        ConfigError: the file cannot be used, or `keys` is missing.
    """
    if keys is not None and not keys.is_file():
        raise ConfigError("there is no such file.", where=f"--keys {keys}", fix="Create it with `lepton key add NAME`.")
    return Guard(
        keys or home / KEYS_FILE,
        required=None if keys else home / REQUIRED_FILE,  # the server does not start if an explicit file is missing
        rates=home / RATES_FILE,
        stages=stage_key(token),
        given=environment.get(KEY_VARIABLE, "").strip(),
    )
