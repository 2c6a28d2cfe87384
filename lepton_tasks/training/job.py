"""Input and output files of a training process."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pydantic

from lepton_tasks.core import catalogue
from lepton_tasks.core.environment import Training
from lepton_tasks.core.protocols import LearningTask
from lepton_tasks.core.spec import ComponentSpec
from lepton_tasks.core.train_settings import Train
from lepton_tasks.core.use_case import UseCase

JOB_FILE = "job.json"


class Teacher(pydantic.BaseModel):
    """A trained network that another one learns from."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    checkpoint: Path
    """Folder of its checkpoint."""
    share: float = pydantic.Field(0.5, ge=0, le=1)
    """How much its answers count beside the targets."""
    temperature: float = pydantic.Field(2.0, gt=0)
    """How far its probabilities are evened out."""
    prune: float = pydantic.Field(0.0, ge=0, lt=1)
    """The share of its channels without which it is itself what learns; 0 for another network."""


class Job(pydantic.BaseModel):
    """One training, as JSON on disk, so that every rank on every machine reads the same."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    run_id: str
    """The run that it belongs to."""
    features: Path
    """Folder of the features artifact."""
    workdir: Path
    """Folder for everything this training writes; it outlives a killed process."""
    task: ComponentSpec
    """The learning task."""
    model: ComponentSpec
    """The network."""
    train: Train
    """How it is trained."""
    fitted: dict[str, Any]
    """What the feature extractor learned."""
    labels: list[str]
    """Names of the classes."""
    seed: int
    """Seed of weights, shuffles and augmentations."""
    machines: Training = Training()
    """The machines it runs on."""
    teacher: Teacher | None = None
    """Whose answers are learned from, too."""

    @classmethod
    def of(
        cls,
        use_case: UseCase,
        *,
        run_id: str,
        features: Path,
        workdir: Path,
        preprocessor: Mapping[str, Any],
        seed: int,
        machines: Training | None = None,
    ) -> Job:
        """The training of a use case.

        Args:
            use_case: Says what is trained and how.
            run_id: The run that it belongs to.
            features: Folder of the features artifact.
            workdir: See the attribute.
            preprocessor: Contents of ``preprocessor.json``.
            seed: Of weights, shuffles and augmentations.
            machines: The machines it runs on; this one if nothing is said.
        """
        return cls(
            run_id=run_id,
            features=features,
            workdir=workdir,
            task=use_case.learning_task,
            model=use_case.network,
            train=use_case.train,
            fitted=preprocessor["fitted"],
            labels=preprocessor["labels"],
            seed=seed,
            machines=machines or Training(),
        )

    @property
    def file(self) -> Path:
        """Where the job itself lies."""
        return self.workdir / JOB_FILE

    @property
    def resume(self) -> Path:
        """Everything needed to go on: weights, optimiser, schedule, step, history."""
        return self.workdir / "resume.pt"

    @property
    def best(self) -> Path:
        """Weights of the best epoch so far."""
        return self.workdir / "best.pt"

    @property
    def history(self) -> Path:
        """One row an epoch, as a JSON list."""
        return self.workdir / "history.json"

    @property
    def rates(self) -> Path:
        """The learning rate along the steps, as `Course.rates` has it; there is none before the end."""
        return self.workdir / "learning_rate.json"

    @property
    def summary(self) -> Path:
        """The layers of the network, as text."""
        return self.workdir / "model_summary.txt"

    def epoch_plot(self, epoch: int) -> Path:
        """The picture that was drawn after an epoch, if one was."""
        return self.workdir / f"epoch_{epoch:04d}.png"

    @property
    def outcome(self) -> Path:
        """Facts of a training that ended well; there is none before."""
        return self.workdir / "outcome.json"

    @property
    def failure(self) -> Path:
        """The error of a training that ended badly, as `LeptonError.to_dict` gives it."""
        return self.workdir / "failure.json"

    def learning_task(self) -> LearningTask:
        """The learning task, told what was fitted."""
        return catalogue.LEARNING_TASKS.build(
            self.task.name, self.task.params, where="task", fitted=self.fitted, labels=self.labels
        )

    def rows(self) -> list[dict[str, Any]]:
        """The history so far."""
        return list(json.loads(self.history.read_text())) if self.history.exists() else []
