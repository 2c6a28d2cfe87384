"""NumPy kernels for numeric and time features, run on the calling thread rather than in Polars.

All steps run block by block, so that intermediate results stay in the processor's cache; Polars would materialise a
column per step.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Collection, Iterator, Sequence
from typing import Protocol

import numpy as np
import polars as pl

from lepton_tasks.data.tables.arrays import NumericBuffer
from lepton_tasks.data.tables.operations import Operation

_BLOCK = 1 << 17  # values
# sin(2 pi x) / x as a polynomial in x**2 for |x| <= 1/4, from its Chebyshev series (near-minimax error).
_SINE = (
    6.283185306485782,
    -41.34170192922099,
    81.60520938161127,
    -76.70366601785258,
    41.9999608631003,
    -14.336856142874549,
)


class Kernel(Protocol):
    """Features of one column. Picklable."""

    @property
    def column(self) -> str:
        """The input column."""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the features."""

    def write(self, values: pl.Series, made: Sequence[np.ndarray]) -> None:
        """Write each feature into its float32 array, without missing values."""


@dataclasses.dataclass(frozen=True)
class Scaling:
    """``(x - shift) / scale`` in float64; missing and non-finite values take `fill`.

    Attributes:
        column: Numeric or boolean input column.
        name: Name of the feature.
        clips: Bounds of preceding clip operations, in order; NaN is not clipped.
    """

    column: str
    name: str
    shift: float
    scale: float
    fill: float
    clips: tuple[tuple[float, float], ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """The feature's name."""
        return (self.name,)

    def clipped(self, operations: Sequence[Operation]) -> Scaling:
        """The same kernel with preceding clip operations."""
        clips = tuple((op.low, op.high) for op in operations if op.low is not None and op.high is not None)
        return dataclasses.replace(self, clips=self.clips + clips)

    def write(self, values: pl.Series, made: Sequence[np.ndarray]) -> None:
        """Write the scaled numbers."""
        fill = np.float32((self.fill - self.shift) / self.scale)
        numbers = NumericBuffer.of(values)
        spare = np.empty(min(len(numbers), _BLOCK))
        for start, stop in _blocks(len(numbers)):
            x, out = numbers.values[start:stop].astype(np.float64, copy=False), made[0][start:stop]
            y = spare[: len(x)]
            for low, high in self.clips:
                x = np.clip(x, low, high, out=y)
            odd = np.logical_not(np.isfinite(x))
            if (missing := numbers.missing(start, stop)) is not None:
                odd |= missing
            np.divide(np.subtract(x, self.shift, out=y), self.scale, out=y)
            with np.errstate(over="ignore"):  # values beyond float32 become infinite
                out[:] = y
            np.copyto(out, fill, where=odd)


@dataclasses.dataclass(frozen=True)
class Cyclic:
    """Sine and cosine of a time's phase in a period; both 0 for a missing time.

    Attributes:
        column: Time column.
        name: Prefix of the feature names.
        period: Seconds.
    """

    column: str
    name: str
    period: float

    @property
    def names(self) -> tuple[str, ...]:
        """Names of sine and cosine."""
        return f"{self.name}_sin", f"{self.name}_cos"

    def write(self, values: pl.Series, made: Sequence[np.ndarray]) -> None:
        """Write sines and cosines, accurate to 1e-11 before rounding to float32; 3 times as fast as the C library."""
        times = NumericBuffer.of(values.cast(pl.Datetime("us")))
        turns, *spare = np.empty((4, min(len(times), _BLOCK)))
        for start, stop in _blocks(len(times)):
            x, *others = (array[: stop - start] for array in (turns, *spare))
            np.divide(times.values[start:stop], 1e6 * self.period, out=x)
            x -= np.floor(x, out=others[0])
            missing = times.missing(start, stop)
            for array, behind in zip(made, (0.25, 0.0), strict=True):
                out = array[start:stop]
                out[:] = _cosine(x, behind, others)
                if missing is not None:
                    np.copyto(out, np.float32(0), where=missing)


def _cosine(turns: np.ndarray, behind: float, spare: Sequence[np.ndarray]) -> np.ndarray:
    """The cosine of ``2 pi (turns - behind)`` for turns in [0, 1); the result is the last array of `spare`."""
    x, square, y = spare
    np.abs(np.subtract(turns, behind, out=x), out=x)
    x -= 0.5
    np.abs(x, out=x)
    x -= 0.25  # the cosine is the sine of this, in [-1/4, 1/4]
    np.multiply(x, x, out=square)
    np.multiply(square, _SINE[-1], out=y)
    for factor in _SINE[-2:0:-1]:
        y += factor
        y *= square
    y += _SINE[0]
    y *= x
    return y


def _blocks(length: int) -> Iterator[tuple[int, int]]:
    return ((start, min(start + _BLOCK, length)) for start in range(0, length, _BLOCK))


def expressions(kernel: Kernel) -> list[pl.Expr]:
    """The features of a kernel as Polars expressions."""
    return [
        pl.col(kernel.column)
        .map_batches(functools.partial(_one_of, kernel, index), return_dtype=pl.Float32, is_elementwise=True)
        .alias(name)
        for index, name in enumerate(kernel.names)
    ]


def _one_of(kernel: Kernel, index: int, values: pl.Series) -> pl.Series:
    return pl.Series(values.name, compute_features(kernel, values)[index])


def compute_features(kernel: Kernel, values: pl.Series) -> list[np.ndarray]:
    """The features of a column, float32 [len(values)] each."""
    made = [np.empty(len(values), np.float32) for _ in kernel.names]
    kernel.write(values, made)
    return made


def fuse_clips(
    kernels: Sequence[Kernel], operations: Sequence[Operation], others: Collection[str]
) -> tuple[list[Kernel], set[str]]:
    """Move clip operations into the kernels; returns the kernels and the columns whose operations they now include.

    Args:
        kernels: The kernels.
        operations: Operations on the columns, in order.
        others: Columns that are also used elsewhere after the operations.
    """
    by_column: dict[str, list[Operation]] = {}
    for operation in operations:
        by_column.setdefault(operation.column, []).append(operation)
    made, spared = [], set()
    for kernel in kernels:
        mine = by_column.get(kernel.column, [])
        alone = kernel.column not in others and all(operation.kind == "clip" for operation in mine)
        if mine and alone and isinstance(kernel, Scaling):
            spared.add(kernel.column)
            kernel = kernel.clipped(mine)
        made.append(kernel)
    return made, spared
