"""Convert Lepton's errors to Airflow's exceptions; the only module that knows both."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowRuntimeError, AirflowSkipException

from lepton_tasks.core.errors import LeptonError, UnavailableError


def airflow_error(error: LeptonError) -> AirflowException:
    """An exception that uses the task's retries if `error` may pass by itself, and one that fails the task if not."""
    return AirflowException(str(error)) if error.retryable else AirflowFailException(str(error))


def skipped(reason: str) -> AirflowSkipException:
    """An exception that marks the task as skipped."""
    return AirflowSkipException(reason)


@contextmanager
def asking_airflow(what: str, *, fix: str) -> Iterator[None]:
    """Raise `UnavailableError` that `what` failed, where Airflow's API refuses or does not answer."""
    try:
        yield
    except AirflowRuntimeError as error:
        raise UnavailableError(f"{what}: {error}.", where="Airflow", fix=fix) from error
