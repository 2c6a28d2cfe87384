"""Stage register: register the verified package as a model version with the alias `challenger`."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np

from lepton_tasks.core.artifacts import (
    ArtifactRef,
    CheckpointRef,
    DatasetRef,
    EvaluationRef,
    ModelPackageRef,
    ModelVersionRef,
)
from lepton_tasks.core.catalogue import CODECS
from lepton_tasks.core.context import RunContext
from lepton_tasks.core.environment import project_root
from lepton_tasks.core.store import write_json
from lepton_tasks.core.use_case import UseCase
from lepton_tasks.tracking import registry


def register(
    use_case: UseCase,
    ctx: RunContext,
    *,
    checkpoint: CheckpointRef,
    evaluation: EvaluationRef,
    package: ModelPackageRef,
    raw: DatasetRef,
    features: DatasetRef,
) -> ModelVersionRef:
    """Register the package as a version in MLflow, with signature, input example, card and tags."""
    from lepton_tasks.tracking.mlflow import CHALLENGER, Tracker

    folder = ctx.open(package)
    spec = json.loads((folder / "package.json").read_text())
    codec = CODECS.build(spec["input_codec"]["name"], spec["input_codec"]["params"])
    sample = codec.decode((folder / f"example{codec.suffix}").read_bytes())
    run_id = str(checkpoint.facts["mlflow_run_id"])
    digests = {"package": package, "checkpoint": checkpoint, "data": raw, "features": features}
    tags = {
        **{f"lepton.{name}_digest": ref.digest for name, ref in digests.items()},
        "lepton.git_commit": git_commit(project_root()),
        "lepton.run_id": ctx.run_id,
        **_quality_tags(evaluation, package),
    }
    tracker = Tracker(ctx.environment.tracking_url)
    tracker.files(run_id, folder, at="package")
    registered = tracker.register(
        use_case.name,
        run_id,
        folder / "model.onnx",
        example={spec["inputs"][0]["name"]: sample[np.newaxis]},
        card=(folder / "card.md").read_text(),
        title=use_case.title,
        tags=tags,
    )
    tracker.set_alias(use_case.name, CHALLENGER, registered.version)
    ctx.log.info("%s version %s (%s) is the challenger", registered.name, registered.version, package.digest[:12])
    facts = {
        "name": registered.name,
        "version": registered.version,
        "package_digest": package.digest,
        "mlflow_run_id": registered.run_id,
        "mlflow_experiment_id": checkpoint.facts.get("mlflow_experiment_id"),
    }
    draft = ctx.draft()
    write_json(draft.path / "version.json", {**facts, "tags": tags})
    return ctx.publish(draft, ModelVersionRef, facts)


def _quality_tags(evaluation: EvaluationRef, package: ModelPackageRef) -> dict[str, str]:
    """Tags with the version's metrics and the location of its package."""
    return {
        "lepton.package_uri": package.uri,
        **{f"lepton.{key}": str(value) for key, value in evaluation.facts.items() if key.startswith("test_")},
        "lepton.max_difference_onnx_torch": str(package.facts.get("max_difference", "")),
        "lepton.compression": str(package.facts.get("compression") or "none"),
    }


def still_registered(use_case: UseCase, ctx: RunContext, ref: ArtifactRef) -> bool:
    """Whether the version is still registered, with the same package."""
    found = registry.version(ctx.environment.tracking_url, use_case.name, str(ref.facts["version"]))
    return found is not None and found["tags"].get("lepton.package_digest") == ref.facts["package_digest"]


def git_commit(folder: Path) -> str:
    """The commit of the checkout, with ``-dirty`` if files differ from it; ``unknown`` outside a checkout."""
    try:
        reply = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude", "*"],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return reply.stdout.strip() or "unknown"
