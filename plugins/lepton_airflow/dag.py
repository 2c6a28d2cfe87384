"""Build a Dag from a use case's YAML. A test ensures that parsing imports nothing heavy."""

from __future__ import annotations

import datetime as dt
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from airflow.sdk import DAG, Asset, CronTriggerTimetable, Param, TaskGroup
from croniter import croniter

from lepton_airflow.stage_operator import StageOperator
from lepton_tasks.core.errors import ConfigError
from lepton_tasks.core.train_settings import Train
from lepton_tasks.core.use_case import UseCase
from lepton_tasks.core.use_case_file import load_use_case
from lepton_tasks.stages.pipeline import stages_of

# Param of the trigger trigger_form -> key of the use case.
OVERRIDES = {
    "epochs": "train.epochs",
    "learning_rate": "train.learning_rate",
    "devices": "train.devices",
    "data_path": "data.source.params.path",
    "deploy": "deploy.enabled",
}

_GROUPS = {
    "data": "Ingest, check, clean, split and normalise the data",
    "training": "Train and evaluate the model; apply the gate",
    "release": "Convert, register, deploy and monitor the model",
}

# Stage -> kind of its asset, ``lepton://<kind>/<use case>``, which can trigger other Dags.
_ASSET_KINDS = {"transform": "datasets", "register": "models", "deploy": "endpoints"}


def build_dag(path: Path, use_case: UseCase | None = None) -> DAG:
    """Build a use case's Dag; reads `path` without `use_case`. Raises `ConfigError` with file, key and value."""
    use_case = use_case or load_use_case(path)
    schedule = _schedule(use_case, path)
    with DAG(
        dag_id=use_case.name,
        dag_display_name=use_case.title or use_case.name,
        description=use_case.title or None,
        doc_md=f"## {use_case.title or use_case.name}\n\n{use_case.description}\n",
        schedule=schedule,
        # No start date: with one, the last missed run starts when the Dag is first unpaused.
        catchup=False,
        max_active_runs=1,
        auto_register=False,  # Dag files register their Dags explicitly
        params=trigger_form(use_case),
        tags=["lepton", *(spec.name for spec in (use_case.task, use_case.model) if spec)],
        default_args={"owner": "lepton", "retry_delay": dt.timedelta(seconds=5), "retry_exponential_backoff": 3},
    ) as dag:
        stages = stages_of(use_case)
        used = {stage.group for stage in stages}
        groups = {name: TaskGroup(name, tooltip=tooltip) for name, tooltip in _GROUPS.items() if name in used}
        previous: StageOperator | None = None
        for stage in stages:
            task = StageOperator(
                task_id=stage.name,
                stage=stage.name,
                use_case=str(path),
                overrides={p: key for p, key in OVERRIDES.items() if p in dag.params},
                task_group=groups[stage.group],
                retries=stage.retries,
                outlets=[_asset(use_case, _ASSET_KINDS[stage.name])] if stage.name in _ASSET_KINDS else [],
            )
            if previous is not None:
                previous >> task
            previous = task
    return dag


def trigger_form(use_case: UseCase) -> dict[str, Param]:
    """Fields of the trigger trigger_form: typed and bounded, with the YAML's values as defaults."""
    params: dict[str, Param] = {}
    if use_case.learns:
        training = _training_schema()
        for name, title in (("epochs", "Epochs"), ("learning_rate", "Learning rate"), ("devices", "Devices")):
            params[name] = _param(getattr(use_case.train, name), training[name], title=title)
    if "path" in use_case.data.source.params:
        params["data_path"] = Param(
            str(use_case.data.source.params["path"]),
            type="string",
            minLength=1,
            title="Data path",
            description="Path of the source's data; relative to the data root (LEPTON_DATA).",
        )
    if use_case.learns:
        params["deploy"] = Param(
            use_case.deploy.enabled,
            type="boolean",
            title="Deploy",
            description="Serve the model if it passes the gate. Otherwise, the run ends with a registered version.",
        )
    params["force"] = Param(
        False,
        type="boolean",
        title="Run every stage",
        description="Also run stages whose code, settings and inputs have not changed since their last run.",
    )
    return params


@functools.cache
def _training_schema() -> dict[str, Any]:
    properties: dict[str, Any] = Train.model_json_schema()["properties"]
    return properties


def _param(value: Any, schema: Mapping[str, Any], *, title: str) -> Param:
    keys = ("type", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "description")
    return Param(value, **({k: schema[k] for k in keys if k in schema} | {"title": title}))


def checked_cron(cron: str, path: Path, key: str) -> str:
    """Validate the cron expression of a key; raises `ConfigError` if it is invalid."""
    if not croniter.is_valid(cron):
        raise ConfigError(f"{cron!r} is not a cron expression.", where=f"{path.name}: {key}")
    return cron


def _schedule(use_case: UseCase, path: Path) -> Any:
    """Convert the schedule for Airflow, which would report errors only after reading the whole Dag file."""
    if use_case.schedule is None:
        return None
    if (cron := use_case.schedule.cron) is not None:
        # Airflow takes `run_immediately=False` for a tenth of the interval, in which the last missed run would start.
        return CronTriggerTimetable(
            checked_cron(cron, path, "schedule.cron"), timezone="UTC", run_immediately=dt.timedelta(0)
        )
    try:
        return [Asset(uri) for uri in use_case.schedule.assets]
    except ValueError as error:
        raise ConfigError(f"{error}.", where=f"{path.name}: schedule.assets") from error


def _asset(use_case: UseCase, kind: str) -> Asset:
    return Asset(f"lepton://{kind}/{use_case.name}", group="lepton")
