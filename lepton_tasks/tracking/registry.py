"""Read the model registry over MLflow's REST API, without the three seconds that importing MLflow costs.

For the questions asked before a stage is started: which version has an alias, does a version still exist.
"""

from __future__ import annotations

import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from typing import Any

from lepton_tasks.core.errors import UnavailableError

_TIMEOUT_SECONDS = 10.0


def alias(tracking_url: str, name: str, alias: str) -> dict[str, Any] | None:
    """The version that `alias` points to (``version, run_id, source, tags``), or None if there is none."""
    return _version(tracking_url, "registered-models/alias", {"name": name, "alias": alias})


def version(tracking_url: str, name: str, number: str) -> dict[str, Any] | None:
    """One version by number, or None if it does not exist."""
    return _version(tracking_url, "model-versions/get", {"name": name, "version": number})


def run_page(tracking_url: str, facts: Mapping[str, object]) -> str:
    """The page of the run that a reference's facts name; an empty string if they name none."""
    run, experiment = facts.get("mlflow_run_id"), facts.get("mlflow_experiment_id")
    return f"{tracking_url.rstrip('/')}/#/experiments/{experiment}/runs/{run}" if run and experiment else ""


def _version(tracking_url: str, path: str, query: dict[str, str]) -> dict[str, Any] | None:
    url = f"{tracking_url.rstrip('/')}/api/2.0/mlflow/{path}?{urllib.parse.urlencode(query)}"
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT_SECONDS) as reply:
            found: dict[str, Any] = json.load(reply)["model_version"]
    except urllib.error.HTTPError as error:
        # 404: no such model or version; 400: no such alias (INVALID_PARAMETER_VALUE in 3.17).
        if error.code in (400, 404):
            return None
        raise UnavailableError(f"MLflow answered {error.code}.", where=url, fix="Look into its log.") from error
    except OSError as error:
        raise UnavailableError(
            f"MLflow does not answer: {error}.", where=tracking_url, fix="Start it with `lepton up`."
        ) from error
    found["tags"] = {tag["key"]: tag["value"] for tag in found.get("tags", [])}
    return found
