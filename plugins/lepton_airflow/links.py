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
        """URL of the run's page; empty without a run. Called in the task's process, after it ran."""
        return run_page(load_environment().tracking_url, _facts(operator))


class DataDocsLink(BaseOperatorLink):
    """Opens the Data Docs in the artifacts of the task's MLflow run."""

    name = "Data Docs"

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        """URL of the Data Docs of the features, with the other checks next to them; empty without a run."""
        page = run_page(load_environment().tracking_url, _facts(operator))
        return f"{page}/artifacts/quality/features/index.html" if page else ""


class CheckLink(BaseOperatorLink):
    """Opens the Data Docs of the task's own check, passed or failed."""

    name = "Data Docs"

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        """URL of the check's page, served by Airflow; empty without a report."""
        path = getattr(operator, "report", "")
        return f"{conf.get('api', 'base_url', fallback='').rstrip('/')}{path}" if path else ""


class EndpointLink(BaseOperatorLink):
    """Opens the page to try the deployed model."""

    name = "Endpoint"

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        """URL of the server's OpenAPI page; empty without an endpoint."""
        return f"{load_environment().serving_url}/docs" if "url" in _facts(operator) else ""


def _facts(operator: BaseOperator) -> dict[str, object]:
    """Facts of the task's inputs and output; the output's take precedence."""
    return {name: value for ref in getattr(operator, "refs", ()) for name, value in ref.facts.items()}
