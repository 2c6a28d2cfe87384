"""Error classes with what went wrong, where, and how to fix it."""

from __future__ import annotations

from typing import Any


class LeptonError(Exception):
    """Base class of errors with what, where and fix.

    Args:
        what: One sentence that names the fault and the value.
        where: File, key, URL or stage of the fault.
        fix: What the user can do about it.

    ``retryable``: whether the same call may succeed later without any change by the user.
    """

    retryable = False

    def __init__(self, what: str, *, where: str = "", fix: str = "") -> None:
        self.what, self.where, self.fix = what, where, fix
        super().__init__(what)

    def __str__(self) -> str:
        text = f"{self.where}: {self.what}" if self.where else self.what
        return f"{text} {self.fix}" if self.fix else text

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.what, self.where, self.fix)

    def to_dict(self) -> dict[str, str]:
        """The error as JSON values; inverse of `error_from_dict`."""
        return {"type": type(self).__name__, "what": self.what, "where": self.where, "fix": self.fix}


class ConfigError(LeptonError, ValueError):
    """A use case, an environment or an option is wrong."""


class DataError(LeptonError, ValueError):
    """Input data cannot be used."""


class DataQualityError(DataError):
    """A critical expectation on the data failed."""


class GateError(LeptonError, RuntimeError):
    """A candidate model is not good enough to be promoted."""


class ArtifactError(LeptonError, OSError):
    """An artifact is missing, half-written or altered."""


class UnavailableError(LeptonError, ConnectionError):
    """A service did not answer; a later attempt may succeed."""

    retryable = True


class StageError(LeptonError, RuntimeError):
    """A stage's process ended without a result (killed, crashed interpreter); a later attempt may succeed."""

    retryable = True


def _rebuild(cls: type[LeptonError], what: str, where: str, fix: str) -> LeptonError:
    return cls(what, where=where, fix=fix)


_KINDS: dict[str, type[LeptonError]] = {
    cls.__name__: cls
    for cls in (
        LeptonError,
        ConfigError,
        DataError,
        DataQualityError,
        GateError,
        ArtifactError,
        UnavailableError,
        StageError,
    )
}


def error_from_dict(value: dict[str, str]) -> LeptonError:
    """The error that `LeptonError.to_dict` described; an unknown type becomes a plain `LeptonError`."""
    cls = _KINDS.get(value.get("type", ""), LeptonError)
    return cls(value.get("what", ""), where=value.get("where", ""), fix=value.get("fix", ""))
