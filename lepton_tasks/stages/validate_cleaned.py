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

_TECHNICAL = ("split", "position", "perceptual_hash")  # technical columns of samples, without informative statistics
_COMPARED = ("label", "size_bytes", "width", "height", "contrast")
_BETWEEN = "expect_column_values_to_be_between"


def validate_cleaned(use_case: UseCase, ctx: RunContext, *, splits: DatasetRef) -> QualityReportRef:
    """Check the cleaned rows; publish the report and the profile that `lepton data` shows.

    The use case's own rules apply to all rows. Rules derived from the training rows apply to the other splits, and only
    warn: a test split unlike the training split says little about the model.

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
        about = [name for name in samples.schema if name not in _TECHNICAL]
        profile = profile_of(samples.where("split", "train").select(about), ctx)
        columns = {name: profile["columns"][name] for name in _COMPARED if name in profile["columns"]}
        learned = compared_with(profile | {"columns": columns})
        compared = (samples.where("split", "validation", "test"), learned)
        return check_rows([(samples, own), compared], identity="sample_id", profile=profile)
    from lepton_tasks.data.split import SPLITS
    from lepton_tasks.data.tables.artifact import open_splits
    from lepton_tasks.quality.tables import origin_of

    rows = open_splits(ctx, splits)
    codes = tuple(range(len(SPLITS)))
    height = sum(split.height for split in rows.values())
    all_rows = dataclasses.replace(rows["train"], selected_codes=codes, height=height)
    others = dataclasses.replace(rows["train"], selected_codes=codes[1:], height=height - rows["train"].height)
    profile = profile_of(rows["train"], ctx)
    split_settings = use_case.data.split
    # The split column differs between the splits by design.
    by_column = split_settings.method in ("time", "last")
    split_column = split_settings.column if by_column else None
    learned = [
        rule for rule in compared_with(profile) if (split_column, _BETWEEN) != (rule.params["column"], rule.type)
    ]
    suites = [(all_rows, own), (others, learned)]
    return check_rows(suites, origin=origin_of(all_rows.parts), profile=profile)


def _samples(folder: Path) -> FrameRows:
    """The rows of samples, without nested and binary columns."""
    import polars as pl

    from lepton_tasks.quality.rows import FrameRows

    rows = pl.scan_parquet(folder / "rows.parquet")
    names = [name for name, dtype in rows.collect_schema().items() if not dtype.is_nested() and dtype != pl.Binary]
    return FrameRows(rows.select(names).collect()).numbered()
