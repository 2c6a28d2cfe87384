"""Training batches straight from the memory map, in an order that seed and epoch decide."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from lepton_tasks.core.errors import DataError


def open_split(features: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Inputs (a memory map, [N, ...]) and targets (in memory, [N, ...]) of one split; raises `DataError` if empty."""
    folder = features / split
    inputs = np.load(folder / "inputs.npy", mmap_mode="r")
    targets = np.load(folder / "targets.npy")
    if len(inputs) == 0 or len(inputs) != len(targets):
        raise DataError(
            f"the {split} split has {len(inputs)} inputs and {len(targets)} targets.",
            where=str(folder),
            fix="Give more rows, or a larger share in data.split.",
        )
    return inputs, targets


class Batches:
    """One rank's share of each global batch, epoch after epoch; what is left over at the end of an epoch is dropped.

    The order of rows does not depend on the number of ranks: two ranks with batches of 32 see together what one rank
    with batches of 64 sees.

    Args:
        inputs: Rows [N, ...].
        targets: Of the same length.
        size: Rows of a batch of one rank; less if there are too few rows for one batch a rank.
        seed: Of the shuffles.
        rank: Which share, from 0.
        ranks: How many shares there are.
        step: Global step to begin at, for a training that goes on.
    """

    def __init__(
        self,
        inputs: np.ndarray,
        targets: np.ndarray,
        *,
        size: int,
        seed: int,
        rank: int = 0,
        ranks: int = 1,
        step: int = 0,
    ) -> None:
        self._inputs, self._targets = inputs, targets
        self._size = min(size, len(inputs) // ranks)
        if self._size == 0:
            raise DataError(
                f"{len(inputs)} rows are too few for {ranks} processes.", where="train", fix="Lower train.devices."
            )
        self._seed, self._rank, self._ranks = seed, rank, ranks
        self.rows_per_step = self._size * ranks
        self.steps = len(inputs) // self.rows_per_step
        self._epoch, self._start = divmod(step, self.steps)

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """The rest of the current epoch; the next call gives the next epoch."""
        order = np.random.default_rng([self._seed, self._epoch]).permutation(len(self._inputs))
        for step in range(self._start, self.steps):
            first = (step * self._ranks + self._rank) * self._size
            rows = order[first : first + self._size]
            yield torch.from_numpy(self._inputs[rows]), torch.from_numpy(self._targets[rows])
        self._epoch, self._start = self._epoch + 1, 0
