"""Interaction history of each user as index arrays in order; indices start at 1, 0 is padding."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lepton_tasks.core.errors import DataError


def touched(fitted: Mapping[str, Any], *, most: int) -> np.ndarray:
    """Latest items of each user in training, int32 [users + 1, L]; newest first, L at most `most`.

    Rows are user indices; row 0 is empty.
    """
    from lepton_tasks.data.extractors.interactions import seen_pairs

    users, items = seen_pairs(fitted)
    count = np.bincount(users, minlength=len(fitted["users"]) + 1)
    age = np.repeat(np.cumsum(count), count) - 1 - np.arange(len(users))
    kept = age < most
    table = np.zeros((len(count), min(most, max(1, int(count.max(initial=0))))), np.int32)
    table[users[kept], age[kept]] = items[kept]
    return table


def interactions(features: Path, *splits: str) -> tuple[np.ndarray, np.ndarray]:
    """User-item pairs int32 [N, 2] of the splits, chronological per user, and the split of each.

    Sorted by user index; the second array is int [N], an index into `splits`.
    """
    folders = [features / split for split in splits]
    pairs = np.concatenate([np.load(folder / "inputs.npy") for folder in folders])
    times = [folder / "times.npy" for folder in folders]
    time = np.concatenate([np.load(file) for file in times]) if times[0].exists() else np.zeros(len(pairs), np.int64)
    of = np.repeat(np.arange(len(splits)), [len(np.load(f / "inputs.npy", mmap_mode="r")) for f in folders])
    if len(pairs) == 0:
        raise DataError("there are no interactions.", where=str(features), fix="Give more rows.")
    order = np.lexsort((np.arange(len(pairs)), time, of, pairs[:, 0]))
    return pairs[order], of[order]


def before(pairs: np.ndarray, rows: np.ndarray, *, length: int) -> np.ndarray:
    """The user's items before each of the given rows, int32 [M, length]; newest first, padded with 0.

    Args:
        pairs: int [N, 2], user and item, sorted by user and time.
        rows: int [M], row indices into `pairs`.
        length: Maximum number of items.
    """
    at = rows[:, None] - 1 - np.arange(length)
    same = (at >= 0) & (pairs[np.maximum(at, 0), 0] == pairs[rows, :1]) & (pairs[rows, :1] > 0)
    return np.where(same, pairs[np.maximum(at, 0), 1], 0).astype(np.int32)
