"""Assign every row to a split by exact rank, in bounded memory and two passes.

The first pass counts positions in coarse bins and stores each row's stratum and bin in one file per part. The second
assigns all rows except those in the few bins that contain a split boundary; these are ranked separately.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import polars as pl

from lepton_tasks.core.context import RunContext
from lepton_tasks.core.errors import DataError
from lepton_tasks.core.use_case import Split
from lepton_tasks.data.split import SPLITS
from lepton_tasks.data.tables.arrays import write_atomically
from lepton_tasks.data.tables.labels import class_index
from lepton_tasks.data.tables.rows import ROW, Part, TableRows
from lepton_tasks.data.tables.split_order import POSITION, STRATUM, check_split_order

_BITS = 12
_BINS = 1 << _BITS
_LAST = 2**64 - 1
_PROBE = 4096  # rows from which the strata of a part are guessed
NO_SPLIT = 255
"""Code of rows without a split."""

Assignment = tuple[np.ndarray | slice, np.ndarray]
"""Row numbers in the table, and the split of each, uint8: an index into `SPLITS`, or `NO_SPLIT`."""


def assign_splits(placed: TableRows, sizes: Split, ctx: RunContext, aside: Path) -> Iterator[Assignment]:
    """The split of each row, with the given sizes per stratum: first whole parts, then the undecided rows.

    Args:
        placed: Rows with `STRATUM` and `POSITION`.
        sizes: Fractions and method.
        ctx: Run context.
        aside: An empty folder, visible to all workers, for the files of the first pass.

    Raises:
        DataError: a row has no label or no position, or a class has fewer rows than there are splits.
    """
    if sizes.method == "hash":  # by threshold, not by rank: a row's split must not depend on other rows
        limits = int(sizes.test * _LAST), int((sizes.test + sizes.validation) * _LAST)
        yield from placed.map_parts(functools.partial(_by_limits, *limits), ctx)
        return
    low, high = _ends_of(placed, ctx) if sizes.method in ("time", "last") else (0, _LAST)
    if sizes.method == "last":
        yield from placed.map_parts(functools.partial(_by_limits, low, low + 1), ctx)
        return
    bins = _Bins(low, (high - low) // _BINS + 1)
    found = pl.concat(placed.map_parts(functools.partial(_binned, bins, aside), ctx))
    counts = found.group_by(STRATUM, "bin").agg(pl.col("rows").sum())
    totals = dict(counts.group_by(STRATUM).agg(pl.col("rows").sum()).sort(STRATUM).iter_rows())
    if sizes.method == "stratified":
        _check_classes(totals)
    cuts = {stratum: _cuts(counts, stratum, _ranks(total, sizes)) for stratum, total in totals.items()}
    test, validation = (np.array([cut[i].bin for cut in cuts.values()], np.uint32) for i in (0, 1))
    coarse = _Coarse(aside, {stratum: code for code, stratum in enumerate(cuts)}, test, validation)
    undecided = []
    for decided, left in placed.select([POSITION]).map_parts(coarse, ctx):
        yield decided
        undecided.append(left)
    yield _ranked(pl.concat(undecided), coarse, list(cuts.values()))


@dataclasses.dataclass(frozen=True)
class _Bins:
    """Bins of equal width, starting at the position `low`."""

    low: int
    width: int

    def of(self, positions: np.ndarray) -> np.ndarray:
        found: np.ndarray = (positions - np.uint64(self.low)) // np.uint64(self.width)
        return found.astype(np.uint32)


@dataclasses.dataclass(frozen=True)
class _Cut:
    """A split boundary: its bin, the number of rows in lower bins, and the rank of the last row before it."""

    bin: int
    below: int
    rank: int


@dataclasses.dataclass(frozen=True)
class _Coarse:
    """Assigns the rows of a part whose bin contains no boundary of their stratum.

    Attributes:
        aside: Folder of the first pass.
        codes: Codes of the strata.
        test: By code, the bin with the end of the test split.
        validation: By code, the bin with the end of the validation split.
    """

    aside: Path
    codes: Mapping[str, int]
    test: np.ndarray
    validation: np.ndarray

    def __call__(self, part: Part, frame: pl.DataFrame) -> tuple[Assignment, pl.DataFrame]:
        with _bin_file(self.aside, part).open("rb") as stream:
            places, strata = np.load(stream), json.load(stream)
        codes = np.array([self.codes[name] for name in strata], np.intp)
        stratum, here = places >> _BITS, (places & (_BINS - 1)).astype(np.uint32)
        test, validation = self.test[codes][stratum], self.validation[codes][stratum]
        near = np.flatnonzero((here == test) | (here == validation))
        left = frame[near].with_columns(pl.Series("code", codes[stratum[near]]), pl.Series("bin", here[near]))
        return _whole_part(part, frame, _splits(here < test, here < validation)), left


def _bin_file(aside: Path, part: Part) -> Path:
    """File with stratum index * `_BINS` + bin of each row of a part, then the names of the strata as JSON."""
    return aside / f"{part.first:012d}.npy"


def _splits(test: np.ndarray, held_out: np.ndarray) -> np.ndarray:
    """The split of each row, from membership in the test split and in test or validation."""
    codes: np.ndarray = test.view(np.uint8) + held_out.view(np.uint8)  # 0 train, 1 validation, 2 test
    return codes


def _whole_part(part: Part, frame: pl.DataFrame, codes: np.ndarray) -> Assignment:
    if len(codes) < part.rows:
        whole = np.full(part.rows, NO_SPLIT, np.uint8)
        whole[frame[ROW].to_numpy() - part.first] = codes
        codes = whole
    return slice(part.first, part.first + part.rows), codes


def _indices(strata: pl.Series, known: pl.Series) -> pl.Series:
    return strata.to_frame().select(class_index(known.to_list(), pl.col(strata.name))).to_series()


def _binned(bins: _Bins, aside: Path, part: Part, frame: pl.DataFrame) -> pl.DataFrame:
    """Row counts of a part by stratum and bin."""
    check_split_order(frame)
    strata = frame[STRATUM]
    known = strata[:_PROBE].unique().sort()
    codes = _indices(strata, known)
    if codes.has_nulls():
        known = strata.unique().sort()
        codes = _indices(strata, known)
    number = pl.UInt32 if len(known) <= 2**32 // _BINS else pl.UInt64
    places: np.ndarray = codes.cast(number).to_numpy() * _BINS + bins.of(frame[POSITION].to_numpy())
    with write_atomically(_bin_file(aside, part)) as path, path.open("wb") as stream:
        np.save(stream, places)
        stream.write(json.dumps(known.to_list()).encode())
    filled, rows = np.unique(places, return_counts=True) if len(known) > _BINS else _counted(places)
    stratum = known.gather(filled // _BINS).rename(STRATUM)
    return pl.DataFrame([stratum, pl.Series("bin", filled % _BINS, pl.UInt32), pl.Series("rows", rows, pl.Int64)])


def _counted(places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    counts = np.bincount(places)
    filled = np.flatnonzero(counts)
    return filled, counts[filled]


def _by_limits(test: int, held_out: int, part: Part, frame: pl.DataFrame) -> Assignment:
    check_split_order(frame)
    positions = frame[POSITION].to_numpy()
    return _whole_part(part, frame, _splits(positions <= np.uint64(test), positions <= np.uint64(held_out)))


def _ends_of(placed: TableRows, ctx: RunContext) -> tuple[int, int]:
    """The smallest and the largest position."""
    ends = list(placed.map(_ends, ctx))
    return min((low for low, _ in ends if low is not None), default=0), max(
        (high for _, high in ends if high is not None), default=0
    )


def _ends(frame: pl.DataFrame) -> tuple[int | None, int | None]:
    return frame.select(low=pl.col(POSITION).min(), high=pl.col(POSITION).max()).row(0)


def _ranks(total: int, sizes: Split) -> tuple[int, int]:
    """The ranks of the last test and the last validation row; each split gets a row if there are enough."""
    test = min(max(1, round(total * sizes.test)), max(total - 2, 1))
    return test, test + min(max(1, round(total * sizes.validation)), max(total - test - 1, 0))


def _cuts(counts: pl.DataFrame, stratum: str, ranks: Sequence[int]) -> list[_Cut]:
    """The ends of the test and the validation split of a stratum."""
    mine = counts.filter(pl.col(STRATUM) == stratum).sort("bin").with_columns(upto=pl.col("rows").cum_sum())
    found = []
    for rank in ranks:
        index, rows, upto = mine.filter(pl.col("upto") >= rank).select("bin", "rows", "upto").row(0)
        found.append(_Cut(index, upto - rows, rank))
    return found


def _ranked(rows: pl.DataFrame, coarse: _Coarse, cuts: Sequence[Sequence[_Cut]]) -> Assignment:
    """Assign the undecided rows: a boundary is the position of the row with its rank, inclusive."""
    limits = np.zeros((2, len(cuts)), np.uint64)
    by_bin = rows.sort(POSITION).partition_by("code", "bin", as_dict=True)
    for stratum, ends in enumerate(cuts):
        for which, cut in enumerate(ends):
            limits[which, stratum] = by_bin[stratum, cut.bin][POSITION][cut.rank - cut.below - 1]
    positions, code = rows[POSITION].to_numpy(), rows["code"].to_numpy()
    test, held_out = (positions <= limit[code] for limit in limits)
    return rows[ROW].to_numpy(), _splits(test, held_out)


def _check_classes(totals: dict[str, int]) -> None:
    if small := [f"{label!r} has {rows}" for label, rows in totals.items() if rows < len(SPLITS)]:
        raise DataError(
            f"too few rows: {', '.join(small[:5])}; a class needs {len(SPLITS)}, one for each split.",
            where="data.label",
            fix="Reject the class with the step `allowed`, or split by `random`.",
        )
