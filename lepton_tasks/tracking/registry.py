"""Read the model registry over MLflow's REST API, without the three-second MLflow import.

Used before a stage starts (which version has an alias, does a version still exist), and by the inference server, whose
image has no MLflow: it follows aliases, downloads packages, and sets aliases.
"""

from __future__ import annotations

import http.client
import json
import shutil
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lepton_tasks.core.errors import ArtifactError, UnavailableError

CHAMPION, CHALLENGER, PREVIOUS = "champion", "challenger", "previous"
ROLLED_BACK = "lepton.rolled_back"
"""Tag of a version that a repair rolled back, with the reason."""

_TIMEOUT_SECONDS = 10.0
_PACKAGE = "package"  # artifact folder of the package, uploaded by `register`
_PAGE_SIZE = 100
_MAX_TAG = 5000  # characters, MLflow's limit


def alias(tracking_url: str, name: str, alias: str) -> dict[str, Any] | None:
    """The version that `alias` points to (``version, run_id, source, tags``), or None if there is none."""
    return _version(tracking_url, "registered-models/alias", {"name": name, "alias": alias})


def version(tracking_url: str, name: str, number: str) -> dict[str, Any] | None:
    """One version by number, or None if it does not exist."""
    return _version(tracking_url, "model-versions/get", {"name": name, "version": number})


def run_page(tracking_url: str, facts: Mapping[str, object]) -> str:
    """URL of the run named by a reference's facts; empty if there is none."""
    run, experiment = facts.get("mlflow_run_id"), facts.get("mlflow_experiment_id")
    return f"{tracking_url.rstrip('/')}/#/experiments/{experiment}/runs/{run}" if run and experiment else ""


def aliases(tracking_url: str) -> dict[str, dict[str, str]]:
    """Aliases of all registered models, with the version numbers they point to."""
    found: dict[str, dict[str, str]] = {}
    token = ""
    while True:
        query = {"max_results": str(_PAGE_SIZE), **({"page_token": token} if token else {})}
        page = request_json(tracking_url, "registered-models/search", query)
        for model in page.get("registered_models", []):
            found[model["name"]] = {entry["alias"]: entry["version"] for entry in model.get("aliases", [])}
        token = page.get("next_page_token", "")
        if not token:
            return found


def set_alias(tracking_url: str, name: str, alias: str, number: str | None) -> None:
    """Point an alias at a version; None removes the alias.

    Raises:
        ArtifactError: there is no such version.
        UnavailableError: MLflow does not answer.
    """
    body = {"name": name, "alias": alias, **({"version": number} if number else {})}
    try:
        request_json(tracking_url, "registered-models/alias", body=body, method="POST" if number else "DELETE")
    except FileNotFoundError as error:
        raise ArtifactError(f"the registry has no version {number} of {name!r}.", where=tracking_url) from error


def set_tag(tracking_url: str, name: str, number: str, key: str, value: str) -> None:
    """Set a tag of a version; raises as `set_alias` does."""
    body = {"name": name, "version": number, "key": key, "value": value[:_MAX_TAG]}
    try:
        request_json(tracking_url, "model-versions/set-tag", body=body, method="POST")
    except FileNotFoundError as error:
        raise ArtifactError(f"the registry has no version {number} of {name!r}.", where=tracking_url) from error


def set_champion(tracking_url: str, name: str, champion: str, previous: str | None) -> None:
    """Point the aliases ``champion`` and ``previous`` at versions; raises as `set_alias` does.

    Removes the alias ``challenger`` from the new champion.
    """
    set_alias(tracking_url, name, CHAMPION, champion)  # first: an unregistered version must change neither
    set_alias(tracking_url, name, PREVIOUS, previous)
    challenger = alias(tracking_url, name, CHALLENGER)
    if challenger is not None and challenger["version"] == champion:
        set_alias(tracking_url, name, CHALLENGER, None)


def download(tracking_url: str, run_id: str, folder: Path) -> None:
    """Download the model package of a run into `folder`, from any artifact store of MLflow.

    Raises:
        ArtifactError: the run has none.
        UnavailableError: MLflow does not answer.
    """
    try:
        count = _download(tracking_url, run_id, _PACKAGE, folder)
    except (OSError, http.client.HTTPException) as error:
        if isinstance(error, UnavailableError | ArtifactError):
            raise
        raise UnavailableError(f"the package cannot be fetched: {error!r}.", where=tracking_url) from error
    if not count:
        raise ArtifactError("the run has no model package.", where=f"{tracking_url}: run {run_id}")


def _download(tracking_url: str, run_id: str, path: str, folder: Path) -> int:
    """Download a folder recursively; returns the number of files."""
    count = 0
    folder.mkdir(parents=True, exist_ok=True)
    for item in request_json(tracking_url, "artifacts/list", {"run_id": run_id, "path": path}).get("files", []):
        target = folder / Path(item["path"]).name  # name only: prevents path traversal
        if target.name in ("", ".."):
            raise ArtifactError(f"the artifact {item['path']!r} has no name.", where=f"{tracking_url}: run {run_id}")
        if item["is_dir"]:
            count += _download(tracking_url, run_id, item["path"], target)
            continue
        query = urllib.parse.urlencode({"run_uuid": run_id, "path": item["path"]})
        with fetch(f"{tracking_url.rstrip('/')}/get-artifact?{query}") as reply, target.open("wb") as stream:
            shutil.copyfileobj(reply, stream)
        count += 1
    return count


def _version(tracking_url: str, path: str, query: dict[str, str]) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = request_json(tracking_url, path, query)["model_version"]
    except FileNotFoundError:
        return None
    found["tags"] = {tag["key"]: tag["value"] for tag in found.get("tags", [])}
    return found


def request_json(
    tracking_url: str,
    path: str,
    query: Mapping[str, str] | None = None,
    *,
    body: Mapping[str, Any] | None = None,
    method: str = "GET",
) -> dict[str, Any]:
    """Send a request to the REST API; raises `FileNotFoundError` for an unknown run, model, version or alias."""
    url = f"{tracking_url.rstrip('/')}/api/2.0/mlflow/{path}"
    if query:
        url += f"?{urllib.parse.urlencode(query)}"
    data = json.dumps(body).encode() if body is not None else None
    request = urllib.request.Request(url, data, {"content-type": "application/json"}, method=method)
    with fetch(request) as reply:
        found: dict[str, Any] = json.load(reply)
        return found


def fetch(request: str | urllib.request.Request) -> Any:
    """Open a response; raises `FileNotFoundError` as `request_json`, `UnavailableError` if MLflow does not answer."""
    url = request if isinstance(request, str) else request.full_url
    try:
        return urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        # 404: no such model or version; 400: no such alias (INVALID_PARAMETER_VALUE in 3.17).
        if error.code in (400, 404):
            raise FileNotFoundError(url) from error
        raise UnavailableError(f"MLflow answered {error.code}.", where=url, fix="See its log.") from error
    except OSError as error:
        raise UnavailableError(
            f"MLflow does not answer: {error}.", where=url.partition("/api/")[0], fix="Start it with `lepton up`."
        ) from error
