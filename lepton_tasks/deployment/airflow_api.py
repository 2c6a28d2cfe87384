"""Client of Airflow's REST API: trigger runs, poll their state, read task results."""

from __future__ import annotations

import dataclasses
import datetime as dt
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any
from urllib.parse import quote

import httpx

from lepton_tasks.core.errors import ConfigError, LeptonError, UnavailableError


@dataclasses.dataclass(frozen=True)
class TaskState:
    """One task of a run. `state` is Airflow's task state; None before the task is scheduled."""

    task_id: str
    state: str | None
    start: dt.datetime | None
    end: dt.datetime | None
    tries: int

    @property
    def seconds(self) -> float | None:
        """Wall time from start to end, or until now while it runs; None before the start."""
        if self.start is None:
            return None
        return ((self.end or dt.datetime.now(dt.UTC)) - self.start).total_seconds()


class AirflowClient:
    """Airflow's REST API v2, logged in as one user; a context manager.

    Args:
        url: The API server, e.g. ``http://127.0.0.1:8080``.
        user: User name.
        password: Password.
        timeout: Seconds per request.

    Raises:
        UnavailableError: Airflow does not respond; raised by every method.
    """

    def __init__(self, url: str, user: str, password: str, *, timeout: float = 30.0) -> None:
        self.url = url.rstrip("/")
        # No proxies from the environment: Airflow is a local service.
        self._http = httpx.Client(base_url=self.url, timeout=timeout, trust_env=False)
        try:
            token = self._call("POST", "/auth/token", {"username": user, "password": password})["access_token"]
        except BaseException:
            self._http.close()
            raise
        self._http.headers["Authorization"] = f"Bearer {token}"

    def __enter__(self) -> AirflowClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    def wait_for_dag(self, dag_id: str, *, timeout: float = 60.0) -> None:
        """Wait until Airflow has parsed the Dag; raises `ConfigError` with the import errors on timeout."""
        deadline = time.monotonic() + timeout
        while not self._exists(dag_id):
            if time.monotonic() > deadline:
                errors = "\n".join(f"{e['filename']}: {e['stack_trace']}" for e in self.import_errors())
                raise ConfigError(
                    f"Airflow found no Dag {dag_id!r} within {timeout:.0f} s.",
                    where=self.url,
                    fix=f"Its import errors:\n{errors}" if errors else "It reads configs/use_cases/*.yaml.",
                )
            time.sleep(0.5)

    def unpause(self, dag_id: str) -> None:
        """Let the scheduler run the Dag."""
        self._call("PATCH", f"/api/v2/dags/{_id(dag_id)}?update_mask=is_paused", {"is_paused": False})

    def trigger(self, dag_id: str, conf: Mapping[str, Any] | None = None) -> str:
        """Start a run with the given Params; returns its run id. Raises `ConfigError` if a Param is invalid."""
        body = {"logical_date": None, "conf": dict(conf or {})}
        return str(self._call("POST", f"/api/v2/dags/{_id(dag_id)}/dagRuns", body)["dag_run_id"])

    def run_state(self, dag_id: str, run_id: str) -> str:
        """``queued``, ``running``, ``success`` or ``failed``."""
        return str(self._call("GET", _run(dag_id, run_id))["state"])

    def is_active(self, dag_id: str) -> bool:
        """Whether a run of the Dag is queued or running."""
        path = f"/api/v2/dags/{_id(dag_id)}/dagRuns?state=queued&state=running&limit=1"
        return bool(self._call("GET", path)["dag_runs"])

    def tasks(self, dag_id: str, run_id: str) -> list[TaskState]:
        """All tasks of the run by start time."""
        found = self._call("GET", f"{_run(dag_id, run_id)}/taskInstances?limit=1000")["task_instances"]
        states = [
            TaskState(t["task_id"], t["state"], _time(t["start_date"]), _time(t["end_date"]), t["try_number"])
            for t in found
        ]
        return sorted(states, key=lambda t: (t.start is None, t.start or dt.datetime.min))

    def xcom(self, dag_id: str, run_id: str, task_id: str, key: str = "return_value") -> Any:
        """An XCom value of a task; by default its return value (for a stage, its artifact reference as JSON)."""
        path = f"{_task(dag_id, run_id, task_id)}/xcomEntries/{_id(key)}?deserialize=true"
        return self._call("GET", path)["value"]

    def log(self, dag_id: str, run_id: str, task_id: str, *, attempt: int = 1) -> str:
        """The log lines of one attempt of a task, errors last."""
        path = f"{_task(dag_id, run_id, task_id)}/logs/{attempt}?full_content=true"
        lines = []
        for line in self._call("GET", path)["content"]:
            lines.append(str(line.get("event", "")))
            lines += [f"{fault['exc_type']}: {fault['exc_value']}" for fault in line.get("error_detail") or ()]
        return "\n".join(lines)

    def set_task_state(self, dag_id: str, run_id: str, task_id: str, state: str) -> None:
        """Set the state of a task, as in Airflow's UI; a running task set to ``failed`` is killed."""
        self._call("PATCH", _task(dag_id, run_id, task_id), {"new_state": state})

    def import_errors(self) -> list[dict[str, Any]]:
        """Files that failed to import: ``filename``, ``stack_trace`` and ``timestamp`` of each."""
        return list(self._call("GET", "/api/v2/importErrors?limit=100")["import_errors"])

    def _exists(self, dag_id: str) -> bool:
        found = self._call("GET", "/api/v2/dags?limit=1000&exclude_stale=true")["dags"]
        return any(dag["dag_id"] == dag_id for dag in found)

    def _call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        response = self._send(method, path, body)
        if response.is_success:
            return response.json() if response.content else None
        raise _error_of(response, where=f"{method} {self.url}{path.partition('?')[0]}")

    def _send(self, method: str, path: str, body: Mapping[str, Any] | None) -> httpx.Response:
        attempts = 3 if method == "GET" else 1  # only idempotent requests are retried
        for attempt in range(1, attempts + 1):
            try:
                return self._http.request(method, path, json=body, headers={"Accept": "application/json"})
            except httpx.HTTPError as error:
                if attempt == attempts:
                    raise UnavailableError(
                        f"Airflow does not answer ({error}).", where=self.url, fix="See `lepton status`."
                    ) from error
                time.sleep(attempt)
        raise AssertionError("unreachable: the loop returns or raises")


def _error_of(response: httpx.Response, *, where: str) -> LeptonError:
    try:
        reason = response.json()["detail"]
    except (ValueError, KeyError, TypeError):
        reason = response.text[:500]
    if isinstance(reason, list):
        reason = "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in reason)
    if response.status_code == 401:
        return ConfigError(f"Airflow does not accept the password: {reason}.", where=where)
    kind = UnavailableError if response.status_code >= 500 else ConfigError
    return kind(f"Airflow answers {response.status_code}: {reason}", where=where)


def _id(text: str) -> str:
    return quote(text, safe="")


def _run(dag_id: str, run_id: str) -> str:
    return f"/api/v2/dags/{_id(dag_id)}/dagRuns/{_id(run_id)}"


def _task(dag_id: str, run_id: str, task_id: str) -> str:
    return f"{_run(dag_id, run_id)}/taskInstances/{_id(task_id)}"


def _time(text: str | None) -> dt.datetime | None:
    return dt.datetime.fromisoformat(text) if text else None
