"""Implementation of `lepton deploy`, `promote`, `rollback`, `ab` and `feedback`."""

from __future__ import annotations

import contextlib
import csv
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pydantic

from lepton_tasks.core.components import deploy_target_of
from lepton_tasks.core.context import RunContext
from lepton_tasks.core.environment import load_environment, state_root, use_case_file
from lepton_tasks.core.errors import ConfigError, LeptonError
from lepton_tasks.core.faults import reason_of
from lepton_tasks.core.release_protocols import DeployTarget, Registered
from lepton_tasks.core.rollout import Rollout
from lepton_tasks.core.settings import parse_override
from lepton_tasks.core.use_case import Deploy, UseCase
from lepton_tasks.core.use_case_file import load_use_case
from lepton_tasks.tracking import registry

_RUN_ID = "lepton"


def rollout_of(canary: str | None, shadow: float | None, hold: bool, overrides: Sequence[str]) -> Rollout:
    """Build the rollout from command-line options.

    Raises:
        ConfigError: options are contradictory or invalid.
    """
    if sum((canary is not None, shadow is not None, hold)) > 1:
        raise ConfigError("--canary, --shadow and --hold exclude each other.")
    values: dict[str, Any] = dict(parse_override(text) for text in overrides)
    if canary is not None:
        values |= {"kind": "canary", "steps": [part.strip() for part in canary.split(",")]}
    elif shadow is not None:
        values |= {"kind": "shadow", "share": shadow}
    elif hold:
        values |= {"kind": "hold"}
    try:
        return Rollout.model_validate(values)
    except pydantic.ValidationError as error:
        fault = error.errors()[0]
        key = ".".join(map(str, fault["loc"]))
        raise ConfigError(f"{fault['input']!r} is invalid: {reason_of(fault)}.", where=f"rollout {key}") from error


def deploy_version(name: str, version: str, rollout: Rollout) -> dict[str, Any]:
    """Deploy a registered version to the target of its use case, then update the aliases.

    Raises:
        ConfigError: the registry has no such version with a model package, or the target does not support the rollout.
    """
    use_case, ctx, target = _target_of(name)
    use_case = use_case.model_copy(update={"deploy": use_case.deploy.model_copy(update={"rollout": rollout})})
    url = ctx.environment.tracking_url
    found = registry.version(url, name, version)
    digest = found["tags"].get("lepton.package_digest") if found else None
    if found is None or digest is None:
        raise ConfigError(f"no version {version} of {name!r} with a model package.", where=url)
    with contextlib.ExitStack() as stack:

        def package() -> Path:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=ctx.root, prefix=".deploy-")))
            registry.download(url, found["run_id"], folder)
            return folder

        served = target.deploy(use_case, ctx, Registered(version, digest, package))
    if served["version"] == version:
        registry.set_champion(url, name, version, served["previous"])
    else:
        registry.set_alias(url, name, registry.CHALLENGER, version)
    return served


def promote_challenger(name: str) -> dict[str, Any]:
    """Make the challenger the champion; returns the serving state."""
    use_case, ctx, target = _target_of(name)
    return _update_aliases(ctx, target.promote(use_case, ctx), name)


def roll_back(name: str) -> dict[str, Any]:
    """Undo the last deployment.

    Returns:
        The serving state, the removed version as ``undone``, and the server's ``seconds``.
    """
    use_case, ctx, target = _target_of(name)
    return _update_aliases(ctx, target.rollback(use_case, ctx), name)


def _target_of(name: str) -> tuple[UseCase, RunContext, DeployTarget]:
    """The target of the use case or the environment; a model registered elsewhere has no use case here."""
    ctx = RunContext.from_env(_RUN_ID)
    file = use_case_file(name)
    bare: dict[str, Any] = {"name": name, "deploy": Deploy()}
    use_case = load_use_case(file) if file.is_file() else UseCase.model_construct(**bare)
    return use_case, ctx, deploy_target_of(use_case, ctx.environment)


def _update_aliases(ctx: RunContext, served: dict[str, Any], name: str) -> dict[str, Any]:
    """Update the registry's aliases after the server, whose state matters most."""
    url = ctx.environment.tracking_url
    try:
        registry.set_champion(url, name, served["version"], served["previous"])
        challenger = registry.alias(url, name, registry.CHALLENGER)
        if challenger is not None and challenger["version"] == served.get("undone"):
            registry.set_alias(url, name, registry.CHALLENGER, None)
    except LeptonError as error:
        raise type(error)(
            f"{name} is served as {state_line(served)}, but the registry's aliases were not moved: {error}",
            where=error.where,
            fix="A server that follows the registry moves them itself.",
        ) from error
    return served


def state_line(model: dict[str, Any]) -> str:
    """The serving state of a model in one line."""
    if not model.get("version"):
        return f"not ready: {model.get('reason')}"
    text = f"version {model['version']}"
    if model.get("previous"):
        text += f"; previous {model['previous']}"
    if challenger := model.get("challenger"):
        share = f" at {challenger['weight']:.0%}" if challenger["kind"] == "canary" else ""
        text += f"; {challenger['kind']} {challenger['version']}{share}"
        if progress := challenger.get("progress"):
            text += f": {progress['reason']}"
    if undone := model.get("undone"):
        text += f" (removed {undone} in {model['seconds']:g} s)"
    return text


