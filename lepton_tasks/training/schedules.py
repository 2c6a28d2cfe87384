"""Learning-rate schedules by name, advanced after every optimizer step."""

from __future__ import annotations

import math
from typing import Annotated

import pydantic
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

Share = Annotated[float, pydantic.Field(ge=0, lt=1)]


def constant(optimizer: Optimizer, steps: int, learning_rate: float) -> LRScheduler:
    """Constant learning rate."""
    return LambdaLR(optimizer, lambda step: 1.0)


def cosine(optimizer: Optimizer, steps: int, learning_rate: float, *, warmup: float = 0.05) -> LRScheduler:
    """Linear warm-up over the `warmup` fraction of steps, then half a cosine to 0.

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
    """Half a cosine from ``start * learning_rate`` up to the peak, then half a cosine to 0.

    Source: Smith and Topin, "Super-convergence", 2018; the momentum is constant.
    """
    rise = max(1, round(warmup * steps))

    def factor(step: int) -> float:
        if step < rise:
            return start + (1 - start) * (1 - math.cos(math.pi * step / rise)) / 2
        return (1 + math.cos(math.pi * min(1.0, (step - rise) / max(1, steps - rise)))) / 2

    return LambdaLR(optimizer, factor)


def step(optimizer: Optimizer, steps: int, learning_rate: float, *, drops: int = 3, factor: float = 0.1) -> LRScheduler:
    """Multiply by `factor` after each of ``drops + 1`` equal parts of the training but the last."""
    part = max(1, math.ceil(steps / (drops + 1)))
    return LambdaLR(optimizer, lambda step: factor ** min(drops, step // part))


def inverse_sqrt(optimizer: Optimizer, steps: int, learning_rate: float, *, warmup: Share = 0.1) -> LRScheduler:
    """Linear warm-up over the `warmup` fraction of steps, then inverse square root decay.

    Source: Vaswani et al., "Attention is all you need", 2017.
    """
    rise = max(1, round(warmup * steps))
    return LambdaLR(optimizer, lambda step: min((step + 1) / rise, math.sqrt(rise / (step + 1))))


class Plateau(LambdaLR):
    """Lower the learning rate when the validation metric stops improving for some epochs.

    Args:
        optimizer: The optimiser.
        steps: Total steps; unused.
        learning_rate: Initial rate.
        factor: Factor of each reduction.
        patience: Epochs without improvement to wait.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        steps: int,
        learning_rate: float,
        *,
        factor: Annotated[float, pydantic.Field(gt=0, lt=1)] = 0.3,
        patience: Annotated[int, pydantic.Field(ge=0)] = 2,
    ) -> None:
        self.factor, self.patience = factor, patience
        self.scale, self.waited = 1.0, 0
        self.best: tuple[float, ...] | None = None
        super().__init__(optimizer, lambda step: self.scale)

    def observe(self, score: tuple[float, ...]) -> None:
        """Record the score at the end of an epoch; the larger tuple is better."""
        if self.best is None or score > tuple(self.best):
            self.best, self.waited = score, 0
            return
        self.waited += 1
        if self.waited > self.patience:
            self.scale, self.waited = self.scale * self.factor, 0
