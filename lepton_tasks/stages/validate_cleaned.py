"""Stage validate_cleaned: profile the training rows, check rules, and compare the splits."""

from __future__ import annotations

import dataclasses
import functools
from typing import TYPE_CHECKING

from lepton_tasks.core.artifacts import DatasetRef, QualityReportRef
from lepton_tasks.core.components import takes_tables
from lepton_tasks.core.context import RunContext
from lepton_tasks.core.use_case import UseCase

if TYPE_CHECKING:
    from pathlib import Path

    from lepton_tasks.quality.rows import FrameRows

_OURS = ("split", "position", "perceptual_hash")  # of samples: they tell nothing about them as a whole
_COMPARED = ("label", "size_bytes", "width", "height", "contrast")
_BETWEEN = "expect_column_values_to_be_between"


def validate_cleaned(use_case: UseCase, ctx: RunContext, *, splits: DatasetRef) -> QualityReportRef:
    """Check the cleaned rows; publish the report and the profile that `lepton data` shows.

    The use case's own rules are about all rows. What the training rows are like becomes rules for the other splits,
    which only warn: a test split unlike the training split says little about the model.

    Raises:
        DataQualityError: a critical expectation failed.
    """
    from lepton_tasks.quality.check import check
    from lepton_tasks.quality.profile import compared_with, profile_of

    own = use_case.quality.cleaned
    check_rows = functools.partial(
        check, ctx=ctx, use_case=use_case.name, where=f"{use_case.name}.yaml: quality.cleaned"
    )
    if not takes_tables(use_case):
        samples = _samples(ctx.open(splits))
        about = [name for name in samples.schema if name not in _OURS]
        profile = profile_of(samples.where("split", "train").select(about), ctx)
        told = {name: profile["columns"][name] for name in _COMPARED if name in profile["columns"]}
        learned = compared_with(profile | {"columns": told})
        compared = (samples.where("split", "validation", "test"), learned)
        return check_rows([(samples, own), compared], identity="sample_id", profile=profile)
    from lepton_tasks.data.split import SPLITS
    from lepton_tasks.data.tables.artifact import open_splits
    from lepton_tasks.quality.tables import origin_of

    rows = open_splits(ctx, splits)
    codes = tuple(range(len(SPLITS)))
    height = sum(split.height for split in rows.values())
    every = dataclasses.replace(rows["train"], selected_codes=codes, height=height)
    others = dataclasses.replace(rows["train"], selected_codes=codes[1:], height=height - rows["train"].height)
    profile = profile_of(rows["train"], ctx)
    by = use_case.data.split
    cut = by.column if by.method in ("time", "last") else None  # it differs from split to split, as it is meant to
    learned = [rule for rule in compared_with(profile) if (cut, _BETWEEN) != (rule.params["column"], rule.type)]
    suites = [(every, own), (others, learned)]
    return check_rows(suites, origin=origin_of(every.parts), profile=profile)


def _samples(folder: Path) -> FrameRows:
    """The light columns of split samples."""
    import polars as pl

    from lepton_tasks.quality.rows import FrameRows

    rows = pl.scan_parquet(folder / "rows.parquet")
    light = [name for name, dtype in rows.collect_schema().items() if not dtype.is_nested() and dtype != pl.Binary]
    return FrameRows(rows.select(light).collect()).numbered()
