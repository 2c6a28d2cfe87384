"""Which HTTP status an error becomes, and the errors only a server knows."""

from __future__ import annotations

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


class ForbiddenError(LeptonError, PermissionError):
    """The admin token is missing or wrong."""


# The first class that fits counts, so a subclass stands before its base.
_STATUS: tuple[tuple[type[Exception], int], ...] = (
    (UnknownModelError, 404),
    (ConflictError, 409),
    (TooLargeError, 413),
    (MediaTypeError, 415),
    (ForbiddenError, 401),
    (DataError, 400),
    (ConfigError, 422),
    (ArtifactError, 422),
    (DeadlineError, 504),
    (UnavailableError, 503),
)


def status_of(error: Exception) -> int:
    """The HTTP status that tells the caller whose fault it was."""
    if isinstance(error, HTTPException):
        return error.status_code
    return next((status for kind, status in _STATUS if isinstance(error, kind)), 500)
