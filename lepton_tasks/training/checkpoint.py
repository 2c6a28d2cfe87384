"""Checkpoint artifact: weights and the spec to rebuild the network. Independent of Lightning."""

from __future__ import annotations

import csv
import dataclasses
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_tasks.core import catalogue
from lepton_tasks.core.errors import ArtifactError
from lepton_tasks.core.protocols import LearningTask
from lepton_tasks.core.store import write_json
from lepton_tasks.training.job import Job

if TYPE_CHECKING:
    from torch import nn

SCHEMA_VERSION = 1
WEIGHTS_FILE, SPEC_FILE, HISTORY_FILE = "model.pt", "checkpoint.json", "history.csv"


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A trained network with its learning task, in evaluation mode on the CPU."""

    network: nn.Module
    task: LearningTask
    spec: dict[str, Any]

    @property
    def deployable(self) -> nn.Module:
        """The network for serving: decoded inputs in, outputs out."""
        return self.task.deployable(self.network).eval()

    @property
    def evaluable(self) -> nn.Module:
        """The network for evaluation: `LearningTask.evaluation_rows` in, outputs out."""
        return self.task.evaluable(self.network).eval()


def write_checkpoint(folder: Path, job: Job, outcome: dict[str, Any]) -> None:
    """Write the selected weights of a finished training, the network's spec, and the history."""
    shutil.copyfile(job.best, folder / WEIGHTS_FILE)
    write_json(folder / SPEC_FILE, spec_of(job, outcome))
    write_history(folder / HISTORY_FILE, job.rows())


def spec_of(job: Job, outcome: dict[str, Any]) -> dict[str, Any]:
    """Spec to rebuild the network of a finished training, with its outcome, as JSON values."""
    return {
        "schema_version": SCHEMA_VERSION,
        "task": job.task.model_dump(),
        "model": job.model.model_dump(),
        "network_arguments": job.learning_task().network_arguments(),
        "labels": job.labels,
        "fitted": job.fitted,
        "train": job.train.model_dump(mode="json"),
        "seed": job.seed,
        **outcome,
    }


def write_history(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    """Write the history as CSV, one row per epoch."""
    names = dict.fromkeys(name for row in rows for name in row)  # a run resumed on another machine may measure others
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(names))
        writer.writeheader()
        writer.writerows(rows)
    return path


def read_checkpoint(folder: Path) -> Checkpoint:
    """Load a checkpoint folder; raises `ArtifactError` if the weights do not fit the catalogue's class."""
    return restored(
        json.loads((folder / SPEC_FILE).read_text()), read_weights(folder / WEIGHTS_FILE), where=str(folder)
    )


def finished(job: Job, outcome: dict[str, Any]) -> Checkpoint:
    """Selected network of a finished training, read from its work folder."""
    task = job.learning_task()
    network = network_of(job, task)
    network.load_state_dict(read_weights(job.best))
    return Checkpoint(network.eval(), task, spec_of(job, outcome))


def network_of(job: Job, task: LearningTask) -> nn.Module:
    """The untrained network of a job, initialised from torch's generator, or the teacher with channels pruned."""
    import torch

    if job.teacher is not None and job.teacher.prune:
        from lepton_tasks.models.pruning import prune

        network = read_checkpoint(job.teacher.checkpoint).network
        rows = torch.from_numpy(np.array(task.training_rows(job.features).inputs[:2]))
        prune(network, task.trainable(network), task.inputs(rows), share=job.teacher.prune)
        network.train()
    else:
        model, arguments = job.model, task.network_arguments()
        network = catalogue.MODELS.build(model.name, model.params, where="model", **arguments)
    # Channels-last convolutions take 0.6 of the time for `cnn` on a CPU, and suit GPUs.
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]  # torch's stub


def read_weights(path: Path) -> dict[str, Any]:
    """Load a `torch.save` file; only tensors and plain values, no code execution."""
    import torch

    weights: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return weights


def restored(spec: dict[str, Any], weights: dict[str, Any], *, where: str) -> Checkpoint:
    """Rebuild a network from `spec_of` and its weights; raises `ArtifactError` if they do not fit."""
    task = catalogue.LEARNING_TASKS.build(
        spec["task"]["name"], spec["task"]["params"], where=SPEC_FILE, fitted=spec["fitted"], labels=spec["labels"]
    )
    model = spec["model"]
    network: nn.Module = catalogue.MODELS.build(
        model["name"], model["params"], where=SPEC_FILE, **spec["network_arguments"]
    )
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        raise ArtifactError(
            f"the weights do not fit the model {model['name']!r}: {error}.",
            where=where,
            fix="The model's code has changed: train again.",
        ) from error
    return Checkpoint(network.eval(), task, spec)
