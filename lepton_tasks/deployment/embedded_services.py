"""Command lines, settings and secrets of the local services. All listen on 127.0.0.1."""

from __future__ import annotations

import base64
import configparser
import datetime as dt
import json
import os
import secrets
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import httpx

from lepton_tasks.core.environment import Environment
from lepton_tasks.core.errors import ConfigError

HOST = "127.0.0.1"
AIRFLOW_USER = "admin"


def commands(root: Path, ports: Mapping[str, int], tracking_url: str) -> dict[str, list[str]]:
    """The command line of every service, by name; serving follows the model registry at `tracking_url`."""
    python = sys.executable
    return {
        "mlflow": [
            *(python, "-m", "lepton_tasks.deployment.mlflow_server", "--workers", "1"),
            *("--host", HOST, "--port", str(ports["mlflow"])),
            *("--backend-store-uri", f"sqlite:///{root / 'mlflow' / 'mlflow.db'}", "--serve-artifacts"),
            *("--artifacts-destination", (root / "mlflow" / "artifacts").as_uri()),
        ],
        "serving": [
            *(python, "-m", "lepton_tasks.serving", "--host", HOST, "--port", str(ports["serving"])),
            *("--home", str(root / "serving"), "--follow", tracking_url),
        ],
        "airflow": [python, "-m", "lepton_airflow.components", str(root / "logs")],
        "stages": [python, "-m", "lepton_tasks.stages.host", str(root)],
    }


def child_environment(root: Path, project: Path, environment: Environment, urls: Mapping[str, str]) -> dict[str, str]:
    """The environment of every service: ours, with addresses, folders and quiet libraries."""
    variables = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW")}
    variables.pop("PYTHONDONTWRITEBYTECODE", None)  # without compiled modules every start costs seconds more
    variables |= {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{variables.get('PATH', os.defpath)}",
        "PYTHONPATH": os.pathsep.join(filter(None, [str(project / "plugins"), variables.get("PYTHONPATH")])),
        "PYTHONUNBUFFERED": "1",
        "LEPTON_HOME": str(root),
        "LEPTON_TRACKING_URL": urls["mlflow"],
        "LEPTON_SERVING_URL": urls["serving"],
        "LEPTON_AIRFLOW_URL": urls["airflow"],
        "LEPTON_DATA": environment.data_root,
        "AIRFLOW_HOME": str(root / "airflow"),
        "GOMP_SPINCOUNT": "1000",  # see `training.launch`; a fork of the stage host cannot be told any more
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # 13 processes and 1.1 GB that nothing here uses
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MPLCONFIGDIR": str(root / "cache" / "matplotlib"),
        "XDG_CACHE_HOME": str(root / "cache"),
    }
    return variables


def write_airflow_config(root: Path, project: Path, port: int) -> str | None:
    """Write ``root/airflow/airflow.cfg`` and the admin's password, both readable by their owner only.

    Returns:
        The password, if it was generated now.
    """
    home = root / "airflow"
    home.mkdir(parents=True, exist_ok=True)
    generated = _secrets(home / "secrets.json")
    password_file = home / "passwords.json"
    password = None
    if not password_file.exists():
        password = secrets.token_urlsafe(12)
        _write_private(password_file, json.dumps({AIRFLOW_USER: password}) + "\n")
    config = configparser.ConfigParser(interpolation=None)
    config.read_dict(_airflow_settings(home, project, port, generated))
    path = home / "airflow.cfg"
    with os.fdopen(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600), "w") as stream:
        stream.write("# Written by `lepton up`; changes are overwritten. AIRFLOW__SECTION__KEY variables are not.\n")
        config.write(stream)
    return password


def airflow_password(root: Path) -> str:
    """The admin's password."""
    try:
        return str(json.loads((root / "airflow" / "passwords.json").read_text())[AIRFLOW_USER])
    except FileNotFoundError as error:
        raise ConfigError("Airflow was never started here.", where=str(root), fix="Run `lepton up`.") from error


