"""How values are spread over bins that a profile gives, and how far two such counts are apart."""

from __future__ import annotations

import collections
import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lepton_tasks.core.proportions import chi_square_p_value, merge_sparse_bins, population_stability_index

_DECILES = slice(10, 100, 10)  # of the profile's percentiles
_FEW = 20  # different values up to which each number is a bin of its own; so many of the most frequent categories are
_REPEATED = 0.5  # a text of which more than this share of the values differ is no category
_MISSING, _OTHER = "(missing)", "(others)"


@dataclasses.dataclass(frozen=True)
class Bins:
    """Bins of one column, and how many reference rows lie in each.

    Attributes:
        names: Of the bins, for people; the last one is for missing values.
        counts: Reference rows of each bin.
        edges: Of numbers, ascending: bin i holds values above ``edges[i - 1]`` up to ``edges[i]``.
        values: Of categories, and of numbers of which there are few different ones: each is a bin, and all others
            together are one.
    """

    names: tuple[str, ...]
    counts: tuple[int, ...]
    edges: tuple[float, ...] = ()
    values: tuple[Any, ...] = ()

    def count(self, values: Sequence[Any]) -> list[int]:
        """How many of the values lie in each bin; what is None, not a number or infinite is missing."""
        if self.values:
            found = collections.Counter(map(_plain, values))
            known = [found[value] for value in self.values]
            missing = found[None]
            return [*known, len(values) - missing - sum(known), missing]
        numbers = np.array([v if isinstance(v, int | float) else np.nan for v in values], np.float64)
        finite = numbers[np.isfinite(numbers)]
        inside = np.bincount(np.searchsorted(self.edges, finite), minlength=len(self.edges) + 1)
        return [*inside.tolist(), len(values) - len(finite)]


@dataclasses.dataclass(frozen=True)
class Shift:
    """How far the values of a column are from the reference.

    Attributes:
        column: Its name.
        index: Population stability index of the two counts.
        p_value: How likely counts at least as different are if both come from one distribution.
        bins: The bins, with the reference's counts.
        counts: The other counts.
    """

    column: str
    index: float
    p_value: float
    bins: Bins
    counts: tuple[int, ...]

    @property
    def most(self) -> tuple[str, float, float]:
        """The bin whose share changed most: its name, the share of the reference, and the other one."""
        before, after = (np.array(counts) / max(1, sum(counts)) for counts in (self.bins.counts, self.counts))
        place = int(np.abs(after - before).argmax())
        return self.bins.names[place], float(before[place]), float(after[place])


def bins_of(about: Mapping[str, Any]) -> Bins | None:
    """The bins of a profile's column; None for texts that are no categories, and times.

    Numbers are cut at the deciles of the reference: bins of equal width would leave most rows of a long tail in one.

    Args:
        about: The column, as `lepton_tasks.quality.profile` tells of it.
    """
    missing = about["nulls"] + about.get("nan", 0) + about.get("infinite", 0)
    rows = about["rows"] - missing
    if rows <= 0:
        return None
    if "percentiles" in about and about["distinct"] > _FEW:
        percentiles = np.asarray(about["percentiles"], np.float64)
        edges = np.unique(percentiles[_DECILES])
        # Of values that occur often, several percentiles are alike: the last of them says how many are not above it.
        shares = (np.searchsorted(percentiles, edges, side="right") - 1) / (len(percentiles) - 1)
        counts = np.diff(np.concatenate([[0], np.round(shares * rows), [rows]])).astype(int)
        short = [f"{edge:.4g}" for edge in edges]
        between = [f"{low} to {high}" for low, high in itertools.pairwise(short)]
        names = (f"up to {short[0]}", *between, f"above {short[-1]}", _MISSING)
        return Bins(names, (*counts.tolist(), missing), edges=tuple(edges.tolist()))
    if about["type"] not in ("String", "Boolean") and "percentiles" not in about:
        return None
    if about["type"] == "String" and about["distinct"] > max(2, _REPEATED * rows):
        return None
    top = [(_plain(value), count) for value, count in about["top"][:_FEW]]
    others = max(0, rows - sum(count for _, count in top))
    names = (*(str(value) for value, _ in top), _OTHER, _MISSING)
    return Bins(names, (*(count for _, count in top), others, missing), values=tuple(value for value, _ in top))


def shift_of(column: str, bins: Bins, values: Sequence[Any]) -> Shift:
    """How far values are from the reference; bins in which few rows are expected count as one."""
    counts = bins.count(values)
    return Shift(
        column,
        population_stability_index(*merge_sparse_bins(bins.counts, counts)),
        chi_square_p_value(bins.counts, counts),
        bins,
        tuple(counts),
    )


def _plain(value: Any) -> Any:
    """A value as it is equal on both sides: a whole number is one whether it was written with a point or not."""
    if isinstance(value, float):
        if not np.isfinite(value):
            return None
        return int(value) if value.is_integer() else value
    return int(value) if isinstance(value, bool) else value
