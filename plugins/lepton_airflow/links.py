"""Extra links of a task: Data Docs, MLflow run, endpoint documentation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow.sdk import BaseOperatorLink
from airflow.sdk.configuration import conf

from lepton_tasks.core.environment import load_environment
from lepton_tasks.tracking.registry import run_page

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator
    from airflow.sdk.types import TaskInstanceKey


class MlflowRunLink(BaseOperatorLink):
    """Opens the MLflow run that the task wrote to."""

    name = "MLflow run"

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        """The run's page; an empty string where the task knew no run. Called in the task's process, after it ran."""
        return run_page(load_environment().tracking_url, _facts(operator))


class DataDocsLink(BaseOperatorLink):
    """Opens what the data checks found, among the files of the task's MLflow run."""

    name = "Data Docs"

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        """The page of the features' check, the other checks beside it; an empty string where there is no run."""
        page = run_page(load_environment().tracking_url, _facts(operator))
        return f"{page}/artifacts/quality/features/index.html" if page else ""


class CheckLink(BaseOperatorLink):
    """Opens what the task's own check of the data found, whether they passed or not."""

    name = "Data Docs"

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        """The page of the check, served by Airflow; an empty string where the task did not come to a report."""
        path = getattr(operator, "report", "")
        return f"{conf.get('api', 'base_url', fallback='').rstrip('/')}{path}" if path else ""


class EndpointLink(BaseOperatorLink):
    """Opens the page on which the deployed model can be tried."""

    name = "Endpoint"

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        """The server's OpenAPI page; an empty string before there is an endpoint."""
        return f"{load_environment().serving_url}/docs" if "url" in _facts(operator) else ""


def _facts(operator: BaseOperator) -> dict[str, object]:
    """The facts of what the task was given and of what it made, the latter winning."""
    return {name: value for ref in getattr(operator, "seen", ()) for name, value in ref.facts.items()}
