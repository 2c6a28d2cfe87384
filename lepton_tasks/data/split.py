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
    """The split of each row, whose order and names do not matter.

    Args:
        keys: Rows with equal keys stay together: a digest of the content, a group, a file.
        sizes: Shares of the splits, and the method.
        seed: Another seed gives another split.
        strata: With ``stratified``: whose shares are to be alike in all splits, a value a row.
        times: With ``time``: a comparable value a row.

    Returns:
        One of `SPLITS` a row. With ``stratified`` and ``random`` shares are of keys, and rows that are added later move
        few others; with ``hash`` they move none; with ``group`` and ``file`` shares are of rows, as near as whole
        groups allow; with ``time`` no row of train is later than one of validation, nor that than one of test, but
        for keys with rows on both sides, which go to the later split.

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


def bonded(primary: Sequence[str], *further: Iterable[Hashable | None]) -> list[str]:
    """A key for each row, equal for rows that share a value of any column, directly or over other rows.

    Args:
        primary: The column that names the keys: the smallest value of the rows that belong together.
        further: Columns of the same length; None shares nothing.
    """
    pairs: list[tuple[int, int]] = []
    for column in (primary, *further):
        first: dict[Hashable, int] = {}
        pairs += [
            (first.setdefault(value, row), row) for row, value in enumerate(column) if value is not None
        ]  # a row with itself where it is the first
    roots = joined(len(primary), pairs)
    keys: dict[int, str] = {}
    for root, value in zip(roots, primary, strict=True):
        keys[root] = min(keys.get(root, value), value)
    return [keys[root] for root in roots]


def joined(count: int, pairs: Iterable[tuple[int, int]] | np.ndarray) -> list[int]:
    """For each of `count` things the smallest that it is joined with, directly or over others."""
    root = list(range(count))

    def top(thing: int) -> int:
        while root[thing] != thing:
            root[thing] = thing = root[root[thing]]
        return thing

    for one, other in pairs.tolist() if isinstance(pairs, np.ndarray) else pairs:
        low, high = sorted((top(one), top(other)))
        root[high] = low
    return [top(thing) for thing in range(count)]


def _digest(key: str, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}:{key}".encode()).digest()


def _by_rank(keys: Sequence[str], strata: Sequence[str | None], sizes: Split, seed: int) -> dict[str, str]:
    """Keys of each stratum ranked by their hash; every split gets one of a stratum with three."""
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
    """By the hash alone, whatever else there is."""
    share = int.from_bytes(_digest(key, seed)[:8], "big") / 2**64
    return "test" if share < sizes.test else "validation" if share < sizes.test + sizes.validation else "train"


def _by_weight(rows: Mapping[str, int], sizes: Split, seed: int) -> dict[str, str]:
    """The largest key first, each to the split that lacks the largest part of its share."""
    total = sum(rows.values())
    lacks = {split: getattr(sizes, split) * total for split in SPLITS}
    shares = dict(lacks)
    chosen: dict[str, str] = {}
    for key in sorted(rows, key=lambda key: (-rows[key], _digest(key, seed))):
        chosen[key] = max(SPLITS, key=lambda split: lacks[split] / shares[split])
        lacks[chosen[key]] -= rows[key]
    return chosen


def _by_time(keys: Sequence[str], times: Sequence[Any], sizes: Split) -> dict[str, str]:
    """The latest to test; equal times together."""
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
