"""Move rows from the memory map to the network's device."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import torch

from lepton_tasks.core.protocols import Rows

Batch = tuple[torch.Tensor, torch.Tensor]
Feed = Callable[[np.ndarray], Iterator[Batch]]
"""Inputs and targets of the rows int64 [batches, size], batch by batch."""

_SHARE = 0.25
"""Fraction of a GPU's free memory for rows; the rest is for the network."""
_AHEAD = 3
"""Number of batches prefetched into pinned memory."""
_PART_BYTES = 64 << 20


def feed(rows: Rows, device: torch.device) -> Feed:
    """The fastest feed for a device: on a GPU, rows reside in its memory if they fit, else a thread prefetches."""
    if device.type != "cuda":
        return partial(from_map, rows)
    free, _ = torch.cuda.mem_get_info(device)
    if rows.inputs.nbytes + rows.targets.nbytes <= _SHARE * free:
        return resident(rows, device)
    return partial(ahead, rows, device)


def from_map(rows: Rows, chosen: np.ndarray) -> Iterator[Batch]:
    """Batches in CPU memory; see `Feed`."""
    for some in chosen:
        yield torch.from_numpy(rows.inputs[some]), torch.from_numpy(rows.targets[some])


def resident(rows: Rows, device: torch.device) -> Feed:
    """Copy all rows to the device once and index batches there, so that no step waits for a copy."""
    inputs, targets = _copied(rows.inputs, device), _copied(rows.targets, device)

    def batches(chosen: np.ndarray) -> Iterator[Batch]:
        order = torch.from_numpy(np.ascontiguousarray(chosen)).to(device)
        for step in range(len(order)):
            yield inputs[order[step]], targets[order[step]]

    return batches


def ahead(rows: Rows, device: torch.device, chosen: np.ndarray) -> Iterator[Batch]:
    """Batches on the device, prefetched from the memory map; see `Feed`."""
    pinned = device.type == "cuda"

    def read(some: np.ndarray) -> list[torch.Tensor]:
        parts = [torch.from_numpy(values[some]) for values in rows[:2]]
        return [part.pin_memory() for part in parts] if pinned else parts

    def moved() -> Batch:
        inputs, targets = (part.to(device, non_blocking=True) for part in waiting.popleft().result())
        return inputs, targets

    with ThreadPoolExecutor(1, thread_name_prefix="batches") as thread:
        waiting = deque(thread.submit(read, some) for some in chosen[:_AHEAD])
        for some in chosen[_AHEAD:]:
            waiting.append(thread.submit(read, some))
            yield moved()
        while waiting:
            yield moved()


def _copied(values: np.ndarray, device: torch.device) -> torch.Tensor:
    """Copy an array to the device in parts, since it may be a memory map."""
    whole = torch.from_numpy(np.empty(0, values.dtype)).new_empty(values.shape, device=device)
    size = max(1, _PART_BYTES // max(1, values[:1].nbytes))
    for start in range(0, len(values), size):
        whole[start : start + size] = torch.from_numpy(np.array(values[start : start + size]))
    return whole
