"""Redaction of the request log: server and package rules, applied before anything is written."""

from __future__ import annotations

import fnmatch
import hashlib
import logging
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson
import pydantic

from lepton_tasks.codecs.monitored_values import PREDICTION_FIELDS
from lepton_tasks.core.errors import ConfigError
from lepton_tasks.core.redaction import Redaction as Rule
from lepton_tasks.serving.access.secrets import secret_in

REDACT_FILE = "redact.json"  # in the server's state folder
SECRET_FILE = "redact.key"
REDACTED = "redacted"
"""Record key that lists the redacted columns."""
ANSWER = "(answer)"
"""Name of the prediction in that list."""

_DIGEST_BYTES = 8

_log = logging.getLogger("lepton.serving.redact")

_RULES = pydantic.TypeAdapter(dict[str, Rule])
_Change = Callable[[Any], Any]


class Redaction:
    """Redaction rules of a state folder; reloaded within a second, unchanged if the file disappears or is invalid.

    Args:
        home: The folder.

    Raises:
        ConfigError: the rules cannot be read.
    """

    def __init__(self, home: Path) -> None:
        self._path, self._secret_path = home / REDACT_FILE, home / SECRET_FILE
        self._seen = self._signature()
        # Replaced atomically: the event loop reads shares while the log's thread loads new rules.
        self._own: dict[str, Rule] = {} if self._seen is None else self._read()
        self._packaged: tuple[tuple[str, Rule], ...] = ()
        self._leaving: tuple[tuple[str, Rule], ...] = ()
        self._written = True
        self._plan = self._planned(self._secret())

    def share(self, model: str) -> float:
        """Fraction of a model's samples to log."""
        return self._plan.share(model)

    def hides(self, model: str) -> bool:
        """Whether a model's records need redaction."""
        return self._plan.hides(model)

    def refresh(self) -> None:
        """Reload the rules file if it has changed. Call before writing pending records."""
        if self._leaving:
            if self._written:  # all records from before the removal are written
                self._leaving = ()
                self._plan = self._new_plan()
            self._written = True
        elif self._plan.lacks_key:
            self._plan = self._new_plan()
        signature = self._signature()
        if signature == self._seen:
            return
        self._seen = signature
        if signature is None:
            _log.warning("%s is gone. Its rules stay until the server is started anew.", self._path)
            return
        try:
            self._own = self._read()
        except ConfigError as error:
            _log.error("%s The rules before it stay.", error)
            return
        self._plan = self._new_plan()

    def packaged(self, rules: Iterable[tuple[str, Rule]]) -> None:
        """Set the rules of loaded packages, by model, in addition to the file's.

        Removed rules apply until all pending records are written.
        """
        now = tuple(rules)
        if now != self._packaged:
            self._leaving = tuple(rule for rule in self._leaving + self._packaged if rule not in now)
            self._packaged = now
            self._written = False
            self._plan = self._new_plan()

    def _new_plan(self) -> _Plan:
        """Plan for the current rules. Without the hash key, values to be hashed are dropped."""
        try:
            return self._planned(self._secret())
        except ConfigError as error:  # e.g. the disk is full; rules must apply regardless
            _log.error("%s What is to be hashed is left out until it can.", error)
            return self._planned(None)

    def _planned(self, secret: bytes | None) -> _Plan:
        return _Plan(self._own, self._packaged + self._leaving, secret)

    def apply(self, model: str, record: dict[str, Any]) -> None:
        """Redact a record in place. Not idempotent: a hash would be hashed again."""
        plan = self._plan
        if not plan.hides(model):
            return
        hidden = plan.hide(model, record.get("values") or {})
        change = plan.change_of_answers(model)
        if change is not None:
            hidden.append(ANSWER)
            for field in PREDICTION_FIELDS:
                if field != "probability" and record.get(field) is not None:
                    record[field] = change(record[field])
        if hidden:
            record[REDACTED] = hidden
        if record.get("mean") is not None:  # even without `values`: the mean of a few numbers reveals them
            record["mean"] = None
        if record.get("std"):  # 0 stays: it identifies blank inputs
            record["std"] = None
        if record.get("error"):
            record["error"] = REDACTED  # messages quote the invalid input

    def _signature(self) -> tuple[int, int, int] | None:
        try:
            about = self._path.stat()
        except OSError:
            return None
        return about.st_mtime_ns, about.st_ino, about.st_size

    def _secret(self) -> bytes:
        """Hash key, if a rule needs one: unkeyed hashes would let anyone verify a guessed value."""
        rules = [*self._own.values(), *(rule for _, rule in self._packaged + self._leaving)]
        hashed = any(rule.hash or rule.answer == "hash" for rule in rules)
        try:
            return secret_in(self._secret_path, lambda: secrets.token_bytes(32)) if hashed else b""
        except OSError as error:
            raise ConfigError(f"it cannot be read: {error.strerror}.", where=str(self._secret_path)) from error

    def _read(self) -> dict[str, Rule]:
        try:
            return _RULES.validate_json(self._path.read_bytes())
        except OSError as error:
            raise ConfigError(f"it cannot be read: {error.strerror}.", where=str(self._path)) from error
        except pydantic.ValidationError as error:
            fault = error.errors(include_url=False)[0]
            at = ".".join(str(part) for part in fault["loc"])
            raise ConfigError(f"{at + ': ' if at else ''}{fault['msg']}.", where=str(self._path)) from error


