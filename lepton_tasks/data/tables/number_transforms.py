"""Numeric transforms fitted from a sketch.

Every transform is ``(curve(x) - shift) / scale`` in float64; missing and infinite values take `fill` first.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import polars as pl

from lepton_tasks.codecs.tabular import FIRST_CODE, MISSING_CODE
from lepton_tasks.data.sketch import NumericSketch

NumberTransform = Literal["keep", "standard", "min_max", "robust", "quantile", "log", "power"]

_KNOTS = 129  # of the piecewise linear quantile curve: 128 intervals with equal shares of the rows
_GRID = 2048  # quantiles used as a sample of the column to compute moments of a curve


def fit_number(transform: NumberTransform, sketch: NumericSketch) -> dict[str, Any]:
    """Curve, shift, scale and fill of a column.

    ``standard``: mean 0, standard deviation 1. ``min_max``: [0, 1]. ``robust``: median 0, interquartile range 1.
    ``quantile``: the fraction of smaller values. ``log``: sign(x) * log(1 + |x|), then standard. ``power``: Yeo-Johnson
    with the maximum likelihood exponent, then standard.

    Source: I.-K. Yeo, R. A. Johnson (2000), A new family of power transformations to improve normality or symmetry.
    """
    median = float(sketch.quantile(0.5)) if sketch.count else 0.0
    fitted: dict[str, Any] = {"curve": "identity", "fill": median, "shift": 0.0, "scale": 1.0}
    if transform == "keep" or not sketch.count:
        return fitted
    if transform == "standard":
        return fitted | _standard(sketch.mean, sketch.std if sketch.count > 1 else 0.0)
    if transform == "min_max":
        return fitted | _standard(sketch.min, sketch.max - sketch.min)
    if transform == "robust":
        low, high = sketch.quantile([0.25, 0.75])
        return fitted | _standard(median, float(high - low))
    if transform == "quantile":
        return fitted | {"curve": "quantile"} | _knots(sketch)
    grid = sketch.quantile(((np.arange(_GRID) + 0.5) / _GRID).tolist())
    if transform == "log":
        return fitted | {"curve": "log"} | _standard(*_moments(signed_log(grid)))
    exponent = _best_exponent(grid)
    return fitted | {"curve": "power", "exponent": exponent} | _standard(*_moments(yeo_johnson(grid, exponent)))


def bin_edges(sketch: NumericSketch, bins: int) -> list[float]:
    """Lower edges of all bins but the first.

    In a column with few distinct values each has its own bin, so that common amounts (a round sum, a limit) are
    distinguished from their neighbours; values in between belong to the lower bin. Otherwise bins have equal shares of
    the rows.
    """
    if not sketch.count:
        return []
    common = np.unique(sketch.quantile(np.linspace(0, 1, _GRID + 1).tolist(), "lower"))
    if len(common) > bins:
        common = np.unique(sketch.quantile(np.linspace(0, 1, bins + 1)[:-1].tolist(), "lower"))
    return [float(value) for value in common[1:]]


def bin_expression(name: str, edges: Sequence[float]) -> pl.Expr:
    """The code of each row's bin, int32."""
    x = pl.col(name).cast(pl.Float64)
    x = pl.when(x.is_finite()).then(x)
    code = x.map_batches(functools.partial(_bins, np.array(edges)), return_dtype=pl.Int32, is_elementwise=True)
    return pl.when(x.is_null()).then(pl.lit(MISSING_CODE, pl.Int32)).otherwise(code)


def _bins(edges: np.ndarray, values: pl.Series) -> pl.Series:
    places = np.searchsorted(edges, values.fill_null(0.0).to_numpy(), side="right")
    return pl.Series((places + FIRST_CODE).astype(np.int32))


