"""NumPy kernels for numeric and time features, run on the calling thread rather than in Polars.

Values go through all steps block by block, so that what is between stays in the processor's cache; Polars makes a
column of each step.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Collection, Iterator, Sequence
from typing import Protocol

import numpy as np
import polars as pl

from lepton_tasks.data.tables.arrays import Numbers
from lepton_tasks.data.tables.operations import Operation

_BLOCK = 1 << 17  # values
# sin(2 pi x) / x by x**2 for |x| <= 1/4: the polynomial of this degree that is off least (by Chebyshev's series).
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
        """The column they are made of."""

    @property
    def names(self) -> tuple[str, ...]:
        """What they are called."""

    def write(self, values: pl.Series, made: Sequence[np.ndarray]) -> None:
        """Write each feature's values, float32, into its array; none is missing."""


@dataclasses.dataclass(frozen=True)
class Scaling:
    """``(x - shift) / scale`` of a number, in float64; `fill` takes the place of what is missing or not finite.

    Attributes:
        column: Of numbers or truth values.
        name: Of the feature.
        clips: Low and high ends to which numbers are clipped first, in order; NaN stays what it is.
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
        """The same after operations, all of them clips."""
        clips = tuple((op.low, op.high) for op in operations if op.low is not None and op.high is not None)
        return dataclasses.replace(self, clips=self.clips + clips)

    def write(self, values: pl.Series, made: Sequence[np.ndarray]) -> None:
        """Write the scaled numbers."""
        fill = np.float32((self.fill - self.shift) / self.scale)
        numbers = Numbers.of(values)
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
            with np.errstate(over="ignore"):  # beyond float32 is infinite
                out[:] = y
            np.copyto(out, fill, where=odd)


@dataclasses.dataclass(frozen=True)
class Circle:
    """Sine and cosine of a time's place in a period; both 0 if there is no time.

    Attributes:
        column: Of times.
        name: Begins the names of the features.
        period: Seconds.
    """

    column: str
    name: str
    period: float

    @property
    def names(self) -> tuple[str, ...]:
        """Of the sine and of the cosine."""
        return f"{self.name}_sin", f"{self.name}_cos"

    def write(self, values: pl.Series, made: Sequence[np.ndarray]) -> None:
        """Write sines and cosines, off by 1e-11 before they become float32, in a third of the C library's time."""
        times = Numbers.of(values.cast(pl.Datetime("us")))
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
    """The cosine of whole `turns`, in [0, 1), less `behind`; it is in the last of `spare`, for now."""
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
    """The features of a kernel as Polars' expressions."""
    return [
        pl.col(kernel.column)
        .map_batches(functools.partial(_one_of, kernel, index), return_dtype=pl.Float32, is_elementwise=True)
        .alias(name)
        for index, name in enumerate(kernel.names)
    ]


def _one_of(kernel: Kernel, index: int, values: pl.Series) -> pl.Series:
    return pl.Series(values.name, computed(kernel, values)[index])


def computed(kernel: Kernel, values: pl.Series) -> list[np.ndarray]:
    """The features of a column, float32 [len(values)] each."""
    made = [np.empty(len(values), np.float32) for _ in kernel.names]
    kernel.write(values, made)
    return made


def with_clips(
    kernels: Sequence[Kernel], operations: Sequence[Operation], others: Collection[str]
) -> tuple[list[Kernel], set[str]]:
    """The kernels that clip by themselves, and the columns to which nothing need be done for it before.

    Args:
        kernels: The kernels.
        operations: What is done to the columns, in order.
        others: Columns that somebody else looks at after the operations.
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