def _airflow_settings(home: Path, project: Path, port: int, generated: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    url = f"http://{HOST}:{port}"
    settings: dict[str, dict[str, Any]] = {
        "core": {
            "dags_folder": project / "dags",
            "plugins_folder": project / "plugins",
            "executor": "LocalExecutor",
            "parallelism": 4,
            "load_examples": False,
            "dag_ignore_file_syntax": "regexp",  # the default, glob, warns about itself in every task's log
            "fernet_key": generated["fernet_key"],
            "execution_api_server_url": f"{url}/execution/",
            "auth_manager": "airflow.api_fastapi.auth.managers.simple.simple_auth_manager.SimpleAuthManager",
            "simple_auth_manager_users": f"{AIRFLOW_USER}:admin",
            "simple_auth_manager_passwords_file": home / "passwords.json",
            # A use case's error is one sentence that says all; the traceback above it would only be ours.
            "dagbag_import_error_tracebacks": False,
        },
        "database": {"sql_alchemy_conn": f"sqlite:///{home / 'airflow.db'}"},
        "logging": {"base_log_folder": home / "logs", "dag_processor_child_process_log_directory": home / "logs/dags"},
        "api": {"host": HOST, "port": port, "base_url": url, "workers": 1, "secret_key": generated["secret_key"]},
        "api_auth": {"jwt_secret": generated["jwt_secret"]},
        "scheduler": {"scheduler_idle_sleep_time": 0.1},  # a chain of ten empty tasks: 11 s -> 3.2 s
        "dag_processor": {"min_file_process_interval": 10, "refresh_interval": 10},
        "workers": {"execution_api_timeout": 60},  # by default 5 s; a busy machine takes longer
        "usage_data_collection": {"enabled": False},
    }
    return {section: {k: _plain(v) for k, v in values.items()} for section, values in settings.items()}


def _plain(value: Any) -> str:
    # Airflow reads its file with interpolation.
    return str(value).replace("%", "%%")


def _secrets(path: Path) -> dict[str, str]:
    """Keys that sign Airflow's tokens and encrypt its connections, generated once."""
    if not path.exists():
        keys = {
            "jwt_secret": secrets.token_hex(64),
            "secret_key": secrets.token_hex(32),
            "fernet_key": base64.urlsafe_b64encode(secrets.token_bytes(32)).decode(),
        }
        _write_private(path, json.dumps(keys) + "\n")
    return dict(json.loads(path.read_text()))


def _write_private(path: Path, text: str) -> None:
    with os.fdopen(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_EXCL, 0o600), "w") as stream:
        stream.write(text)


def probe(name: str, url: str, since: float) -> bool:
    """Whether a service answers for itself.

    Args:
        name: The service.
        url: Its address.
        since: Unix time the process was started; an older heartbeat is its predecessor's.
    """
    try:
        return _PROBES[name](url, since)
    except (httpx.HTTPError, ValueError, KeyError):
        return False


def _get(url: str) -> httpx.Response:
    return httpx.get(url, timeout=5, trust_env=False, verify=False)  # no certificates to load, 30 ms each time


def _airflow(url: str, since: float) -> bool:
    """The API answers, and the other components were heard of since then.

    The first request to the tasks' API builds its routes, which takes seconds: better now than in the first task.
    """
    if not _get(f"{url}/execution/health").is_success:
        return False
    health = _get(f"{url}/api/v2/monitor/health").json()
    beats = [health[name][f"latest_{name}_heartbeat"] for name in ("scheduler", "dag_processor", "triggerer")]
    return all(beat is not None and dt.datetime.fromisoformat(beat).timestamp() >= since for beat in beats)


_PROBES: dict[str, Callable[[str, float], bool]] = {
    "mlflow": lambda url, since: _get(f"{url}/health").is_success,
    "serving": lambda url, since: _get(f"{url}/v2/health/live").is_success,
    "airflow": _airflow,
}
