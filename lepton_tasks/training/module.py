"""LightningModule with network, loss and optimizer."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import nn

from lepton_tasks.core import catalogue, components
from lepton_tasks.core.errors import ConfigError
from lepton_tasks.core.protocols import LearningTask
from lepton_tasks.core.spec import ComponentSpec
from lepton_tasks.models.named_elsewhere import NamedElsewhere
from lepton_tasks.training.checkpoint import network_of
from lepton_tasks.training.compiling import Judged, compiled
from lepton_tasks.training.distil import Lessons
from lepton_tasks.training.job import Job


class TrainingModule(pl.LightningModule):
    """One learning task's training step on one rank.

    Args:
        job: The training.
        steps: Total number of optimiser steps, for the schedule.
        rank: Rank of this process.
        class_weights: Class weights of the loss, float32 [K], if any.
    """

    def __init__(self, job: Job, *, steps: int, rank: int, class_weights: torch.Tensor | None = None) -> None:
        super().__init__()
        self.job, self.rank, self.steps = job, rank, steps
        self.step_done = 0
        self.task: LearningTask = job.learning_task()
        if job.train.label_smoothing and not self.task.smooths:
            raise ConfigError(
                f"the task {job.task.name!r} smooths no labels.", where="train.label_smoothing", fix="Leave it out."
            )
        for i, spec in enumerate(job.train.augment):
            components.check_augmentation(spec.name, self.task.boxes, where=f"train.augment.{i}.name")
        self.augmentations = [
            catalogue.AUGMENTATIONS.build(spec.name, spec.params, where=f"train.augment.{i}")
            for i, spec in enumerate(job.train.augment)
        ]
        torch.manual_seed(job.seed)
        self.network = network_of(job, self.task)
        if job.teacher is None or not job.teacher.prune:
            self.task.initialise(self.network)
            if isinstance(self.network, NamedElsewhere):
                self.network.begin_with_weights()
        self.loss = _loss(job, self.task, class_weights)
        self.lessons = Lessons(job.teacher, self.task) if job.teacher is not None else None
        embeddings = getattr(self.loss, "of", "") == "embeddings"
        self.trainable = (self.task.embedded if embeddings else self.task.trainable)(self.network)
        self.validation = self.task.validation(self.network, job.features)
        self.validated = self.validation.network  # a submodule, so that it moves with the network
        self.phases = tuple(self.task.phases(self.network))
        if self.phases:
            _check_phases(job)
            self.automatic_optimization = False
        self.judged: Judged = functools.partial(_judged, self.trainable, self.loss, self.lessons)
        if job.train.compile:
            self.judged = compiled(job, self.judged)

    def training_step(self, batch: tuple[torch.Tensor, torch.Tensor]) -> dict[str, torch.Tensor]:
        """``loss`` of one batch of stored rows; with phases also ``parts``, the loss of each, 0 if it was skipped."""
        # Randomness in a step (augmentation, dropout) depends only on seed, step and rank, so exact resumption needs
        # no generator state.
        seed = np.random.SeedSequence([self.job.seed, self.step_done, self.rank]).generate_state(1)[0]
        # `torch.manual_seed` also formats a stack trace per missing device type: 0.3 ms per step.
        torch.default_generator.manual_seed(int(seed))
        if self.device.type == "cuda":
            torch.cuda.manual_seed(int(seed))
        inputs = self.task.inputs(batch[0])
        targets = self.task.targets(batch[1], self.job.train.label_smoothing)
        for augmentation in self.augmentations:
            inputs, targets = augmentation(inputs, targets)
        if not self.phases:
            return {"loss": self.judged(inputs, targets)}
        parts = torch.stack([self._phase(i, inputs, targets) for i in range(len(self.phases))])
        return {"loss": parts.sum(), "parts": parts}

    def configure_optimizers(self) -> Any:
        """The use case's optimiser and its per-step schedule; with phases, one of each per phase."""
        if not self.phases:
            return self._optimizer(self.network.parameters(), self.steps)
        return tuple(self._optimizer(phase.parameters, -(-self.steps // phase.every)) for phase in self.phases)

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip by norm; Lightning's own method rejects optimisers that unscale gradients internally."""
        if gradient_clip_val is None:
            return
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)
        if scaler is not None and getattr(optimizer, "_step_supports_amp_scaling", False):
            scaler.unscale_(optimizer)
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        nn.utils.clip_grad_norm_(parameters, gradient_clip_val)

    def _phase(self, index: int, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Run a phase's step if it is due; return its loss."""
        phase = self.phases[index]
        optimizer: Any = self.optimizers()[index]  # type: ignore[index]  # one for each phase
        if (self.step_done + 1) % phase.every:
            return torch.zeros((), device=inputs.device)
        self.toggle_optimizer(optimizer)  # no gradients for the other phases' parameters
        loss = phase.loss(inputs, targets)
        optimizer.zero_grad()
        self.manual_backward(loss)
        self.configure_gradient_clipping(optimizer.optimizer, self.job.train.gradient_clip)
        optimizer.step()
        self.untoggle_optimizer(optimizer)
        self.lr_schedulers()[index].step()  # type: ignore[index]  # one for each phase
        return loss.detach().float()

    def _optimizer(self, parameters: Iterable[nn.Parameter], steps: int) -> Any:
        train = self.job.train
        optimizer = catalogue.OPTIMIZERS.build(
            train.optimizer.name,
            train.optimizer.params,
            where="train.optimizer",
            parameters=parameters,
            learning_rate=train.learning_rate,
            weight_decay=train.weight_decay,
        )
        schedule = catalogue.SCHEDULES.build(
            train.schedule.name,
            train.schedule.params,
            where="train.schedule",
            optimizer=optimizer,
            steps=steps,
            learning_rate=train.learning_rate,
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def _judged(
    trainable: nn.Module,
    loss: Callable[..., torch.Tensor],
    lessons: Lessons | None,
    inputs: torch.Tensor,
    targets: torch.Tensor,
) -> torch.Tensor:
    """The scalar to minimise."""
    outputs = trainable(inputs)
    own = loss(outputs, targets)
    return own if lessons is None else lessons(own, outputs, inputs)


def _check_phases(job: Job) -> None:
    """Raise `ConfigError` for settings that training phases do not support."""
    for key, chosen in (
        ("devices", job.train.devices > 1),  # DDP expects one backward per forward pass
        ("accumulate", job.train.accumulate > 1),
        ("loss", job.train.loss is not None or job.teacher is not None),
        ("balance", job.train.balance == "loss"),
        ("compile", bool(job.train.compile)),
    ):
        if chosen:
            raise ConfigError(
                f"the task {job.task.name!r} trains its parts in turn, which this setting does not support.",
                where=f"train.{key}",
                fix="Leave it out.",
            )


def _loss(job: Job, task: LearningTask, class_weights: torch.Tensor | None) -> Callable[..., torch.Tensor]:
    """The use case's loss, or else the learning task's own."""
    spec = job.train.loss or (ComponentSpec(name="cross_entropy") if class_weights is not None else None)
    if spec is None:
        return task.loss
    components.check_loss(spec.name, task.loss_of, where="train.loss.name")
    given = {"class_weights": class_weights} if class_weights is not None else {}
    loss: nn.Module = catalogue.LOSSES.build(spec.name, spec.params, where="train.loss", **given)
    return loss
