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
    """Weight of the distillation loss in the total."""
    temperature: float = pydantic.Field(2.0, gt=0)
    """Softmax temperature of its probabilities."""
    prune: float = pydantic.Field(0.0, ge=0, lt=1)
    """Fraction of channels to prune; the pruned teacher is the student. 0: another network."""


class Job(pydantic.BaseModel):
    """One training; stored as JSON so that all ranks on all machines read the same."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    run_id: str
    """Run of this training."""
    features: Path
    """Folder of the features artifact."""
    workdir: Path
    """Output folder of this training; survives a killed process."""
    task: ComponentSpec
    """The learning task."""
    model: ComponentSpec
    """The network."""
    train: Train
    """Training settings."""
    fitted: dict[str, Any]
    """Fitted values of the features."""
    labels: list[str]
    """Names of the classes."""
    seed: int
    """Seed of weights, shuffles and augmentations."""
    machines: Training = Training()
    """The machines it runs on."""
    teacher: Teacher | None = None
    """Teacher for distillation."""

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
            use_case: The use case.
            run_id: Run of this training.
            features: Folder of the features artifact.
            workdir: See the attribute.
            preprocessor: Contents of ``preprocessor.json``.
            seed: Seed of weights, shuffles, augmentations.
            machines: The machines it runs on; default this one.
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
        """File of the job itself."""
        return self.workdir / JOB_FILE

    @property
    def resume(self) -> Path:
        """State to resume from: weights, optimiser, schedule, step, history."""
        return self.workdir / "resume.pt"

    @property
    def best(self) -> Path:
        """Weights of the best epoch so far."""
        return self.workdir / "best.pt"

    @property
    def history(self) -> Path:
        """JSON list with one row per epoch."""
        return self.workdir / "history.json"

    @property
    def rates(self) -> Path:
        """`Course.rates` as JSON; written at the end of the training."""
        return self.workdir / "learning_rate.json"

    @property
    def summary(self) -> Path:
        """Layer table of the network, as text."""
        return self.workdir / "model_summary.txt"

    def epoch_plot(self, epoch: int) -> Path:
        """The learning task's plot after an epoch, if any."""
        return self.workdir / f"epoch_{epoch:04d}.png"

    @property
    def outcome(self) -> Path:
        """Facts of a successful training; written at the end."""
        return self.workdir / "outcome.json"

    @property
    def failure(self) -> Path:
        """Error of a failed training, in the form of `LeptonError.to_dict`."""
        return self.workdir / "failure.json"

    def learning_task(self) -> LearningTask:
        """The learning task, with the fitted values."""
        return catalogue.LEARNING_TASKS.build(
            self.task.name, self.task.params, where="task", fitted=self.fitted, labels=self.labels
        )

    def rows(self) -> list[dict[str, Any]]:
        """The history so far."""
        return list(json.loads(self.history.read_text())) if self.history.exists() else []
