"""Training callback: validation, checkpoints, model selection and resumption."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import time
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
import torch.distributed as dist

from lepton_tasks.core import catalogue
from lepton_tasks.core.errors import LeptonError, StageError
from lepton_tasks.core.store import write_json
from lepton_tasks.models.inference import predict
from lepton_tasks.training.average import AveragedWeights
from lepton_tasks.training.batches import Batches
from lepton_tasks.training.energy import Meter, energies
from lepton_tasks.training.job import Job
from lepton_tasks.training.layout import Replicas, ShardingStrategy, Shards
from lepton_tasks.training.module import TrainingModule

_RATES = 1_000
"""Approximate number of learning rates recorded for the plot."""
_SAVE_SECONDS, _SAVE_SHARE = 10.0, 0.05
"""Minimum checkpoint interval and maximum fraction of time spent on it, without `train.checkpoint_steps`."""
_SHARDED_STEPS = 50  # ranks that write together must do so after the same step, so not by clock


class Course(pl.Callback):
    """Validates after each epoch, saves the best weights, stops early, and writes the state to resume from.

    Lightning's own checkpoints are not used: there, epoch completion depends on several counters and the hook that
    wrote them, so resuming mid-epoch is not exact. Here the position is a single step number.

    Args:
        job: The training.
        module: The module to train.
        batches: Its training batches.
        state: Contents of `job.resume`, when resuming.
    """

    def __init__(
        self,
        job: Job,
        module: TrainingModule,
        batches: Batches,
        *,
        state: dict[str, Any] | None,
    ) -> None:
        self.job, self.module, self.batches = job, module, batches
        self._state = state
        self.history: list[dict[str, Any]] = state["history"] if state else []
        self.best_epoch: int = state["best_epoch"] if state else -1
        # Sums of the total loss and of each phase's.
        none = [0.0] * (1 + len(module.phases))
        self._loss_sum = torch.tensor(state["loss_sum"] if state else none, dtype=torch.float64)
        self._loss_steps: int = state["loss_steps"] if state else 0
        self._seconds_before: float = state["seconds"] if state else 0.0
        self._watt_hours: float = state["watt_hours"] if state else 0.0
        self.rates: list[list[float]] = state["rates"] if state else []
        """At intervals: the fractional epoch, and the learning rate of each optimiser in the next step."""
        self._rate_steps = -(-batches.steps * job.train.epochs // _RATES)
        self._timed_steps = self._unsaved = 0
        self._save_steps = job.train.checkpoint_steps or (_SHARDED_STEPS if job.train.strategy == "fsdp" else None)
        self._average: AveragedWeights | None = None
        self.told_to_stop = False

    @property
    def epochs(self) -> int:
        """Number of finished epochs."""
        return len(self.history)

    @property
    def done(self) -> bool:
        """Whether all epochs are finished, or patience has run out."""
        return self.epochs >= self.job.train.epochs or self.epochs - 1 - self.best_epoch >= self.job.train.patience

    def outcome(self) -> dict[str, Any]:
        """Facts of the finished training."""
        last = self.history[-1]
        return {"epochs": self.epochs, "best_epoch": self.best_epoch, "seconds": last["seconds"], **energies(last)}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Restore the state of the earlier attempt."""
        # Replaces Lightning's handler, which starts a collective call in the middle of others.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        sharded = isinstance(trainer.strategy, ShardingStrategy)
        self._layout = (Shards if sharded else Replicas)(trainer.global_rank)
        if self.job.train.average is not None:
            spec = self.job.train.average
            rule = catalogue.AVERAGES.build(spec.name, spec.params, where="train.average")
            self._average = AveragedWeights(self.module.network, rule, steps=self.module.steps)
        if self._state is not None:
            self._layout.put(self._state["network"], into=self.module.network.state_dict())
            self.module.step_done = self._state["step"]
            for optimizer, saved in zip(trainer.optimizers, self._state["optimizers"], strict=True):
                self._layout.load_optimizer(self.module.network, optimizer, saved)
            for config, saved in zip(trainer.lr_scheduler_configs, self._state["schedules"], strict=True):
                config.scheduler.load_state_dict(saved)
            trainer.precision_plugin.load_state_dict(self._state["precision"])
            if self._average is not None:
                self._layout.put(self._state["average"], into=self._average.state_dict())
            self._state = None
        self._loss_sum = self._loss_sum.to(self.module.device)
        self._meter = Meter(self.module.device, local_rank=trainer.local_rank)
        self._began = self._epoch_began = time.monotonic()
        self._save_at = self._began + _SAVE_SECONDS

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Record the learning rate at intervals."""
        if self.module.step_done % self._rate_steps == 0:
            now = [optimizer.param_groups[0]["lr"] for optimizer in trainer.optimizers]
            self.rates.append([self.module.step_done / self.batches.steps, *now])

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count the step; write the state at intervals and on a stop signal."""
        self._loss_sum[0].add_(outputs["loss"].detach(), alpha=self.job.train.accumulate)  # Lightning divides by it
        if "parts" in outputs:
            self._loss_sum[1:] += outputs["parts"]
        self._loss_steps += 1
        self._timed_steps += 1
        self.module.step_done += 1
        stepped = self._stepped()
        if stepped and self._average is not None:
            self._average.update(self._optimizer_steps())
        self._unsaved += 1
        if self.module.step_done % self.batches.steps == 0:
            return  # written after validation: a run resumed from here would skip it
        if stepped and self._layout.stops(self.told_to_stop):
            self._save(trainer)
            raise self.stopped()
        if stepped and self._due():
            self._save(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Validate, save the best weights, history and state; exit on a stop signal."""
        with self._average.in_place() if self._average is not None else contextlib.nullcontext():
            self._judge(trainer)
        self._loss_sum, self._loss_steps = torch.zeros_like(self._loss_sum), 0
        self._save(trainer)
        if not self.done and self._layout.stops(self.told_to_stop):
            raise self.stopped()
        trainer.should_stop = self.done
        self._epoch_began, self._timed_steps = time.monotonic(), 0

    def _judge(self, trainer: pl.Trainer) -> None:
        """Validate the current weights, append the epoch to the history, and save them if they are the best."""
        # After resuming, all ranks start from rank 0's sum; the figure does not affect training.
        train_loss, *parts = trainer.strategy.reduce(self._loss_sum / self._loss_steps, reduce_op="mean").tolist()
        # Measured after the loss, whose transfer waits for all steps on a GPU.
        rate = self._timed_steps * self.batches.rows_per_step / (time.monotonic() - self._epoch_began)
        self._check_finite(train_loss)
        energy = torch.tensor(self._meter.take(), dtype=torch.float64, device=self.module.device)
        self._watt_hours += float(trainer.strategy.reduce(energy, reduce_op="sum"))
        row = {
            "epoch": self.epochs,
            "train_loss": train_loss,
            **{f"{p.name}_loss": part * p.every for p, part in zip(self.module.phases, parts, strict=True)},
            **{f"validation_{name}": value for name, value in self._validate(trainer).items()},
            "learning_rate": trainer.optimizers[0].param_groups[0]["lr"],
            "samples_per_second": rate,
            **_gpu_memory(self.module.device),
            self._meter.name: self._watt_hours,
            "seconds": self._seconds(),
        }
        self.history.append(row)
        newest = self.job.train.keep == "last" or self.best_epoch < 0
        if newest or self._score(-1) > self._score(self.best_epoch):
            self.best_epoch = row["epoch"]
            weights = self._layout.whole(self.module.network.state_dict())
            if trainer.is_global_zero:
                save_whole(weights, self.job.best)
        for config in trainer.lr_scheduler_configs:
            if hasattr(config.scheduler, "observe"):
                config.scheduler.observe(self._score(-1))

    def _validate(self, trainer: pl.Trainer) -> dict[str, float]:
        """Metrics on the whole validation split, distributed over the ranks."""
        rank, ranks = trainer.global_rank, trainer.world_size
        rows, network, names, metrics = self.module.validation
        inputs = rows.inputs
        mine = inputs[rank::ranks] if rank < len(inputs) else inputs[:1]  # surplus ranks compute an unused row
        with self._layout.gathered(self.module.trainable):
            outputs = predict(network, mine, names)
        if ranks > 1:
            shares: list[Any] = [None] * ranks
            dist.all_gather_object(shares, outputs)
            for name, own in outputs.items():
                outputs[name] = np.empty((len(inputs), *own.shape[1:]), own.dtype)
                for index, share in enumerate(shares):
                    outputs[name][index::ranks] = share[name][: len(range(index, len(inputs), ranks))]
        if trainer.is_global_zero:
            self.module.task.epoch_plot(self.job.epoch_plot(self.epochs), rows, outputs)
        return metrics(outputs, rows.targets)

    def _score(self, epoch: int) -> tuple[float, ...]:
        """Score of an epoch; larger is better, NaN is worst."""
        prefix = "validation_"
        row = self.history[epoch]
        score = self.module.task.score({name[len(prefix) :]: row[name] for name in row if name.startswith(prefix)})
        return tuple(-math.inf if math.isnan(value) else value for value in score)

    def _stepped(self) -> bool:
        """Whether no gradients are being accumulated; only then is the saved state complete."""
        done = self.module.step_done % self.batches.steps
        return done % self.job.train.accumulate == 0

    def _optimizer_steps(self) -> int:
        """Finished optimiser steps; an epoch's remainder is one step."""
        accumulate = self.job.train.accumulate
        epoch, batch = divmod(self.module.step_done, self.batches.steps)
        return epoch * -(-self.batches.steps // accumulate) + batch // accumulate

    def _due(self) -> bool:
        """Whether a checkpoint is due."""
        if self._save_steps is not None:
            return self._unsaved >= self._save_steps
        return time.monotonic() >= self._save_at

    def _save(self, trainer: pl.Trainer) -> None:
        began, self._unsaved = time.monotonic(), 0
        self._write(trainer)
        now = time.monotonic()
        self._save_at = now + max(_SAVE_SECONDS, (now - began) / _SAVE_SHARE)

    def _write(self, trainer: pl.Trainer) -> None:
        whole, network = self._layout.whole, self.module.network
        weights = whole(network.state_dict())
        optimizers = [self._layout.optimizer_state(network, optimizer) for optimizer in trainer.optimizers]
        average = whole(self._average.state_dict()) if self._average is not None else None
        if not trainer.is_global_zero:
            return
        self._check_finite(float(self._loss_sum[0]))
        write_json(self.job.history, self.history)
        save_whole(
            {
                "network": weights,
                "optimizers": optimizers,
                "schedules": [config.scheduler.state_dict() for config in trainer.lr_scheduler_configs],
                "precision": trainer.precision_plugin.state_dict(),
                "average": average,
                "step": self.module.step_done,
                "history": self.history,
                "best_epoch": self.best_epoch,
                "loss_sum": self._loss_sum.tolist(),
                "loss_steps": self._loss_steps,
                "seconds": self._seconds(),
                # Since the last epoch, rank 0's alone: a sum needs all ranks at the same step.
                "watt_hours": self._watt_hours + self._meter.spent(),
                "rates": self.rates,
            },
            self.job.resume,
        )

    def _check_finite(self, loss: float) -> None:
        if not np.isfinite(loss):
            raise LeptonError(
                f"the training loss became {loss} in epoch {self.epochs} of {self.job.train.epochs}.",
                where="train",
                fix=f"Lower train.learning_rate ({self.job.train.learning_rate:g}) or set train.gradient_clip.",
            )

    def _seconds(self) -> float:
        return self._seconds_before + time.monotonic() - self._began

    def stopped(self) -> StageError:
        """The error to raise after a stop signal."""
        return StageError(
            f"training was stopped after {self.module.step_done:,} steps.",
            where="train",
            fix="Run it again to resume.",
        )

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.told_to_stop = True


def _gpu_memory(device: torch.device) -> dict[str, float]:
    """Peak GPU memory allocated by tensors, in GiB; empty without a GPU."""
    return {"gpu_memory_gib": torch.cuda.max_memory_allocated(device) / 2**30} if device.type == "cuda" else {}


def save_whole(value: Any, path: Path) -> None:
    """Atomic `torch.save`: readers see the old file or the new one."""
    part = path.with_name(f".{path.name}")
    torch.save(value, part)
    os.replace(part, path)
