"""Conversion between Lepton's errors and Airflow's exceptions."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowRuntimeError, AirflowSkipException

from lepton_tasks.core.errors import LeptonError, UnavailableError


def airflow_error(error: LeptonError) -> AirflowException:
    """Airflow's exception for `error`: it allows retries if `error` is retryable, and otherwise fails the task."""
    return AirflowException(str(error)) if error.retryable else AirflowFailException(str(error))


def skipped(reason: str) -> AirflowSkipException:
    """Airflow's exception that marks the task as skipped."""
    return AirflowSkipException(reason)


@contextmanager
def airflow_api_errors(what: str, *, fix: str) -> Iterator[None]:
    """Convert errors of Airflow's API into an `UnavailableError` with the message `what`."""
    try:
        yield
    except AirflowRuntimeError as error:
        raise UnavailableError(f"{what}: {error}.", where="Airflow", fix=fix) from error
