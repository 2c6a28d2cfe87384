"""What two profiles differ in: columns, types, rows, and how far each column's values have moved."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

MODERATE, LARGE = 0.1, 0.25
"""A population stability index from which a shift is called moderate, and large.

Source: N. Siddiqi (2006), Credit Risk Scorecards; the usual reading of the index.
"""
_BINS = 10
_LEAST = 1e-4  # a share that was not seen is taken as this one, or its logarithm would be infinite


def diff_profiles(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """Columns that came, went or changed their type, row counts, and per common column the shift, largest first.

    The shift is the population stability index over the deciles of `old`, or over its most frequent values, with
    missing values as a bin of their own; and beside it the Jensen-Shannon distance of the same shares, in [0, 1].
    """
    before, after = old["columns"], new["columns"]
    common = [name for name in before if name in after]
    shifts = [_shift(name, before[name], after[name]) for name in common]
    return {
        "rows": [old["rows"], new["rows"]],
        "added": [name for name in after if name not in before],
        "removed": [name for name in before if name not in after],
        "retyped": [
            {"column": name, "old": before[name]["type"], "new": after[name]["type"]}
            for name in common
            if before[name]["type"] != after[name]["type"]
        ],
        "shifts": sorted(shifts, key=lambda shift: -shift["psi"]),
        "thresholds": {"moderate": MODERATE, "large": LARGE},
    }


def stability_index(old: Sequence[float] | np.ndarray, new: Sequence[float] | np.ndarray) -> float:
    """The population stability index of two lists of counts or shares: 0 for equal ones."""
    p, q = _shares(old), _shares(new)
    p, q = np.maximum(p, _LEAST), np.maximum(q, _LEAST)
    return float(((q - p) * np.log(q / p)).sum())


def jensen_shannon(old: Sequence[float] | np.ndarray, new: Sequence[float] | np.ndarray) -> float:
    """The Jensen-Shannon distance (base 2) of two lists of counts or shares, in [0, 1]."""
    p, q = _shares(old), _shares(new)
    middle = (p + q) / 2
    divergence = sum(float((x[x > 0] * np.log2(x[x > 0] / middle[x > 0])).sum()) for x in (p, q)) / 2
    return math.sqrt(max(0.0, divergence))


def _shift(name: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    p, q = _binned(old, new)
    p, q = np.append(p, old["nulls"]), np.append(q, new["nulls"])
    psi = stability_index(p, q)
    size = "large" if psi >= LARGE else "moderate" if psi >= MODERATE else "small"
    shift = {"column": name, "psi": psi, "jensen_shannon": jensen_shannon(p, q), "size": size}
    shift["nulls"] = [about["nulls"] / max(1, about["rows"]) for about in (old, new)]
    for key in ("mean", "distinct"):
        if key in old and key in new:
            shift[key] = [old[key], new[key]]
    return shift


def _binned(old: Mapping[str, Any], new: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Counts of the values of both in the same bins."""
    many = not (old["distinct_exact"] and old["distinct"] <= len(old["top"]))
    if many and "percentiles" in old and "percentiles" in new:
        edges = np.unique(np.asarray(old["percentiles"])[:: 100 // _BINS][1:-1])
        return _between(old, edges), _between(new, edges)
    values = [value for value, _ in old["top"]]
    return _counts(old, values), _counts(new, values)


def _between(about: Mapping[str, Any], edges: np.ndarray) -> np.ndarray:
    """How many values lie between the edges, read from the percentiles."""
    percentiles = np.asarray(about["percentiles"])
    below = np.interp(edges, percentiles, np.linspace(0, 1, len(percentiles)))
    shares = np.diff(np.concatenate([[0.0], below, [1.0]]))
    return np.asarray(shares * (about["rows"] - about["nulls"]))


def _counts(about: Mapping[str, Any], values: Sequence[Any]) -> np.ndarray:
    """How often each value occurs, and all others together."""
    found = dict(about["top"])
    counts = [found.get(value, 0) for value in values]
    return np.array([*counts, max(0, about["rows"] - about["nulls"] - sum(counts))], np.float64)


def _shares(counts: Sequence[float] | np.ndarray) -> np.ndarray:
    values = np.asarray(counts, np.float64)
    total = float(values.sum())
    return values / total if total else values