class _Plan:
    """Rules, with cached decisions per model and column."""

    def __init__(self, rules: Mapping[str, Rule], packaged: Sequence[tuple[str, Rule]], secret: bytes | None) -> None:
        self._rules, self._packaged, self._secret = rules, packaged, secret or b""
        self.lacks_key = secret is None
        self._hash: _Change = _dropped if secret is None else self._hashed
        self._of: dict[str, tuple[Rule, ...]] = {}
        self._shares: dict[str, float] = {}
        self._hides: dict[str, bool] = {}
        self._columns: dict[tuple[str, str], _Change | None] = {}
        self._answers: dict[str, _Change | None] = {}

    def rules_of(self, model: str) -> tuple[Rule, ...]:
        """All rules whose patterns match."""
        if model not in self._of:
            own = [rule for like, rule in self._rules.items() if fnmatch.fnmatchcase(model, like)]
            self._of[model] = (*own, *(rule for name, rule in self._packaged if name == model))
        return self._of[model]

    def share(self, model: str) -> float:
        """Smallest share of the rules."""
        if model not in self._shares:
            self._shares[model] = min((rule.sample for rule in self.rules_of(model)), default=1.0)
        return self._shares[model]

    def hides(self, model: str) -> bool:
        """Whether any rule redacts something."""
        if model not in self._hides:
            self._hides[model] = any(rule.hides for rule in self.rules_of(model))
        return self._hides[model]

    def hide(self, model: str, values: dict[str, Any]) -> list[str]:
        """Redact the values in place; return the redacted names."""
        hidden = []
        for name, value in list(values.items()):
            key = model, name
            if key not in self._columns:
                self._columns[key] = self._chosen(self.rules_of(model), name)
            if (change := self._columns[key]) is None:
                continue
            hidden.append(name)
            if change is _dropped:
                del values[name]
            elif value is not None:
                values[name] = change(value)
        return hidden

    def change_of_answers(self, model: str) -> _Change | None:
        """Redaction of predicted labels and numbers; the strictest rule wins."""
        if model not in self._answers:
            wanted = {rule.answer for rule in self.rules_of(model)}
            self._answers[model] = _dropped if "drop" in wanted else self._hash if "hash" in wanted else None
        return self._answers[model]

    def _hashed(self, value: Any) -> str:
        """Keyed hash of a JSON value."""
        return hashlib.blake2b(orjson.dumps(value), key=self._secret, digest_size=_DIGEST_BYTES).hexdigest()

    def _chosen(self, rules: tuple[Rule, ...], column: str) -> _Change | None:
        """Redaction of a column's values; the strictest rule wins."""

        def named(patterns: Iterable[str]) -> list[str]:
            return [pattern for pattern in patterns if fnmatch.fnmatchcase(column, pattern)]

        if any(named(rule.drop) or (rule.keep is not None and not named(rule.keep)) for rule in rules):
            return _dropped
        if any(named(rule.hash) for rule in rules):
            return self._hash
        lengths = [rule.truncate[pattern] for rule in rules for pattern in named(rule.truncate)]
        if not lengths:
            return None
        shortest = min(lengths)
        return lambda value: str(value)[:shortest]


def _dropped(_: Any) -> None:
    """Drop the value."""
