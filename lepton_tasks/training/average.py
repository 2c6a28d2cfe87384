"""Weight averaging (EMA, SWA): the average is validated and saved in place of the latest weights."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Annotated, Protocol, runtime_checkable

import pydantic
import torch
from torch import nn


@runtime_checkable
class Average(Protocol):
    """Weight of the newest parameters. Depends on the step alone, so that a resumed training averages alike."""

    def share(self, step: int, steps: int) -> float:
        """Share of the newest weights in the average, in (0, 1], after `step` (from 1) of `steps`."""


class Ema:
    """Exponential moving average, including batch-normalisation statistics.

    Args:
        decay: Fraction of the average retained per step; the time constant is about ``1 / (1 - decay)`` steps. Starts
            smaller, so that the initial weights fade quickly.

    Source: Polyak and Juditsky, "Acceleration of stochastic approximation by averaging", 1992; the warm-up is that of
    TensorFlow's ``ExponentialMovingAverage``.
    """

    def __init__(self, decay: Annotated[float, pydantic.Field(ge=0, lt=1)] = 0.995) -> None:
        self.decay = decay

    def share(self, step: int, steps: int) -> float:
        """See `Average`."""
        return 1 - min(self.decay, (1 + step) / (10 + step))


class Swa:
    """Plain mean over the last part of the training; before that, the latest weights.

    The running statistics of batch normalisation are averaged too. This approximates the statistics of the averaged
    weights if the learning rate is small in that part, as at the end of ``one_cycle`` and ``cosine``.

    Args:
        start: Fraction of all steps after which averaging begins.

    Source: Izmailov et al., "Averaging weights leads to wider optima and better generalization", 2018.
    """

    def __init__(self, start: Annotated[float, pydantic.Field(ge=0, lt=1)] = 0.75) -> None:
        self.start = start

    def share(self, step: int, steps: int) -> float:
        """See `Average`."""
        return 1 / max(1, step - int(self.start * steps))


class AveragedWeights:
    """Running average of a network's weights.

    Args:
        network: The network to average; it must stay on its device from now on.
        average: The averaging rule.
        steps: Total number of steps.
    """

    def __init__(self, network: nn.Module, average: Average, *, steps: int) -> None:
        self._average, self._steps = average, steps
        self._newest = network.state_dict()  # these tensors are the network's own
        self._mean = {name: tensor.clone() for name, tensor in self._newest.items()}

    def update(self, step: int) -> None:
        """Add the weights after `step` (from 1)."""
        share = self._average.share(step, self._steps)
        for name, mean in self._mean.items():
            if mean.is_floating_point():
                mean.lerp_(self._newest[name], share)
            else:  # counters
                mean.copy_(self._newest[name])

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """Use the averaged weights in the network within the context."""
        own = {name: tensor.clone() for name, tensor in self._newest.items()}
        self.load_into(self._newest, self._mean)
        try:
            yield
        finally:
            self.load_into(self._newest, own)

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Tensors of the average, to save or to restore into."""
        return self._mean

    @staticmethod
    def load_into(tensors: dict[str, torch.Tensor], values: dict[str, torch.Tensor]) -> None:
        """Copy `values` into `tensors`, name by name."""
        for name, tensor in tensors.items():
            tensor.copy_(values[name])
