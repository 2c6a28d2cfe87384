"""Convert Lepton's errors to Airflow's exceptions; the only module that knows both."""

from __future__ import annotations

from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException

from lepton_tasks.core.errors import LeptonError


def airflow_error(error: LeptonError) -> AirflowException:
    """An exception that uses the task's retries if `error` may pass by itself, and one that fails the task if not."""
    return AirflowException(str(error)) if error.retryable else AirflowFailException(str(error))


def skipped(reason: str) -> AirflowSkipException:
    """An exception that marks the task as skipped."""
    return AirflowSkipException(reason)
