"""Lightning's training epoch loop without unused hooks."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from pytorch_lightning.loops.training_epoch_loop import _TrainingEpochLoop
from pytorch_lightning.strategies import ParallelStrategy

if TYPE_CHECKING:
    import pytorch_lightning as pl

    from lepton_tasks.training.course import Course


class EpochLoop(_TrainingEpochLoop):
    """Calls one optimiser, its schedule and the course once per step; some 0.4 ms faster than Lightning's loop.

    It skips the check of all ranks for a stop signal after each step, which would synchronise the GPU; `Course` does
    it differently.

    Args:
        trainer: The trainer that will use it.
        course: Its only callback.
    """

    def __init__(self, trainer: pl.Trainer, course: Course) -> None:
        super().__init__(trainer)
        self._course, self._module = course, course.module

    def advance(self, data_fetcher: Any) -> None:
        """One batch: forward, backward and, unless gradients accumulate further, a step."""
        trainer, module, progress = self.trainer, self._module, self.batch_progress
        batch, index, _ = next(data_fetcher)  # on the device already
        progress.is_last_batch = data_fetcher.done
        progress.increment_ready()
        strategy, train = trainer.strategy, module.job.train
        self._course.on_train_batch_start(trainer, module, batch, index)
        optimizer, waits = trainer.optimizers[0], self._should_accumulate()
        alone = waits and isinstance(strategy, ParallelStrategy)
        if train.accumulate == 1 or progress.current.ready % train.accumulate == 1:
            optimizer.zero_grad()
        with strategy.block_backward_sync() if alone else contextlib.nullcontext():
            loss = strategy.training_step(batch)["loss"] / train.accumulate
            loss.backward()
        if not waits:
            module.configure_gradient_clipping(optimizer, train.gradient_clip)
            optimizer.step()
            trainer.lr_scheduler_configs[0].scheduler.step()
        self._course.on_train_batch_end(trainer, module, {"loss": loss.detach()}, batch, index)

    def on_advance_end(self, data_fetcher: Any) -> None:
        """Do nothing: `Course` validates."""
