"""Model packages of SDK models, written by the release stages."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import re
import shutil
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

from lepton_ai.running import prepared
from lepton_tasks.core.artifacts import CheckpointRef
from lepton_tasks.core.context import RunContext
from lepton_tasks.core.errors import ConfigError
from lepton_tasks.core.faults import NAME
from lepton_tasks.core.store import digest_of, write_json
from lepton_tasks.core.use_case import parse_use_case

if TYPE_CHECKING:
    from lepton_tasks.training.checkpoint import Checkpoint

_STAGES = ("evaluate", "export", "verify_package")


def export(trained: Checkpoint, folder: Path, *, name: str | None, about: dict[str, str]) -> Path:
    """Write the model package: evaluate on the test rows, convert to ONNX and compare with the network.

    Args:
        trained: Result of `running.fit` or `running.load`.
        folder: A new or empty folder, or one with an older package, which is replaced.
        name: Name of the served model; default the folder's.
        about: ``title`` and ``description`` of the model card.

    Raises:
        ConfigError: the folder or the name cannot be used, or the data have changed since training.
        LeptonError: from the stage that failed, e.g. a `GateError` if ONNX Runtime's outputs differ from torch's.
    """
    from lepton_tasks.serving.package import copy_package
    from lepton_tasks.stages.pipeline import stage_named
    from lepton_tasks.stages.runner import run_stage

    folder = folder.expanduser().resolve()
    _check_folder(folder)
    name = folder.name if name is None else name
    if not re.fullmatch(NAME, name):
        better = re.sub("[^a-z0-9]+", "_", name.lower()).strip("_0123456789")[:63]
        fix = (
            f"Use small letters, digits and '_', e.g. export(..., name={better if len(better) > 1 else 'my_model'!r})."
        )
        raise ConfigError(f"{name!r} cannot be the name of a model.", where="name", fix=fix)
    learned = trained.spec["use_case"]
    data = prepared(parse_use_case(learned, where=name))
    if data.refs["features"].digest != trained.spec["data_digest"]:
        raise ConfigError(
            "the data have changed since the model was fitted, so there are no test rows to check the package with.",
            where=str(learned["data"]["source"]["params"].get("path", learned["data"]["source"]["name"])),
            fix="Restore them, or call fit again.",
        )
    use_case = parse_use_case(learned | about | {"name": name}, where="export")
    refs = data.refs | {"checkpoint": _publish(trained, data.ctx)}
    for stage in _STAGES:
        result = run_stage(stage, use_case, data.ctx, refs)
        if result.ref is not None:
            refs[stage_named(stage, use_case).produces] = result.ref
    part, old = (folder.with_name(f".{folder.name}.{uuid.uuid4().hex}") for _ in range(2))
    part.parent.mkdir(parents=True, exist_ok=True)
    try:
        copy_package(data.ctx.open(refs["package"]), part)
        if folder.exists():
            folder.rename(old)
        part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)
    return folder


def _check_folder(folder: Path) -> None:
    """Raise `ConfigError` for a folder with files of anything but a package, which would be lost."""
    from lepton_tasks.serving.package import MANIFEST_FILE

    if folder.is_dir() and (not any(folder.iterdir()) or (folder / MANIFEST_FILE).exists()):
        return
    if folder.exists():
        what = "holds other files than those of a model package." if folder.is_dir() else "is a file."
        raise ConfigError(what, where=str(folder), fix="Give a new folder.")


def _publish(trained: Checkpoint, ctx: RunContext) -> CheckpointRef:
    """Publish the network as the checkpoint artifact of later stages, without an MLflow run."""
    import torch

    from lepton_tasks.training.checkpoint import SPEC_FILE, WEIGHTS_FILE

    stream = io.BytesIO()
    torch.save(trained.network.state_dict(), stream)
    weights = stream.getvalue()
    key = digest_of({"spec": trained.spec, "weights": hashlib.sha256(weights).hexdigest()})[:32]
    ctx = dataclasses.replace(ctx, stage="train", fingerprint=key)
    draft = ctx.draft()
    write_json(draft.path / SPEC_FILE, trained.spec)
    (draft.path / WEIGHTS_FILE).write_bytes(weights)
    return ctx.publish(draft, CheckpointRef)
