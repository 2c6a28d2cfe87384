"""`lepton demo`: run a use case through Airflow's public API, from nothing to a prediction, with live progress."""

from __future__ import annotations

import io
import os
import time
from typing import Any

from rich.console import Console

from lepton_tasks.cli.display import RunDisplay, headline
from lepton_tasks.cli.platform import start
from lepton_tasks.core.artifacts import ArtifactRef, parse_ref
from lepton_tasks.core.environment import load_environment, state_root, use_case_file
from lepton_tasks.core.errors import ConfigError, LeptonError, StageError
from lepton_tasks.core.store import ArtifactStore
from lepton_tasks.core.use_case_file import load_use_case
from lepton_tasks.deployment.airflow_api import AirflowClient, TaskState
from lepton_tasks.deployment.embedded import SERVICES
from lepton_tasks.deployment.embedded_services import AIRFLOW_USER, airflow_password
from lepton_tasks.stages.pipeline import STAGES
from lepton_tasks.tracking.registry import run_page

_POLL_SECONDS = 0.5
_LIMIT_SECONDS = 3600.0
_SHADES = " .:-=+*#%@"


class _CurrentStep:
    """Current step of the demo, for the error message."""

    step = "start"


def run_demo(name: str, console: Console) -> int:
    """Start services, run the use case `name` through Airflow, and predict; returns the exit status."""
    started = float(os.environ.get("LEPTON_DEMO_BEGAN") or time.time())
    current = _CurrentStep()
    try:
        accuracy = _demo(name, console, current)
    except LeptonError as error:
        print(f"demo: failed at {current.step}: {error}", flush=True)
        return 1
    except KeyboardInterrupt:
        print(f"demo: failed at {current.step}: interrupted; `make down` stops what was started", flush=True)
        return 1
    print(f"demo: ok accuracy={accuracy:.3f} seconds={time.time() - started:.0f}", flush=True)
    return 0


def _demo(name: str, console: Console, current: _CurrentStep) -> float:
    load_use_case(use_case_file(name))
    console.print("Starting the services on 127.0.0.1 (the first time takes longest)")
    start(SERVICES, console)
    current.step = "airflow"
    with AirflowClient(load_environment().airflow_url, AIRFLOW_USER, airflow_password(state_root())) as airflow:
        airflow.wait_for_dag(name)
        airflow.unpause(name)
        run_id = airflow.trigger(name)
        console.print(f"Airflow runs the Dag {name}, run {run_id}")
        with RunDisplay(console, name, [stage.name for stage in STAGES]) as display:
            refs = _follow(airflow, name, run_id, display, current)
    current.step = "predict"
    return _show(name, run_id, refs, console)


def _follow(
    airflow: AirflowClient, name: str, run_id: str, display: RunDisplay, current: _CurrentStep
) -> dict[str, ArtifactRef]:
    """Show the tasks until the run ends; returns the references of its stages."""
    refs: dict[str, ArtifactRef] = {}
    deadline = time.monotonic() + _LIMIT_SECONDS
    while time.monotonic() < deadline:
        state = airflow.run_state(name, run_id)  # before the tasks, so that their states are not older
        tasks = {task.task_id.rpartition(".")[2]: task for task in airflow.tasks(name, run_id)}
        for stage in STAGES:
            task = tasks.get(stage.name)
            if task is None or task.state is None or stage.produces in refs:
                continue
            if task.state == "failed":
                current.step = stage.name
                raise StageError(_reason(airflow, name, run_id, task))
            fact, shown = "", task.state
            if task.state == "success":
                refs[stage.produces] = ref = parse_ref(airflow.xcom(name, run_id, task.task_id))
                fact = headline(stage.name, ref.facts)
                shown = "reused" if _xcom(airflow, name, run_id, task, "reused") else shown
            display.show(stage.name, shown, task.seconds, fact)
        if state == "success":
            return refs
        if state == "failed":
            raise StageError(f"the run {run_id} failed.", where=name, fix="See its tasks in Airflow.")
        time.sleep(_POLL_SECONDS)
    raise StageError(f"the run {run_id} did not end within {_LIMIT_SECONDS:.0f} s.", where=name)


def _reason(airflow: AirflowClient, name: str, run_id: str, task: TaskState) -> str:
    error = _xcom(airflow, name, run_id, task, "error")
    return str(error) if error else f"the task {task.task_id} failed; its log in Airflow says why."


def _xcom(airflow: AirflowClient, name: str, run_id: str, task: TaskState, key: str) -> Any:
    """The task's XCom of this key, or None."""
    try:
        return airflow.xcom(name, run_id, task.task_id, key)
    except ConfigError:  # Airflow answers 404 for a key that was not set
        return None


def _show(name: str, run_id: str, refs: dict[str, ArtifactRef], console: Console) -> float:
    from lepton_tasks.core.access import own_key
    from lepton_tasks.serving.client import Client

    environment = load_environment()
    package = ArtifactStore(state_root()).open(refs["package"])
    image_bytes = (package / "example.png").read_bytes()
    with Client(environment.serving_url, api_key=own_key(state_root() / "serving")) as client:
        answer = client.predict(name, image_bytes)
    best = answer["predictions"][0]
    facts = refs["evaluation"].facts
    accuracy = float(facts["test_accuracy"] or 0.0)
    version, trained = refs["model_version"].facts, refs["checkpoint"].facts
    lines: list[tuple[str, Any]] = [
        ("prediction", f"{best['label']}  (probability {best['probability']:.3f})"),
        ("test accuracy", f"{accuracy:.4f}  on rows that training never saw"),
        ("Airflow", f"{environment.airflow_url}/dags/{name}/runs/{run_id}  (user admin)"),
        ("MLflow run", run_page(environment.tracking_url, trained)),
        ("model version", f"{version['name']} version {version['version']}, alias champion"),
        ("endpoint", f"{environment.serving_url}/v1/models/{name}/predict"),
        ("try it", f"{environment.serving_url}/docs"),
        ("stop", "make down"),
    ]
    console.print(
        f"\nAn image of the test split, sent to the endpoint:\n{as_text(image_bytes)}", highlight=False, markup=False
    )
    for key, value in lines:
        console.print(f"  {key:<15}{value}", highlight=False, markup=False, soft_wrap=True)
    return accuracy


def as_text(image_bytes: bytes, columns: int = 56) -> str:
    """Render an image as lines of characters, darker ones for brighter pixels."""
    import numpy as np
    from PIL import Image

    with Image.open(io.BytesIO(image_bytes)) as image:
        rows = max(1, round(columns * image.height / image.width / 2))  # a character is twice as high as wide
        grey = np.asarray(image.convert("L").resize((columns, rows)))
    shades = np.array(list(_SHADES))[grey.astype(int) * (len(_SHADES) - 1) // 255]
    return "\n".join("".join(row).rstrip() for row in shades)
