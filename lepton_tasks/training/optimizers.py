"""Optimisers and learning-rate schedules that a use case can name."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch.nn import Parameter
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler


def adam(
    parameters: Iterable[Parameter],
    learning_rate: float,
    weight_decay: float,
    *,
    betas: tuple[float, float] = (0.9, 0.999),
) -> Optimizer:
    """Adam; its weight decay is an L2 penalty. Source: Kingma and Ba, 2015."""
    return Adam(_groups(parameters, weight_decay), lr=learning_rate, betas=betas)


def adamw(
    parameters: Iterable[Parameter],
    learning_rate: float,
    weight_decay: float,
    *,
    betas: tuple[float, float] = (0.9, 0.999),
) -> Optimizer:
    """Adam with decoupled weight decay. Source: Loshchilov and Hutter, 2019."""
    return AdamW(_groups(parameters, weight_decay), lr=learning_rate, betas=betas)


def sgd(
    parameters: Iterable[Parameter],
    learning_rate: float,
    weight_decay: float,
    *,
    momentum: float = 0.9,
    nesterov: bool = True,
) -> Optimizer:
    """Stochastic gradient descent with Nesterov's momentum. Source: Sutskever et al., 2013."""
    return SGD(_groups(parameters, weight_decay), lr=learning_rate, momentum=momentum, nesterov=nesterov)


def constant(optimizer: Optimizer, steps: int, learning_rate: float) -> LRScheduler:
    """The same learning rate throughout."""
    return LambdaLR(optimizer, lambda step: 1.0)


def cosine(optimizer: Optimizer, steps: int, learning_rate: float, *, warmup: float = 0.05) -> LRScheduler:
    """A linear rise over the first `warmup` share of the steps, then half a cosine down to 0.

    Source: Loshchilov and Hutter, "SGDR", 2017, without restarts.
    """
    rise = max(1, round(warmup * steps))

    def factor(step: int) -> float:
        if step < rise:
            return (step + 1) / rise
        return (1 + math.cos(math.pi * min(1.0, (step - rise) / max(1, steps - rise)))) / 2

    return LambdaLR(optimizer, factor)


def one_cycle(
    optimizer: Optimizer, steps: int, learning_rate: float, *, warmup: float = 0.25, start: float = 0.04
) -> LRScheduler:
    """Half a cosine from ``start * learning_rate`` up to the peak, then half a cosine down to 0.

    Source: Smith and Topin, "Super-convergence", 2018; the momentum is left alone.
    """
    rise = max(1, round(warmup * steps))

    def factor(step: int) -> float:
        if step < rise:
            return start + (1 - start) * (1 - math.cos(math.pi * step / rise)) / 2
        return (1 + math.cos(math.pi * min(1.0, (step - rise) / max(1, steps - rise)))) / 2

    return LambdaLR(optimizer, factor)


def _groups(parameters: Iterable[Parameter], weight_decay: float) -> list[dict[str, object]]:
    """Matrices and kernels decay; biases and the scales of normalisation layers do not."""
    every = [p for p in parameters if p.requires_grad]
    decayed: list[torch.Tensor] = [p for p in every if p.ndim > 1]
    plain: list[torch.Tensor] = [p for p in every if p.ndim <= 1]
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]
