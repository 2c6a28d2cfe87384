"""Where the line between splits runs: exact by rank, in bounded memory.

One pass counts positions in coarse bins, a second looks closely at the bins that hold a cut.
"""

from __future__ import annotations

import dataclasses
import functools

import polars as pl

from lepton_tasks.core.context import RunContext
from lepton_tasks.core.errors import DataError
from lepton_tasks.core.use_case import Split
from lepton_tasks.data.split import SPLITS
from lepton_tasks.data.tables.positions import POSITION, STRATUM, check_placed
from lepton_tasks.data.tables.rows import TableRows

_BINS = 4096
_LAST = 2**64 - 1


@dataclasses.dataclass(frozen=True)
class Cuts:
    """Per stratum the last position of the test and of the validation split."""

    test: dict[str, int]
    validation: dict[str, int]


def find_cuts(placed: TableRows, sizes: Split, ctx: RunContext) -> Cuts:
    """The positions at which each stratum is cut, so that its splits have their sizes.

    Args:
        placed: Rows with `STRATUM` and `POSITION`.
        sizes: Shares and method.
        ctx: Says where to compute.

    Raises:
        DataError: a row has no label or no position, or a class has fewer rows than there are splits.
    """
    if sizes.method == "hash":  # by share, not by rank: a row's split must not depend on the others
        return Cuts({"": int(sizes.test * _LAST)}, {"": int((sizes.test + sizes.validation) * _LAST)})
    low, high = _ends_of(placed, ctx) if sizes.method == "time" else (0, _LAST)
    binned = functools.partial(_binned, low, (high - low) // _BINS + 1)
    counts = pl.concat(placed.map(binned, ctx)).group_by(STRATUM, "bin").agg(pl.col("rows").sum())
    totals = dict(counts.group_by(STRATUM).agg(pl.col("rows").sum()).sort(STRATUM).iter_rows())
    if sizes.method == "stratified":
        _check_classes(totals)
    ranks = {stratum: _ranks(total, sizes) for stratum, total in totals.items()}
    cut_bins = pl.concat([_cut_bins(counts, stratum, ranks[stratum]) for stratum in totals])
    close = pl.concat(placed.map(functools.partial(_close, low, (high - low) // _BINS + 1, cut_bins), ctx))
    close = close.group_by(STRATUM, "bin", POSITION).agg(pl.col("rows").sum())
    cuts: dict[str, dict[str, int]] = {"test": {}, "validation": {}}
    for stratum, name, index, below, rank in cut_bins.iter_rows():
        here = close.filter((pl.col(STRATUM) == stratum) & (pl.col("bin") == index)).sort(POSITION)
        reached = here.filter(pl.col("rows").cum_sum() + below >= rank)
        cuts[name][stratum] = reached[POSITION][0]
    return Cuts(**cuts)


def _ends_of(placed: TableRows, ctx: RunContext) -> tuple[int, int]:
    """The smallest and the largest position; hashes fill their whole range."""
    ends = list(placed.map(_ends, ctx))
    return min((low for low, _ in ends if low is not None), default=0), max(
        (high for _, high in ends if high is not None), default=0
    )


def _ends(frame: pl.DataFrame) -> tuple[int | None, int | None]:
    return frame.select(low=pl.col(POSITION).min(), high=pl.col(POSITION).max()).row(0)


def _binned(low: int, width: int, frame: pl.DataFrame) -> pl.DataFrame:
    """How many rows of a part each bin of each stratum holds."""
    check_placed(frame)
    return frame.group_by(STRATUM, _bin(low, width)).agg(rows=pl.len().cast(pl.Int64))


def _close(low: int, width: int, cut_bins: pl.DataFrame, frame: pl.DataFrame) -> pl.DataFrame:
    """How many rows of a part each position has, in the bins that hold a cut."""
    wanted = cut_bins.select(STRATUM, "bin").unique()
    inside = frame.with_columns(_bin(low, width)).join(wanted, on=[STRATUM, "bin"], how="semi")
    return inside.group_by(STRATUM, "bin", POSITION).agg(rows=pl.len().cast(pl.Int64))


def _bin(low: int, width: int) -> pl.Expr:
    return ((pl.col(POSITION) - pl.lit(low, pl.UInt64)) // pl.lit(width, pl.UInt64)).cast(pl.UInt32).alias("bin")


def _ranks(total: int, sizes: Split) -> dict[str, int]:
    """The rank of the last row of the test and of the validation split; each split gets a row if there are enough."""
    test = min(max(1, round(total * sizes.test)), max(total - 2, 1))
    validation = min(max(1, round(total * sizes.validation)), max(total - test - 1, 0))
    return {"test": test, "validation": test + validation}


def _cut_bins(counts: pl.DataFrame, stratum: str, ranks: dict[str, int]) -> pl.DataFrame:
    """For each cut: the bin that holds it, and how many rows lie in the bins below."""
    mine = counts.filter(pl.col(STRATUM) == stratum).sort("bin").with_columns(upto=pl.col("rows").cum_sum())
    found = []
    for name, rank in ranks.items():
        index, rows, upto = mine.filter(pl.col("upto") >= rank).select("bin", "rows", "upto").row(0)
        found.append((stratum, name, index, upto - rows, rank))
    schema = {STRATUM: pl.String, "split": pl.String, "bin": pl.UInt32, "below": pl.Int64, "rank": pl.Int64}
    return pl.DataFrame(found, schema=schema, orient="row")


def _check_classes(totals: dict[str, int]) -> None:
    if small := [f"{label!r} has {rows}" for label, rows in totals.items() if rows < len(SPLITS)]:
        raise DataError(
            f"too few rows: {', '.join(small[:5])}; a class needs {len(SPLITS)}, one for each split.",
            where="data.label",
            fix="Refuse the class with the step `allowed`, or split by `random`.",
        )