def number_expression(name: str, dtype: pl.DataType, fitted: Mapping[str, Any]) -> pl.Expr:
    """The transformed column, float32; `kernels.Scaling` handles columns without a curve."""
    x = pl.col(name).cast(pl.Float64)
    curve = fitted["curve"]
    if dtype.is_float():
        x = pl.when(x.is_finite()).then(x)
    x = x.fill_null(fitted["fill"])
    if curve == "log":
        x = x.sign() * x.abs().log1p()
    elif curve == "power":
        x = _yeo_johnson_expression(x, fitted["exponent"])
    elif curve == "quantile":
        knots, levels = np.array(fitted["knots"]), np.array(fitted["levels"])
        interpolate = functools.partial(_interpolate, knots, levels)
        x = x.map_batches(interpolate, return_dtype=pl.Float64, is_elementwise=True)
    made: pl.Expr = ((x - fitted["shift"]) / fitted["scale"]).cast(pl.Float32)
    return made


def _interpolate(knots: np.ndarray, levels: np.ndarray, values: pl.Series) -> pl.Series:
    return pl.Series(np.interp(values.to_numpy(), knots, levels))


def signed_log(x: np.ndarray) -> np.ndarray:
    """sign(x) * log(1 + abs(x))."""
    logs: np.ndarray = np.sign(x) * np.log1p(np.abs(x))
    return logs


def yeo_johnson(x: np.ndarray, exponent: float) -> np.ndarray:
    """Yeo-Johnson power transform, defined for negative values too."""
    above, below = np.log1p(np.maximum(x, 0)), np.log1p(np.maximum(-x, 0))
    return np.where(x >= 0, _power(above, exponent), -_power(below, 2 - exponent))


def _power(logs: np.ndarray, exponent: float) -> np.ndarray:
    return logs if abs(exponent) < 1e-9 else np.expm1(exponent * logs) / exponent


def _yeo_johnson_expression(x: pl.Expr, exponent: float) -> pl.Expr:
    above, below = x.clip(lower_bound=0).log1p(), (-x).clip(lower_bound=0).log1p()
    return pl.when(x >= 0).then(_power_expression(above, exponent)).otherwise(-_power_expression(below, 2 - exponent))


def _power_expression(logs: pl.Expr, exponent: float) -> pl.Expr:
    return logs if abs(exponent) < 1e-9 else ((logs * exponent).exp() - 1) / exponent


def _standard(shift: float, scale: float) -> dict[str, float]:
    """Shift and scale; the scale of a constant column is 1, to avoid a division by 0."""
    return {"shift": float(shift), "scale": float(scale) if np.isfinite(scale) and scale > 1e-12 * abs(shift) else 1.0}


def _moments(values: np.ndarray) -> tuple[float, float]:
    return float(values.mean()), float(values.std())


def _knots(sketch: NumericSketch) -> dict[str, list[float]]:
    """Knots of the monotone quantile curve; equal quantiles are merged with their mean level."""
    shares = np.linspace(0, 1, _KNOTS)
    values, group = np.unique(sketch.quantile(shares.tolist()), return_inverse=True)
    levels = np.bincount(group, weights=shares) / np.bincount(group)
    return {"knots": values.tolist(), "levels": levels.tolist()}


def _best_exponent(grid: np.ndarray) -> float:
    """The maximum likelihood exponent in [-2, 4], by golden-section search."""
    jacobian = float((np.sign(grid) * np.log1p(np.abs(grid))).mean())

    def loss(exponent: float) -> float:
        variance = float(yeo_johnson(grid, exponent).var())
        return (
            np.inf if not np.isfinite(variance) or variance <= 0 else 0.5 * np.log(variance) - (exponent - 1) * jacobian
        )

    low, high, ratio = -2.0, 4.0, (5**0.5 - 1) / 2
    for _ in range(60):
        left, right = high - ratio * (high - low), low + ratio * (high - low)
        low, high = (low, right) if loss(left) < loss(right) else (left, high)
    return round((low + high) / 2, 6)
