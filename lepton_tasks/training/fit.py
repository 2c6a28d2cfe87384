"""Train one network with Lightning."""

from __future__ import annotations

import logging
import os
import warnings
from typing import Any, Literal

import numpy as np
import pytorch_lightning as pl
import torch
from torch import nn

from lepton_tasks.core import catalogue
from lepton_tasks.core.errors import ConfigError
from lepton_tasks.core.store import write_json
from lepton_tasks.training.batches import Batches, open_split
from lepton_tasks.training.course import Course
from lepton_tasks.training.job import Job

_PRECISION: dict[str, Literal["32-true", "bf16-mixed", "16-mixed"]] = {
    "32": "32-true",
    "bf16": "bf16-mixed",
    "16": "16-mixed",
}


def fit(job: Job) -> None:
    """Train to the end, from wherever an earlier attempt got to; `job.outcome` is there when it went well.

    Called in each rank's process; which one it is, the variables of torchrun say. Rank 0 alone writes.

    Raises:
        ConfigError: the machine lacks what the use case asks for.
        LeptonError: the loss is not finite.
        StageError: the process was told to stop; what is needed to go on is written.
    """
    _quiet()
    rank, ranks, local = (int(os.environ.get(name, default)) for name, default in _TORCHRUN)
    state = torch.load(job.resume, map_location="cpu", weights_only=True) if job.resume.exists() else None
    batches = Batches(
        *open_split(job.features, "train"),
        size=job.train.batch_size,
        seed=job.seed,
        rank=rank,
        ranks=ranks,
        step=state["step"] if state else 0,
    )
    module = TrainingModule(job, steps=batches.steps * job.train.epochs, rank=rank)
    course = Course(job, batches, *open_split(job.features, "validation"), state=state)
    if not course.done:
        trainer = pl.Trainer(
            accelerator=_accelerator(job, local),
            devices=local,
            num_nodes=ranks // local,
            strategy="ddp" if ranks > 1 else "auto",
            precision=_PRECISION[job.train.precision],
            max_epochs=job.train.epochs - course.epochs,
            gradient_clip_val=job.train.gradient_clip,
            callbacks=[course],
            default_root_dir=job.workdir,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
        )
        trainer.fit(module, batches)
    if rank == 0:
        write_json(job.outcome, {**course.outcome(), "parameters": sum(p.numel() for p in module.network.parameters())})


_TORCHRUN = (("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_WORLD_SIZE", "1"))


class TrainingModule(pl.LightningModule):
    """The network, its loss and its optimiser, as Lightning's loop wants them.

    Args:
        job: The training.
        steps: Optimiser steps of the whole training, which the schedule is laid out for.
        rank: Of this process.
    """

    def __init__(self, job: Job, *, steps: int, rank: int) -> None:
        super().__init__()
        self.job, self.rank, self.steps = job, rank, steps
        self.step_done = 0
        self.task: Any = catalogue.LEARNING_TASKS.build(job.task.name, job.task.params, where="task")
        self.augmentations = [
            catalogue.AUGMENTATIONS.build(spec.name, spec.params, where=f"train.augment.{i}")
            for i, spec in enumerate(job.train.augment)
        ]
        torch.manual_seed(job.seed)
        arguments = self.task.network_arguments(job.fitted, job.labels)
        network: nn.Module = catalogue.MODELS.build(job.model.name, job.model.params, where="model", **arguments)
        # Convolutions over pixels that lie channel by channel: 0.6 of the time for `cnn` on a CPU, and right for GPUs.
        self.network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub
        self.trainable = self.task.trainable(self.network, job.fitted)
        self.deployable = self.task.deployable(self.network, job.fitted)

    def training_step(self, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        """The loss of one batch of stored rows."""
        # All chance in a step (augmentation, dropout) hangs on seed, step and rank alone, so that no generator's state
        # need be kept for a training to go on exactly.
        seed = np.random.SeedSequence([self.job.seed, self.step_done, self.rank]).generate_state(1)[0]
        torch.manual_seed(int(seed))
        inputs = self.task.inputs(batch[0])
        targets = self.task.targets(batch[1], self.job.labels, self.job.train.label_smoothing)
        for augmentation in self.augmentations:
            inputs, targets = augmentation(inputs, targets)
        loss: torch.Tensor = self.task.loss(self.trainable(inputs), targets)
        return loss

    def configure_optimizers(self) -> Any:
        """The use case's optimiser, with its schedule stepped after every batch."""
        train = self.job.train
        optimizer = catalogue.OPTIMIZERS.build(
            train.optimizer.name,
            train.optimizer.params,
            where="train.optimizer",
            parameters=self.network.parameters(),
            learning_rate=train.learning_rate,
            weight_decay=train.weight_decay,
        )
        schedule = catalogue.SCHEDULES.build(
            train.schedule.name,
            train.schedule.params,
            where="train.schedule",
            optimizer=optimizer,
            steps=self.steps,
            learning_rate=train.learning_rate,
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def _accelerator(job: Job, local: int) -> Literal["cuda", "cpu"]:
    if not torch.cuda.is_available():
        if job.train.precision == "16":
            raise ConfigError("16 needs a GPU, and there is none.", where="train.precision", fix="Write bf16 or 32.")
        return "cpu"
    if local > torch.cuda.device_count():
        raise ConfigError(
            f"{local} asked for, but this machine has {torch.cuda.device_count()} GPUs.",
            where="train.devices",
            fix="Lower it.",
        )
    return "cuda"


def _quiet() -> None:
    """Keep Lightning's advertisements and its advice on data loaders, which are not used here, out of the log."""
    for name in ("pytorch_lightning", "lightning.pytorch", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"pytorch_lightning|lightning_fabric")
