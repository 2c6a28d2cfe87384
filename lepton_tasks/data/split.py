"""Split rows into train, validation and test without leakage between related rows."""

from __future__ import annotations

import collections
import hashlib
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from lepton_tasks.core.errors import DataError
from lepton_tasks.core.use_case import Split

SPLITS = ("train", "validation", "test")


def assign_splits(
    keys: Sequence[str],
    sizes: Split,
    *,
    seed: int,
    strata: Sequence[str | None] | None = None,
    times: Sequence[Any] | None = None,
) -> list[str]:
    """Assign a split to each row, independent of row order.

    Args:
        keys: Rows with equal keys stay together: a content digest, a group, a file.
        sizes: Fractions and method.
        seed: Random seed.
        strata: For ``stratified``: the stratum of each row, with equal proportions in all splits.
        times: For ``time``: a comparable value per row.

    Returns:
        One of `SPLITS` per row. With ``stratified`` and ``random``, fractions are of keys, and rows added later move
        few others; with ``hash`` they move none; with ``group`` and ``file``, fractions are of rows, as close as whole
        groups allow; with ``time``, train rows precede validation rows and these test rows, except that keys with rows
        on both sides go to the later split.

    Raises:
        DataError: a split would be empty.
    """
    if sizes.method == "hash":
        chosen = {key: _by_hash(key, sizes, seed) for key in set(keys)}
    elif sizes.method in ("group", "file"):
        chosen = _by_weight(collections.Counter(keys), sizes, seed)
    elif sizes.method == "time":
        chosen = _by_time(keys, times or [], sizes)
    else:
        by = strata if sizes.method == "stratified" and strata is not None else [""] * len(keys)
        chosen = _by_rank(keys, by, sizes, seed)
    splits = [chosen[key] for key in keys]
    if absent := [split for split in SPLITS if split not in set(splits)]:
        raise DataError(
            f"nothing is left for {' and '.join(absent)}: {len(splits):,} rows are {len(chosen):,} when those that "
            f"stay together by {sizes.method!r} are counted once.",
            where="data.split",
            fix="Give more rows, enlarge that split, or choose another `data.split.method`.",
        )
    return splits


def linked_keys(primary: Sequence[str], *further: Iterable[Hashable | None]) -> list[str]:
    """A key per row, equal for rows connected by shared values in any column, directly or via other rows.

    Args:
        primary: Column of key names: a key is the smallest value of the connected rows.
        further: Columns of the same length; None is not shared.
    """
    pairs: list[tuple[int, int]] = []
    for column in (primary, *further):
        first: dict[Hashable, int] = {}
        pairs += [
            (first.setdefault(value, row), row) for row, value in enumerate(column) if value is not None
        ]  # the first row is paired with itself
    roots = connected_components(len(primary), pairs)
    keys: dict[int, str] = {}
    for root, value in zip(roots, primary, strict=True):
        keys[root] = min(keys.get(root, value), value)
    return [keys[root] for root in roots]


def connected_components(count: int, pairs: Iterable[tuple[int, int]] | np.ndarray) -> list[int]:
    """The smallest member of each node's connected component, by union-find; `pairs` are the edges."""
    root = list(range(count))

    def find(node: int) -> int:
        while root[node] != node:
            root[node] = node = root[root[node]]
        return node

    for one, other in pairs.tolist() if isinstance(pairs, np.ndarray) else pairs:
        low, high = sorted((find(one), find(other)))
        root[high] = low
    return [find(node) for node in range(count)]


def _digest(key: str, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}:{key}".encode()).digest()


def _by_rank(keys: Sequence[str], strata: Sequence[str | None], sizes: Split, seed: int) -> dict[str, str]:
    """By rank of the key's hash within its stratum; every split gets a key of a stratum with at least three."""
    stratum_of: dict[str, str] = {}
    for key, stratum in zip(keys, strata, strict=True):
        stratum_of[key] = min(str(stratum), stratum_of.get(key, str(stratum)))
    members: dict[str, list[str]] = collections.defaultdict(list)
    for key, stratum in stratum_of.items():
        members[stratum].append(key)
    chosen: dict[str, str] = {}
    for ranked in members.values():
        ranked.sort(key=lambda key: _digest(key, seed))
        test = min(max(1, round(len(ranked) * sizes.test)), len(ranked) - 2)
        validation = min(max(1, round(len(ranked) * sizes.validation)), len(ranked) - test - 1)
        for rank, key in enumerate(ranked):
            chosen[key] = "test" if rank < test else "validation" if rank < test + validation else "train"
    return chosen


def _by_hash(key: str, sizes: Split, seed: int) -> str:
    """By the key's hash alone, independent of other keys."""
    share = int.from_bytes(_digest(key, seed)[:8], "big") / 2**64
    return "test" if share < sizes.test else "validation" if share < sizes.test + sizes.validation else "train"


def _by_weight(rows: Mapping[str, int], sizes: Split, seed: int) -> dict[str, str]:
    """Largest key first, each to the split with the largest relative deficit."""
    total = sum(rows.values())
    deficit = {split: getattr(sizes, split) * total for split in SPLITS}
    targets = dict(deficit)
    chosen: dict[str, str] = {}
    for key in sorted(rows, key=lambda key: (-rows[key], _digest(key, seed))):
        chosen[key] = max(SPLITS, key=lambda split: deficit[split] / targets[split])
        deficit[chosen[key]] -= rows[key]
    return chosen


def _by_time(keys: Sequence[str], times: Sequence[Any], sizes: Split) -> dict[str, str]:
    """The latest rows to test; equal times together."""
    latest: dict[str, Any] = {}
    for key, time in zip(keys, times, strict=True):
        latest[key] = max(latest.get(key, time), time)
    rows = collections.Counter(latest[key] for key in keys)
    chosen_at: dict[Any, str] = {}
    before = 0
    for time in sorted(rows):
        middle = (before + rows[time] / 2) / len(keys)
        late = middle > sizes.train + sizes.validation
        chosen_at[time] = "test" if late else "validation" if middle > sizes.train else "train"
        before += rows[time]
    return {key: chosen_at[time] for key, time in latest.items()}
