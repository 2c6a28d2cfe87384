"""Train a network with Lightning."""

from __future__ import annotations

import logging
import os
import warnings
from typing import Literal

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies import Strategy

from lepton_tasks.core.errors import ConfigError, StageError
from lepton_tasks.core.protocols import Rows
from lepton_tasks.core.store import write_json
from lepton_tasks.training.batches import Batches
from lepton_tasks.training.checkpoint import network_of
from lepton_tasks.training.compiling import explained
from lepton_tasks.training.course import Course, save_whole
from lepton_tasks.training.job import Job
from lepton_tasks.training.layout import ShardingStrategy, check_strategy
from lepton_tasks.training.loop import EpochLoop
from lepton_tasks.training.module import TrainingModule
from lepton_tasks.training.summary import summary

_PRECISION: dict[str, Literal["32-true", "bf16-mixed", "16-mixed"]] = {
    "32": "32-true",
    "bf16": "bf16-mixed",
    "16": "16-mixed",
}


def fit(job: Job) -> None:
    """Train to the end, resuming an earlier attempt if there is one; success writes `job.outcome`.

    Called in each rank's process; torchrun's variables identify the rank. Only rank 0 writes.

    Raises:
        ConfigError: the machine lacks required hardware.
        LeptonError: the loss is not finite.
        StageError: the process received a stop signal; the state to resume is written.
    """
    _quiet()
    rank, ranks = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    state = torch.load(job.resume, map_location="cpu", weights_only=True) if job.resume.exists() else None
    task = job.learning_task()
    rows = task.training_rows(job.features)
    device = _device(job)
    weights = class_weights(rows.targets, len(job.labels)) if job.train.balance != "none" else None
    sampled = weights is not None and job.train.balance == "sampling"
    batches = Batches(
        rows,
        size=job.train.batch_size,
        seed=job.seed,
        rank=rank,
        ranks=ranks,
        step=state["step"] if state else 0,
        shares=weights[rows.targets] / weights[rows.targets].sum() if sampled and weights is not None else None,
        device=device,
    )
    module = TrainingModule(
        job,
        steps=-(-batches.steps // job.train.accumulate) * job.train.epochs,
        rank=rank,
        class_weights=torch.from_numpy(weights) if weights is not None and not sampled else None,
    )
    course = Course(job, module, batches, state=state)
    if rank == 0:
        job.summary.write_text(summary(module.network, module.validation))
    if not course.done:
        try:
            with explained(job):
                _trainer(job, course, ranks, device).fit(module, batches)
        except torch.OutOfMemoryError as error:
            raise ConfigError(
                f"the GPU's memory does not hold a step with batches of {job.train.batch_size:,}.",
                where="train.batch_size",
                fix="Lower it and raise train.accumulate accordingly; train.precision: bf16 needs less, too.",
            ) from error
        except RuntimeError as error:
            if rank > 0 and course.told_to_stop:  # rank 0 also stopped and closed the connection
                raise StageError("stopped together with rank 0.", where="train") from error
            raise
        if rank == 0 and course.told_to_stop:  # in the last epoch; the next attempt completes it
            raise course.stopped()
    if rank == 0:
        _calibrate(job, module, rows)
        write_json(job.rates, course.rates)
        write_json(job.outcome, {**course.outcome(), "parameters": sum(p.numel() for p in module.network.parameters())})


def _calibrate(job: Job, module: TrainingModule, rows: Rows) -> None:
    """Let the task set parameters not trained by gradients in the best weights."""
    network = network_of(job, module.task).to(module.device)  # the module's own may be sharded over ranks
    network.load_state_dict(torch.load(job.best, map_location=module.device, weights_only=True))
    module.task.calibrate(network, rows)
    save_whole(network.state_dict(), job.best)


def class_weights(targets: np.ndarray, classes: int) -> np.ndarray:
    """Inverse-frequency loss weights of the classes: float32 [classes], 1 on average over the rows.

    Args:
        targets: The class of each row, int [N].
        classes: Number of classes.

    Raises:
        ConfigError: the targets are not classes.
    """
    if targets.ndim != 1 or not np.issubdtype(targets.dtype, np.integer) or classes == 0:
        raise ConfigError("only classes can be balanced.", where="train.balance", fix="Write none.")
    counts = np.bincount(targets, minlength=classes)
    return (len(targets) / (np.maximum(counts, 1) * np.count_nonzero(counts))).astype(np.float32)


def _trainer(job: Job, course: Course, ranks: int, device: torch.device) -> pl.Trainer:
    local = _local_ranks()
    check_strategy(job)
    trainer = pl.Trainer(
        accelerator=device.type,
        devices=local,
        num_nodes=ranks // local,
        strategy=_strategy(job, ranks),
        benchmark=device.type == "cuda",  # picks the fastest convolution algorithms
        precision=_PRECISION[job.train.precision],
        max_epochs=job.train.epochs - course.epochs,
        accumulate_grad_batches=job.train.accumulate,
        gradient_clip_val=None if course.module.phases else job.train.gradient_clip,  # phases clip their own
        callbacks=[course],
        default_root_dir=job.workdir,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    if not course.module.phases and job.train.precision != "16":  # those need Lightning's own loop
        trainer.fit_loop.epoch_loop = EpochLoop(trainer, course)
    return trainer


def _strategy(job: Job, ranks: int) -> Strategy | str:
    return "auto" if ranks == 1 else ShardingStrategy() if job.train.strategy == "fsdp" else "ddp"


def _local_ranks() -> int:
    """Processes of this training on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def _device(job: Job) -> torch.device:
    """This rank's device; raises `ConfigError` if the required hardware is missing."""
    local = _local_ranks()
    if not torch.cuda.is_available():
        if job.train.precision == "16":
            raise ConfigError(
                "precision 16 needs a GPU; none is available.", where="train.precision", fix="Write bf16 or 32."
            )
        return torch.device("cpu")
    if local > torch.cuda.device_count():
        raise ConfigError(
            f"{local} requested, but this machine has {torch.cuda.device_count()} GPUs.",
            where="train.devices",
            fix="Lower it.",
        )
    torch.set_float32_matmul_precision("high")  # TF32, to use the GPU's tensor cores
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    torch.cuda.set_device(device)
    return device


def _quiet() -> None:
    """Silence Lightning's advertisements, and its advice on data loaders, which are not used here."""
    for name in ("pytorch_lightning", "lightning.pytorch", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"pytorch_lightning|lightning_fabric")
