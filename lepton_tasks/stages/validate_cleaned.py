"""Stage validate_cleaned: a profile of the training rows, the use case's rules, and whether other splits are alike."""

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


def validate_cleaned(use_case: UseCase, ctx: RunContext, *, splits: DatasetRef) -> QualityReportRef:
    """Check the cleaned rows and publish the report with ``profile.json``, which `lepton data` shows and compares.

    The use case's own rules are about all rows. Of a table, what the training rows are like becomes rules for the
    other splits, which only warn: a test split unlike the training split says little about the model.

    Raises:
        DataQualityError: a critical expectation failed.
    """
    from lepton_tasks.quality.check import check
    from lepton_tasks.quality.profile import profile_of, rules_from

    own = use_case.quality.cleaned
    check_rows = functools.partial(
        check, ctx=ctx, use_case=use_case.name, where=f"{use_case.name}.yaml: quality.cleaned"
    )
    if not takes_tables(use_case):
        samples = _samples(ctx.open(splits))
        train = dataclasses.replace(samples, frame=samples.frame.filter(split="train"))
        return check_rows([(samples, own)], identity="sample_id", profile=profile_of(train, ctx))
    from lepton_tasks.data.split import SPLITS
    from lepton_tasks.data.tables.artifact import open_splits
    from lepton_tasks.quality.tables import origin_of

    rows = open_splits(ctx, splits)
    codes = tuple(range(len(SPLITS)))
    height = sum(split.height for split in rows.values())
    every = dataclasses.replace(rows["train"], seen=codes, height=height)
    others = dataclasses.replace(rows["train"], seen=codes[1:], height=height - rows["train"].height)
    profile = profile_of(rows["train"], ctx)
    suites = [(every, own), (others, rules_from(profile))]
    return check_rows(suites, origin=origin_of(every.parts), profile=profile)


def _samples(folder: Path) -> FrameRows:
    """The light columns of split samples."""
    import polars as pl

    from lepton_tasks.quality.rows import FrameRows

    rows = pl.scan_parquet(folder / "rows.parquet")
    light = [name for name, dtype in rows.collect_schema().items() if not dtype.is_nested() and dtype != pl.Binary]
    return FrameRows(rows.select(light).collect())
