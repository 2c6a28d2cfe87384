"""Stage smoke_test: send a request to every server; roll back if an answer is wrong."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from lepton_tasks.core.access import own_key
from lepton_tasks.core.artifacts import EndpointRef, ModelPackageRef, MonitorReportRef
from lepton_tasks.core.context import RunContext
from lepton_tasks.core.errors import GateError, LeptonError
from lepton_tasks.core.finding import Finding, write_findings
from lepton_tasks.core.release_protocols import Address
from lepton_tasks.core.use_case import UseCase
from lepton_tasks.serving.client import Client
from lepton_tasks.serving.package import read_example
from lepton_tasks.serving.prediction_difference import difference
from lepton_tasks.stages.deploy import still_serving, target_of, withdraw

# Other processors and batch sizes round differently; a wrong model or preprocessing is off by far more.
TOLERANCE = 0.01
_MAX_SHOWN = 200  # characters of an answer in messages


def smoke_test(
    use_case: UseCase, ctx: RunContext, *, endpoint: EndpointRef, package: ModelPackageRef
) -> MonitorReportRef:
    """Send the package's example to the deployed version on every server, and compare the answers.

    Raises:
        GateError: an answer is wrong; the endpoint and the aliases were rolled back.
    """
    folder = ctx.open(package)
    try:
        if not still_serving(use_case, ctx, endpoint):
            raise GateError("it is no longer served.")
        servers = target_of(use_case, ctx).addresses(ctx)
        findings = [_check(use_case, ctx, server, str(endpoint.facts["version"]), folder) for server in servers]
    except LeptonError as error:
        raise GateError(
            f"version {endpoint.facts['version']} failed its smoke test: {error} {_roll_back(use_case, ctx, endpoint)}",
            where=str(endpoint.facts["url"]),
        ) from error
    draft = ctx.draft()
    worst = max(findings, key=lambda finding: finding.value or 0.0)
    if len(findings) > 1:
        worst = dataclasses.replace(worst, message=f"{worst.message}, by {len(findings)} servers")
    write_findings(draft.path, [worst])
    return ctx.publish(draft, MonitorReportRef, {"version": endpoint.facts["version"], "difference": worst.value})


def _check(use_case: UseCase, ctx: RunContext, server: Address, version: str, folder: Path) -> Finding:
    """Check one server; raises `GateError` if the version or the answer differs."""
    example, expected = read_example(folder)
    key = own_key(ctx.root / "serving")
    with Client(server.url, host=server.host, probe="smoke_test", api_key=key) as client:
        reply = client.predict(use_case.name, example, version=version)
    answer = reply["predictions"][0]
    distance = difference(answer, expected)
    if reply["version"] != version:
        raise GateError(f"version {reply['version']} answered at {server.url}.")
    if not distance <= TOLERANCE:
        raise GateError(f"{server.url} answers the example with {_short(answer)}, not with {_short(expected)}.")
    return Finding(
        monitor="smoke_test",
        severity="ok",
        message=f"the example is answered as expected: {_short(answer)}",
        value=distance,
        limit=TOLERANCE,
        unit="difference",
    )


def _short(answer: dict[str, Any]) -> str:
    text = json.dumps(answer, ensure_ascii=False)
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]} ..."


def _roll_back(use_case: UseCase, ctx: RunContext, endpoint: EndpointRef) -> str:
    """Roll back endpoint and aliases; returns a sentence on the version served now."""
    from lepton_tasks.tracking.mlflow import CHAMPION, PREVIOUS, Tracker

    target = target_of(use_case, ctx)
    try:
        served = target.health(use_case, ctx)
        is_challenger = served["challenger"] and served["challenger"]["version"] == endpoint.facts["version"]
        if served["version"] != endpoint.facts["version"] and not is_challenger:
            return f"Version {served['version']} is served, which this run did not deploy; it was left in place."
        restored = withdraw(use_case, ctx, target)
        if is_challenger:
            return f"It is no longer the challenger of version {restored}."
        tracker = Tracker(ctx.environment.tracking_url)
        tracker.set_alias(use_case.name, CHAMPION, restored)
        tracker.set_alias(use_case.name, PREVIOUS, None)
    except LeptonError as error:
        return f"Rolling back to the previous version failed, too: {error}"
    return f"Version {restored} is served again." if restored else "No earlier version exists, so none is served."
