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
from lepton_tasks.serving.access.keys import KEYS_FILE, LOGS, MOST_KEYS, Key, read_keys
from lepton_tasks.serving.access.rates import Rates
from lepton_tasks.serving.errors import ForbiddenError, NotAllowedError, TooManyError, status_of

RATES_FILE = "keys.rates"  # in the server's state folder
REQUIRED_FILE = "keys.required"  # there, too

_REQUIRED = """\
This server has had API keys, so it lets nobody in without one, even if keys.json is gone.
For a server without keys, delete keys.json and this file, and restart it.
"""

_LOOK_EVERY = 1.0  # seconds
_MOST_NAMES = 1000  # model names are the caller's own text, so not all of them are remembered

_log = logging.getLogger("lepton.serving.auth")


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class _Known:
    """A key as `Guard.admit` wants it."""

    key: Key
    id: str
    expires: float
    interval: float  # seconds between two requests; 0 without a rate
    allowed: dict[str, bool]  # by model


class Guard:
    """Lets requests in, or says why not. A changed file counts within a second.

    Without a file, and without a key from elsewhere, everybody may ask: see `check_address`. A file that goes takes its
    keys with it, now and, by `required`, after a restart: nobody is let in, but for the stages and the key that was
    given. With one that breaks while the server runs, the keys known until then stay good.

    Args:
        path: The file of keys.
        required: File that is made once there are keys; while it is there, nobody is let in without one.
        rates: File in which the server's processes share what each key has used; without it, each counts for itself.
        stages: The key of the stages that share the state folder.
        given: A further key for all models, from the server's environment.
        clock: Seconds that never go back, the same for all processes.
        wall: Seconds since the epoch, for the keys' expiry.

    Attributes:
        refused: How many requests were refused, by HTTP status.

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
        self._rates = Rates(rates, MOST_KEYS)
        self._own = _known(
            Key(name=name, sha256=sha256(key.encode()).hexdigest(), slot=0, models=models)
            for name, key, models in (("stages", stages, ("*", f"{LOGS}*")), ("environment", given, ("*",)))
            if key
        )
        closed = given or (required is not None and required.exists())
        self._keys: dict[bytes, _Known] | None = self._own if closed else None
        self._seen: tuple[int, ...] | None = None
        self._look_again = clock() + _LOOK_EVERY
        self._take(self._signature())
        if self._keys is self._own and not given:
            self._warn_of_loss()

    @property
    def open(self) -> bool:
        """Whether everybody may ask, as there are no keys."""
        return self._keys is None

    def admit(self, authorization: bytes | str | None, model: str) -> str:
        """The id of the key that a request carries; empty where there are no keys.

        Args:
            authorization: The header, ``Bearer KEY``.
            model: What is asked for; empty for what belongs to no model, which any good key may ask.

        Raises:
            ForbiddenError: there is no key, or none that is known and not expired (401).
            NotAllowedError: the key is for other models (403).
            TooManyError: the key has used up its rate (429).
        """
        if self._keys is None and self._clock() < self._look_again:
            return ""
        try:
            return self._admit(authorization, model)
        except LeptonError as error:
            self.refused[status_of(error)] += 1
            raise

    def _admit(self, authorization: bytes | str | None, model: str) -> str:
        now = self._clock()
        if now >= self._look_again:
            self._look(now)
        if self._keys is None:
            return ""
        raw = authorization.encode("latin-1", "replace") if isinstance(authorization, str) else authorization
        if not raw or raw[:7].lower() != b"bearer ":
            raise ForbiddenError("no API key was sent.", fix="Send the header 'Authorization: Bearer KEY'.")
        # Looked up by its hash: how long that takes tells of the hash only, from which nobody comes back to a key.
        known = self._keys.get(sha256(raw[7:].strip()).digest())
        if known is None:
            raise ForbiddenError("the API key is unknown.", fix="Create one with `lepton key add NAME`.")
        if self._wall() >= known.expires:
            raise ForbiddenError(
                f"the API key {known.id} has expired.", fix="Create another with `lepton key add NAME`."
            )
        if model and not _may_ask(known, model):
            raise NotAllowedError(f"the API key {known.id} is not for {model!r}.")
        if known.interval:
            wait = self._rates.take(known.key.slot, known.interval, known.key.most, now)
            if wait > 0:
                raise TooManyError(
                    f"more than {known.key.rate:g} requests a second.", where=known.id, fix="Wait.", seconds=wait
                )
        return known.id

    def _look(self, now: float) -> None:
        self._look_again = now + _LOOK_EVERY
        signature = self._signature()
        if signature == self._seen:
            return
        try:
            self._take(signature)
        except ConfigError as error:
            self._seen = signature  # said once, not every second
            _log.error("%s The keys known until now stay good.", error)

    def _signature(self) -> tuple[int, ...] | None:
        """What changes whenever the file does; None without one."""
        try:
            about = self._path.stat()
        except OSError:
            return None
        return about.st_mtime_ns, about.st_ino, about.st_size, about.st_mode

    def _take(self, signature: tuple[int, ...] | None) -> None:
        try:
            keys = read_keys(self._path)
        except FileNotFoundError:
            if self._seen is not None:
                self._keys = self._own
                self._warn_of_loss()
        else:
            self._keys = _known(keys) | self._own
            if self._required is not None and not self._required.exists():
                self._required.write_text(_REQUIRED)
            _log.info("%d API keys", len(keys))
        self._seen = signature

    def _warn_of_loss(self) -> None:
        fix = "`lepton key add NAME` makes a new one"
        if self._required is not None:
            fix += f"; for a server without keys, delete {self._required}, too, and restart"
        _log.error("%s is gone, and its keys with it: nobody is let in with them. %s.", self._path, fix)


def _known(keys: Iterable[Key]) -> dict[bytes, _Known]:
    """Keys by the sha256 of what callers send."""
    return {
        bytes.fromhex(key.sha256): _Known(
            key=key,
            id=key.id,
            expires=math.inf if key.expires is None else key.expires,
            interval=1 / key.rate if key.rate else 0.0,
            allowed={},
        )
        for key in keys
    }


def _may_ask(known: _Known, model: str) -> bool:
    answer = known.allowed.get(model)
    if answer is None:
        if len(known.allowed) >= _MOST_NAMES:
            known.allowed.clear()
        answer = known.allowed[model] = known.key.may_ask(model)
    return answer


def check_address(host: str, guard: Guard, *, insecure: bool = False) -> None:
    """Refuse to listen where other machines can ask, if everybody may.

    Args:
        host: The address to listen on.
        guard: What lets requests in.
        insecure: Whether that is wanted.

    Raises:
        ConfigError: it is not wanted.
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
        keys: The file of keys, if it is not the folder's.

    Raises:
        ConfigError: the file cannot be used, or was named and is missing.
    """
    if keys is not None and not keys.is_file():
        raise ConfigError("there is no such file.", where=f"--keys {keys}", fix="Create it with `lepton key add NAME`.")
    return Guard(
        keys or home / KEYS_FILE,
        required=None if keys else home / REQUIRED_FILE,  # if a named file is missing, the server does not start
        rates=home / RATES_FILE,
        stages=stage_key(token),
        given=environment.get(KEY_VARIABLE, "").strip(),
    )
