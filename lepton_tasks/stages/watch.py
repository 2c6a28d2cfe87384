"""Check a deployed model between runs, send alerts, repair it. Called by Airflow and the CLI."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from typing import Any

from lepton_tasks.core.artifacts import ArtifactRef, EndpointRef, Fact
from lepton_tasks.core.components import deploy_target_spec
from lepton_tasks.core.context import RunContext
from lepton_tasks.core.errors import LeptonError, UnavailableError
from lepton_tasks.core.finding import Finding
from lepton_tasks.core.store import digest_of, write_json
from lepton_tasks.core.use_case import UseCase
from lepton_tasks.core.watch_protocols import Situation, Trainer
from lepton_tasks.monitoring import in_mlflow
from lepton_tasks.monitoring.alert import record
from lepton_tasks.monitoring.book import CHECKS, ENDPOINT, Book, home_of, read_book
from lepton_tasks.monitoring.remediate import history
from lepton_tasks.stages.deploy import target_of
from lepton_tasks.stages.pipeline import stages_of
from lepton_tasks.stages.runner import plan_stage
from lepton_tasks.tracking import registry

_PACKAGE = "package.json"  # in the model's monitoring folder: last known version and its package


def check(use_case: UseCase, ctx: RunContext, run: Callable[[EndpointRef], Any]) -> Book | None:
    """Run the monitors on the deployed model.

    Args:
        use_case: The use case of the model.
        ctx: Run context of the check.
        run: Runs the stage `monitor` on an endpoint, in this or another process.

    Returns:
        The book with the findings; None if nothing is deployed.

    Raises:
        LeptonError: from `run`; the failure is also recorded as a finding.
    """
    try:
        endpoint = deployed(use_case, ctx)
    except UnavailableError as error:
        if not _was_deployed(use_case, ctx):
            return None
        return _record_failure(use_case, ctx, ENDPOINT, error.what)
    if endpoint is None:
        before = read_book(ctx.root, use_case.name).version
        if before is None:
            return None
        return _record_failure(use_case, ctx, ENDPOINT, f"the server serves no version of it; {before} was served.")
    try:
        run(endpoint)
    except LeptonError as error:
        _record_failure(use_case, ctx, CHECKS, f"the monitors failed: {error}")
        raise
    return read_book(ctx.root, use_case.name)


def _record_failure(use_case: UseCase, ctx: RunContext, monitor: str, message: str) -> Book:
    finding = Finding(monitor=monitor, severity="critical", message=message, value=0.0)
    ctx.log.error("%s: %s", monitor, message)
    book = record(use_case, ctx, [finding], version=None)
    in_mlflow.show(use_case, ctx, [finding], book, version=book.version)
    return book


def deployed(use_case: UseCase, ctx: RunContext) -> EndpointRef | None:
    """Reference to the champion for the monitors; None if none is served. Raises `UnavailableError`."""
    served = target_of(use_case, ctx).health(use_case, ctx)
    if not served.get("version"):
        return None
    version = str(served["version"])
    facts: dict[str, Fact] = {
        "url": served["url"],
        "version": version,
        "target": deploy_target_spec(use_case, ctx.environment).name,
        "package_digest": served["digest"],
        "previous_version": served.get("previous"),
        "role": "champion",
        "deployed_at": served.get("deployed_at"),
        "package_uri": _package_uri(use_case, ctx, version),
    }
    digest = digest_of(facts)
    return EndpointRef(uri=f"store://deploy/{digest[:32]}", digest=digest, stage="deploy", facts=facts)


def _package_uri(use_case: UseCase, ctx: RunContext, version: str) -> str | None:
    """URI of a version's package, from the registry or, if it is down, from an earlier check."""
    cache = home_of(ctx.root, use_case.name) / _PACKAGE
    try:
        found = registry.version(ctx.environment.tracking_url, use_case.name, version)
    except LeptonError as error:
        known = json.loads(cache.read_text()) if cache.exists() else {}
        if known.get("version") == version:
            return str(known["uri"])
        ctx.log.warning("The registry is unavailable, so monitors run without the model package: %s", error)
        return None
    uri: str | None = found["tags"].get("lepton.package_uri") if found else None
    if uri is not None:
        cache.parent.mkdir(parents=True, exist_ok=True)
        write_json(cache, {"version": version, "uri": uri})
    return uri


def _was_deployed(use_case: UseCase, ctx: RunContext) -> bool:
    if read_book(ctx.root, use_case.name).version is not None:
        return True
    return registry.alias(ctx.environment.tracking_url, use_case.name, registry.CHAMPION) is not None


def situation(use_case: UseCase, ctx: RunContext, trainer: Trainer) -> Situation:
    """Input of the remedies, without findings of another version or from before a failed check."""
    book = read_book(ctx.root, use_case.name)
    try:
        served = target_of(use_case, ctx).health(use_case, ctx)
    except UnavailableError:
        served = None
    lasting = list(book.lasting.values())
    if served is not None and str(served.get("version")) != book.version:
        ctx.log.info(
            "The findings are about version %s, but %s is served: check again.", book.version, served.get("version")
        )
        lasting = []
    if any(one.finding.monitor == CHECKS for one in lasting):
        ctx.log.info("The latest check failed, so earlier findings are not acted on.")
        lasting = []
    return Situation(
        use_case=use_case,
        ctx=ctx,
        findings=[(one.finding, one.risen) for one in lasting],
        served=served,
        version_since=book.version_since,
        past=history(ctx.root, use_case.name),
        trainer=trainer,
        now=ctx.clock().timestamp(),
    )


def unchanged(use_case: UseCase, ctx: RunContext) -> bool:
    """Whether a run would reuse every stage up to `train`. Imports nothing heavy."""
    refs: dict[str, ArtifactRef] = {}
    ctx = dataclasses.replace(ctx, force=False)
    for stage in stages_of(use_case):
        ref = plan_stage(stage.name, use_case, ctx, refs)
        if ref is None:
            return False
        refs[stage.produces] = ref
        if stage.name == "train":
            break
    return True
