"""Stage deploy: deploy the new version as its rollout says, then update the registry."""

from __future__ import annotations

from lepton_tasks.core.artifacts import ArtifactRef, EndpointRef, EvaluationRef, ModelPackageRef, ModelVersionRef
from lepton_tasks.core.components import deploy_target_of, deploy_target_spec
from lepton_tasks.core.context import RunContext
from lepton_tasks.core.errors import GateError, LeptonError
from lepton_tasks.core.release_protocols import DeployTarget, Registered
from lepton_tasks.core.store import write_json
from lepton_tasks.core.use_case import UseCase
from lepton_tasks.tracking.registry import ROLLED_BACK


def deploy(
    use_case: UseCase,
    ctx: RunContext,
    *,
    model_version: ModelVersionRef,
    package: ModelPackageRef,
    verdict: EvaluationRef,
) -> EndpointRef:
    """Deploy the version by its rollout, then update the aliases ``champion`` and ``previous``.

    With ``deploy.rollout`` it may start as challenger; the server promotes or removes it later. If the aliases cannot
    be set, the endpoint is rolled back. Only servers that follow the registry learn of the version by the aliases; the
    target `followers` moves these back if a server refuses.

    Raises:
        ArtifactError: the target refuses the package; the served version stays.
        GateError: a repair rolled this version back, so no run deploys it again; or another version became champion
            after the gate's comparison.
        UnavailableError: the target or MLflow does not answer.
    """
    from lepton_tasks.tracking.mlflow import CHALLENGER, CHAMPION, PREVIOUS, Tracker

    version = str(model_version.facts["version"])
    target = target_of(use_case, ctx)
    tracker = Tracker(ctx.environment.tracking_url)
    registered = tracker.version(use_case.name, version)
    reason = registered.tags.get(ROLLED_BACK, "") if registered is not None else ""
    if reason and target.health(use_case, ctx)["version"] != version:  # unless it was deployed by hand since
        raise GateError(
            f"version {version} was rolled back by a repair: {reason.rstrip('.')}.",
            where=f"{use_case.name}.yaml",
            fix=f"`lepton deploy {use_case.name} {version}` deploys it; other data or settings make another.",
        )
    old = tracker.champion(use_case.name)  # before the swap: without MLflow, nothing changes
    compared, run_id = verdict.facts["champion"], model_version.facts.get("mlflow_run_id")
    if old is not None and old.version not in (version, compared) and old.run_id != run_id:
        raise GateError(
            f"version {old.version} became champion after the gate had compared version {version} with "
            f"{f'version {compared}' if compared else 'none'}.",
            where=f"{use_case.name}.yaml",
            fix="Run it again: the gate compares with the new champion.",
        )
    served = target.deploy(use_case, ctx, Registered(version, package.digest, lambda: ctx.open(package)))
    is_challenger = served["version"] != version
    try:
        if is_challenger:
            tracker.set_alias(use_case.name, CHALLENGER, version)
        else:
            if old is not None and old.version != version:
                tracker.set_alias(use_case.name, PREVIOUS, old.version)
            challenger = tracker.version(use_case.name, CHALLENGER)
            if challenger is not None and challenger.version == version:  # set by `register`
                tracker.set_alias(use_case.name, CHALLENGER, None)
            tracker.set_alias(use_case.name, CHAMPION, version)  # last: marks completion
    except LeptonError:
        if served["changed"]:
            withdraw(use_case, ctx, target)
        raise
    kind = use_case.deploy.rollout.kind if is_challenger else "champion"
    ctx.log.info("%s version %s answers as %s at %s", use_case.name, version, kind, served["url"])
    facts = {
        "url": served["url"],
        "version": version,
        "target": deploy_target_spec(use_case, ctx.environment).name,
        "package_digest": package.digest,
        "package_uri": package.uri,
        "previous_version": served["version"] if is_challenger else served["previous"],
        "role": "challenger" if is_challenger else "champion",
    }
    draft = ctx.draft()
    write_json(draft.path / "endpoint.json", facts)
    return ctx.publish(draft, EndpointRef, facts)


def still_serving(use_case: UseCase, ctx: RunContext, ref: ArtifactRef) -> bool:
    """Whether this version of this package is the endpoint's champion or challenger."""
    try:
        served = target_of(use_case, ctx).health(use_case, ctx)
    except LeptonError:
        return False
    expected = (ref.facts["version"], ref.facts["package_digest"])
    return any((one["version"], one["digest"]) == expected for one in (served, served["challenger"]) if one)


def target_of(use_case: UseCase, ctx: RunContext) -> DeployTarget:
    """The deployment target of a use case."""
    return deploy_target_of(use_case, ctx.environment)


def withdraw(use_case: UseCase, ctx: RunContext, target: DeployTarget) -> str | None:
    """Remove the challenger; without one, restore the previous version, or remove the model if there was none.

    Returns:
        The version served afterwards.
    """
    served = target.health(use_case, ctx)
    if served["challenger"] is None and served["previous"] is None:
        target.remove(use_case, ctx)
        return None
    return str(target.rollback(use_case, ctx)["version"])
