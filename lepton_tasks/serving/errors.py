"""Map errors to HTTP statuses, and define the errors that only a server raises."""

from __future__ import annotations

from typing import Any

from starlette.exceptions import HTTPException

from lepton_tasks.core.errors import ArtifactError, ConfigError, DataError, LeptonError, UnavailableError


class UnknownModelError(LeptonError, LookupError):
    """There is no such model or version."""


class ConflictError(LeptonError, RuntimeError):
    """The request conflicts with the current state, e.g. there is nothing to roll back to."""


class TooLargeError(DataError):
    """The request exceeds a size limit."""


class MediaTypeError(DataError):
    """The request's content type is not supported."""


class DeadlineError(UnavailableError):
    """The request's deadline has passed."""


class NoDecoderError(LeptonError, RuntimeError):
    """The server has no decoder for the request."""


class ForbiddenError(LeptonError, PermissionError):
    """The admin token or the API key is missing or wrong."""


class NotAllowedError(LeptonError, PermissionError):
    """The API key is valid, but not for this model."""


class TooManyError(LeptonError, RuntimeError):
    """The rate limit of the API key is exceeded.

    Args:
        what: One sentence.
        where: Id of the key.
        fix: What to do.
        seconds: Seconds until the next request is allowed.
    """

    retryable = True

    def __init__(self, what: str, *, where: str = "", fix: str = "", seconds: float = 1.0) -> None:
        super().__init__(what, where=where, fix=fix)
        self.seconds = seconds

    def __reduce__(self) -> tuple[Any, ...]:
        return (*super().__reduce__(), {"seconds": self.seconds})


# The first match counts, so subclasses come before their base.
_STATUS: tuple[tuple[type[Exception], int], ...] = (
    (UnknownModelError, 404),
    (ConflictError, 409),
    (TooLargeError, 413),
    (MediaTypeError, 415),
    (ForbiddenError, 401),
    (NotAllowedError, 403),
    (TooManyError, 429),
    (DataError, 400),
    (NoDecoderError, 501),
    (ConfigError, 422),
    (ArtifactError, 422),
    (DeadlineError, 504),
    (UnavailableError, 503),
)


CLIENT_GONE = 499
"""Internal status of a request whose client has disconnected."""

_MAX_REASON, _ENDING = 2000, 300  # characters; messages quote input, and end with the fix


def in_words(error: Exception) -> str:
    """The message of an error, shortened, and without lone surrogates, which JSON serialisers reject."""
    text = str(error)
    if len(text) > _MAX_REASON:
        text = f"{text[: _MAX_REASON - _ENDING]} [...] {text[-_ENDING:]}"
    return text.encode("utf-8", "replace").decode()


def reason_of(error: Exception) -> str:
    """Why a request failed, for the log: the message of a `LeptonError`, else the class name."""
    return in_words(error) if isinstance(error, LeptonError) else type(error).__name__


def status_of(error: Exception) -> int:
    """The HTTP status of an error."""
    if isinstance(error, HTTPException):
        return error.status_code
    return next((status for kind, status in _STATUS if isinstance(error, kind)), 500)
