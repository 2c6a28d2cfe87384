"""Compile network and loss as one function (torch.compile)."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch

from lepton_tasks.core.errors import ConfigError
from lepton_tasks.training.job import Job

Judged = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Inputs and targets as augmented -> the scalar to minimise."""


def compiled(job: Job, judged: Judged) -> Judged:
    """`judged`, compiled on first call; changing shapes are recompiled once, with dynamic sizes.

    Raises:
        ConfigError: the training cannot be compiled.

    Source: Ansel et al., "PyTorch 2: faster machine learning through dynamic Python bytecode transformation and graph
    compilation", 2024.
    """
    train = job.train
    if train.strategy == "fsdp" and train.devices * job.machines.nodes > 1:
        raise ConfigError("fsdp does not support torch.compile.", where="train.compile", fix="Write false.")
    if train.compile != "graphs":
        return torch.compile(judged)
    for key, chosen in (("accumulate", train.accumulate > 1), ("precision", train.precision == "16")):
        if chosen:  # the next replay of a CUDA graph overwrites its gradients
            raise ConfigError(
                f"graphs cannot be combined with train.{key}: {getattr(train, key)}.",
                where="train.compile",
                fix="Write true.",
            )
    replayed = torch.compile(judged, mode="reduce-overhead")

    def step(inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        torch.compiler.cudagraph_mark_step_begin()
        loss: torch.Tensor = replayed(inputs, targets)
        return loss

    return step


@contextlib.contextmanager
def explained(job: Job) -> Iterator[None]:
    """Turn compilation errors within the context into `ConfigError`; mostly a missing compiler."""
    if not job.train.compile:
        yield
        return
    from torch._dynamo.exc import TorchDynamoException  # import takes 1 s

    try:
        yield
    except TorchDynamoException as error:
        reason = str(getattr(error, "inner_exception", error)).strip().partition("\n")[0]
        raise ConfigError(
            f"torch cannot compile this training here: {reason}.",
            where="train.compile",
            fix="Install a C++ compiler (g++), or write false.",
        ) from error
