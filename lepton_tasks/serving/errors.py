"""Map errors to HTTP statuses, and define the errors that only a server raises."""

from __future__ import annotations

from typing import Any

from starlette.exceptions import HTTPException

from lepton_tasks.core.errors import ArtifactError, ConfigError, DataError, LeptonError, UnavailableError


class UnknownModelError(LeptonError, LookupError):
    """Nothing is served under this name or version."""


class ConflictError(LeptonError, RuntimeError):
    """The request does not fit what is served now, e.g. there is nothing to roll back to."""


class TooLargeError(DataError):
    """The request is larger than the server takes."""


class MediaTypeError(DataError):
    """The request's content type is none the server reads."""


class DeadlineError(UnavailableError):
    """The time in which the caller wants the answer is over."""


class NoDecoderError(LeptonError, RuntimeError):
    """The server lacks what decodes the request."""


class ForbiddenError(LeptonError, PermissionError):
    """The admin token or the API key is missing or wrong."""


class NotAllowedError(LeptonError, PermissionError):
    """The API key is a good one, but not for this model."""


class TooManyError(LeptonError, RuntimeError):
    """The API key has used up its rate.

    Args:
        what: One sentence.
        where: Whose rate.
        fix: The way out.
        seconds: Seconds until the next request is taken.
    """

    retryable = True

    def __init__(self, what: str, *, where: str = "", fix: str = "", seconds: float = 1.0) -> None:
        super().__init__(what, where=where, fix=fix)
        self.seconds = seconds

    def __reduce__(self) -> tuple[Any, ...]:
        return (*super().__reduce__(), {"seconds": self.seconds})


# The first class that fits counts, so a subclass stands before its base.
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
"""The status, told to nobody, of a request whose client went away."""

_LONGEST_REASON, _ENDING = 2000, 300  # characters; errors quote what was sent, and their end says the way out


def in_words(error: Exception) -> str:
    """The text of an error as any JSON writer takes it (no half characters), and not longer than people read."""
    text = str(error)
    if len(text) > _LONGEST_REASON:
        text = f"{text[: _LONGEST_REASON - _ENDING]} [...] {text[-_ENDING:]}"
    return text.encode("utf-8", "replace").decode()


def reason_of(error: Exception) -> str:
    """Why a request failed, for the log: in words if the error is one of ours."""
    return in_words(error) if isinstance(error, LeptonError) else type(error).__name__


def status_of(error: Exception) -> int:
    """The HTTP status that tells the caller whose fault it was."""
    if isinstance(error, HTTPException):
        return error.status_code
    return next((status for kind, status in _STATUS if isinstance(error, kind)), 500)