def comparison(name: str, *, hours: float, truths: Path | None = None) -> dict[str, Any]:
    """Compare a model's versions by the servers' request logs; see `serving.versions.comparison`.

    Raises:
        ConfigError: the file of true labels is invalid.
    """
    from lepton_tasks.serving.client import Client
    from lepton_tasks.serving.observing.request_log import REQUESTS_FOLDER, read_outcomes, read_requests
    from lepton_tasks.serving.versions.comparison import compare

    with Client(load_environment().serving_url) as client:
        model = next((one for one in client.models() if one["name"] == name), None)
    gather_logs(name)
    since, folder = time.time() - hours * 3600, state_root() / "serving" / REQUESTS_FOLDER
    labels: dict[str, Any] = {one["id"]: one.get("label") for one in read_outcomes(folder, name, since=since)}
    labels |= read_truths(truths) if truths else {}
    base = model["version"] if model else None
    found = compare(read_requests(folder, name, since=since), base=base, truths=labels)
    return {"name": name, "hours": hours, "outcomes": len(labels), **found}


def gather_logs(name: str) -> None:
    """Copy new records of remote request logs into the state folder; warn of incomplete logs."""
    from lepton_tasks.stages.gathering import gather_requests

    use_case, ctx, _ = _target_of(name)
    for finding in gather_requests(use_case, ctx):
        if finding.severity != "ok":
            ctx.log.warning("%s", finding.message)


def send_feedback(name: str, outcomes: Mapping[str, str | float]) -> int:
    """Send true labels by answer id to the server; returns the number recorded."""
    from lepton_tasks.serving.client import Client
    from lepton_tasks.serving.http.schema import MOST_OUTCOMES

    pairs = list(outcomes.items())
    with Client(load_environment().serving_url) as client:
        return sum(
            client.feedback(name, dict(pairs[i : i + MOST_OUTCOMES])) for i in range(0, len(pairs), MOST_OUTCOMES)
        )


def read_truths(path: Path) -> dict[str, str]:
    """True labels by answer id or trace, from a CSV file with one of these columns and ``label``."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:  # Excel writes a byte order mark
            return {row["id"] if "id" in row else row["trace"]: row["label"] for row in csv.DictReader(stream)}
    except (OSError, UnicodeDecodeError, KeyError, csv.Error) as error:
        fix = "Give a CSV file with the columns id (or trace) and label."
        reason = getattr(error, "strerror", None) or (f"no column {error}" if isinstance(error, KeyError) else error)
        raise ConfigError(f"cannot read labels: {reason}.", where=str(path), fix=fix) from error


def comparison_lines(found: dict[str, Any]) -> list[str]:
    """Format the comparison as lines of a table."""
    lines = [f"{found['name']}, the last {found['hours']:g} h"]
    if not found["versions"]:
        return [*lines, "no requests"]
    lines.append(f"{'version':<10}{'answers':>9}{'failed':>9}{'p50 ms':>9}{'p95 ms':>9}  most frequent answers")
    for version, row in found["versions"].items():
        labels = ", ".join(f"{label} {share:.0%}" for label, share in list(row["labels"].items())[:3])
        times = "".join(f"{'' if row[key] is None else format(row[key], '.1f'):>9}" for key in ("p50_ms", "p95_ms"))
        lines.append(f"{version:<10}{row['answers']:>9}{row['failed']:>9}{times}  {labels}")
    if found.get("outcomes"):
        judged = sum(row.get("judged", 0) for row in found["versions"].values())
        lines.append(f"{judged} answers with a known label, of {found['outcomes']} reported")
    for version, row in found["versions"].items():
        if "accuracy" in row:
            low, high = row["accuracy_interval"]
            lines.append(
                f"{version}: accuracy {row['accuracy']:.2%} of {row['judged']} (95 %: {low:.2%} to {high:.2%})"
            )
        elif "mean_error" in row:
            lines.append(f"{version}: mean error {row['mean_error']:.4g} of {row['judged']}")
    for version, other in found["against"].items():
        low, high = other["failed_interval"]
        lines.append(
            f"{version} against {found['base']}: failed {other['failed_difference']:+.2%} "
            f"(95 %: {low:+.2%} to {high:+.2%}, p = {other['failed_p']:.3g}); {other['verdict']}"
        )
        if "error_p" in other:
            low, high = other["error_interval"]
            lines.append(
                f"  mean error {found['versions'][version]['mean_error']:.4g}, {other['error_difference']:+.4g} "
                f"(95 %: {low:+.4g} to {high:+.4g}, p = {other['error_p']:.3g})"
            )
        if "accuracy_p" in other:
            low, high = other["accuracy_interval"]
            lines.append(
                f"  accuracy {found['versions'][version]['accuracy']:.2%}, {other['accuracy_difference']:+.2%} "
                f"(95 %: {low:+.2%} to {high:+.2%}, p = {other['accuracy_p']:.3g})"
            )
    return lines
