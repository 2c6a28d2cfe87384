"""Training batches, in an order determined by seed and epoch."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from lepton_tasks.core.errors import DataError
from lepton_tasks.core.protocols import Rows
from lepton_tasks.training.feeding import Batch, feed

_POOL = 64  # global batches per length-sorted pool: enough for similar lengths, few enough to stay shuffled


class Batches:
    """One rank's part of each global batch, epoch by epoch; an incomplete last batch is dropped.

    Rows with known lengths are batched by similar length to reduce padding.

    The order of rows does not depend on the number of ranks: two ranks with batches of 32 together process the same
    rows as one rank with batches of 64.

    Args:
        rows: The training rows.
        size: Rows per batch and rank; less if there are too few rows for one batch per rank.
        seed: Seed of the shuffles.
        rank: This rank, from 0.
        ranks: Number of ranks.
        step: Global step to start at when resuming.
        shares: Sampling probability of each row, float [N], sum 1; None for each row once per epoch.
        device: Device of the batches; CPU memory unless it is a GPU.
    """

    def __init__(
        self,
        rows: Rows,
        *,
        size: int,
        seed: int,
        rank: int = 0,
        ranks: int = 1,
        step: int = 0,
        shares: np.ndarray | None = None,
        device: torch.device | None = None,
    ) -> None:
        self._rows, count = rows, len(rows.inputs)
        self._size = min(size, count // ranks)
        if self._size == 0:
            raise DataError(
                f"{count} rows are too few for {ranks} processes.", where="train", fix="Lower train.devices."
            )
        self._shares = shares
        self._seed, self._rank, self._ranks = seed, rank, ranks
        self.rows_per_step = self._size * ranks
        self.steps = count // self.rows_per_step
        self._epoch, self._start = divmod(step, self.steps)
        self._feed = feed(rows, device or torch.device("cpu"))

    def __iter__(self) -> Iterator[Batch]:
        """Rest of the current epoch; the next call starts the next epoch."""
        order = self._order()[: self.steps * self.rows_per_step]
        chosen = order.reshape(self.steps, self._ranks, self._size)[self._start :, self._rank]
        if self._rows.lengths is None or not self._rows.cut:
            yield from self._feed(chosen)
        else:  # computed here: reading the width from a GPU would synchronise
            widths = self._rows.lengths[chosen].max(axis=1, initial=1).tolist()
            for (inputs, targets), width in zip(self._feed(chosen), widths, strict=True):
                yield inputs[:, :width], targets
        self._epoch, self._start = self._epoch + 1, 0

    def _order(self) -> np.ndarray:
        """Row indices of this epoch in training order, int64."""
        chance = np.random.default_rng([self._seed, self._epoch])
        count = len(self._rows.inputs)
        order = chance.permutation(count) if self._shares is None else chance.choice(count, count, p=self._shares)
        if self._rows.lengths is None:
            return order
        whole, pool = self.steps * self.rows_per_step, _POOL * self.rows_per_step
        pools = [order[start : min(start + pool, whole)] for start in range(0, whole, pool)]
        alike = np.concatenate([some[np.argsort(self._rows.lengths[some], kind="stable")] for some in pools])
        batches: np.ndarray = alike.reshape(self.steps, self.rows_per_step)[chance.permutation(self.steps)]
        return batches.ravel()
