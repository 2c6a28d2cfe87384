"""Operator for one stage: reuse the cached result, or run the stage in a child process."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator, ParamsDict

from lepton_airflow.data_docs import page_path
from lepton_airflow.errors import airflow_error, skipped
from lepton_airflow.links import CheckLink, DataDocsLink, EndpointLink, MlflowRunLink
from lepton_airflow.process import StageProcess
from lepton_tasks.core.artifacts import ArtifactRef, parse_ref
from lepton_tasks.core.context import RunContext
from lepton_tasks.core.errors import DataQualityError, LeptonError
from lepton_tasks.core.use_case import UseCase
from lepton_tasks.core.use_case_file import load_use_case
from lepton_tasks.quality.report_files import CHECKS
from lepton_tasks.stages.pipeline import Stage, every_stage, stage_named
from lepton_tasks.stages.runner import fingerprint, plan_stage

if TYPE_CHECKING:
    from airflow.sdk import Context


class StageOperator(BaseOperator):
    """Runs one stage of a use case.

    Args:
        stage: The stage's name.
        use_case: Path of the YAML.
        overrides: Param of the Dag -> dotted key of the use case that it sets.
    """

    ui_color = "#e8f0fe"

    def __init__(self, *, stage: str, use_case: str, overrides: Mapping[str, str], **arguments: Any) -> None:
        super().__init__(**arguments)
        # Drop the copy of the Dag's params, which are available at run time anyway: Airflow validates them per task
        # when it serialises the Dag, 1.1 s of the 2 s that parsing 24 Dags took, every ten seconds.
        self.params = ParamsDict()
        self.stage = stage
        self.use_case = use_case
        self.overrides = dict(overrides)
        self.refs: list[ArtifactRef] = []
        self.report = ""  # path of the Data Docs page
        self._process: StageProcess | None = None
        default = stage_named(stage)
        links = [MlflowRunLink(), DataDocsLink()] if default.group != "data" else []
        links += [CheckLink()] if stage in CHECKS else []
        self.operator_extra_links = (*links, EndpointLink()) if default.deploys else tuple(links)

    def execute(self, context: Context) -> dict[str, Any]:
        """Run the stage, or reuse its earlier result; returns the reference as JSON values."""
        try:
            ref = self._reference(context)
        except LeptonError as error:
            self._log_links(context)
            context["ti"].xcom_push(key="error", value=str(error))
            raise airflow_error(error) from error
        self.refs.append(ref)
        for asset in self.outlets:
            context["outlet_events"][asset].extra = {"digest": ref.digest, **ref.facts}
        self.log.info("%s wrote %s", self.stage, ref.uri)
        for name, value in ref.facts.items():
            self.log.info("  %s: %s", name, f"{value:.4g}" if isinstance(value, float) else value)
        if ref.kind == "quality_report":
            self.report = page_path(self.dag_id, *ref.uri.split("/")[-2:], failed=False)
        self._log_links(context)
        return ref.model_dump()

    def on_kill(self) -> None:
        """End the stage's process and its descendants."""
        if self._process is not None:
            self._process.end()

    def _log_links(self, context: Context) -> None:
        for link in self.operator_extra_links:  # Airflow hides the buttons in the tab Details
            if url := link.get_link(self, ti_key=context["ti"]):
                self.log.info("  %s: %s", link.name, url)

    def _reference(self, context: Context) -> ArtifactRef:
        params = context["params"]
        file = Path(self.use_case)
        overrides = _changed(file, {key: params[name] for name, key in self.overrides.items()})
        use_case = load_use_case(file, overrides)
        stage = stage_named(self.stage, use_case)
        if stage.deploys and not use_case.deploy.enabled:
            raise skipped("Deployment is disabled for this run.")
        refs = self._inputs(stage, context)
        run_id = re.sub(r"[^A-Za-z0-9_.-]", "-", str(context["run_id"]))
        ctx = dataclasses.replace(RunContext.from_env(run_id), force=bool(params["force"]), stage=stage.name)
        if (ref := plan_stage(stage.name, use_case, ctx, refs)) is not None:
            self.log.info("Nothing it depends on has changed: %s is reused.", ref.uri)
            context["ti"].xcom_push(key="reused", value=True)
            return ref
        try:
            return self._run(file, overrides, ctx, refs)
        except DataQualityError:
            key = fingerprint(stage, use_case, ctx, refs)
            self.report = page_path(self.dag_id, stage.name, key, failed=True)
            raise

    def _inputs(self, stage: Stage, context: Context) -> dict[str, ArtifactRef]:
        producers = {s.produces: s for s in every_stage()}
        task_ids = {name: f"{producers[name].group}.{producers[name].name}" for name in stage.inputs}
        values = {name: context["ti"].xcom_pull(task_ids=task_id) for name, task_id in task_ids.items()}
        refs = {name: parse_ref(value) for name, value in values.items() if value is not None}
        self.refs.extend(refs.values())
        return refs

    def _run(
        self, file: Path, overrides: Mapping[str, Any], ctx: RunContext, refs: Mapping[str, ArtifactRef]
    ) -> ArtifactRef:
        self._process = StageProcess(self.stage, file, overrides, run_id=ctx.run_id, force=ctx.force)
        return self._process.run(refs, on_line=lambda line: self.log.info("%s", line))


def _changed(file: Path, values: Mapping[str, Any]) -> dict[str, Any]:
    """The values that differ from the YAML's own."""
    own: UseCase = load_use_case(file)
    return {key: value for key, value in values.items() if own.part(key)[key] != value}
