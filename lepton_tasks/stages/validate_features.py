"""Stage validate_features: check the features against the rules of extractor and use case."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from lepton_tasks.core.artifacts import DatasetRef, QualityReportRef
from lepton_tasks.core.catalogue import FEATURES, TABLE_FEATURES
from lepton_tasks.core.components import takes_tables
from lepton_tasks.core.context import RunContext
from lepton_tasks.core.use_case import Expectation, UseCase
from lepton_tasks.data.split import SPLITS

if TYPE_CHECKING:
    from lepton_tasks.quality.rows import FrameRows

_COMPARED = ("mean", "std", "target")


def validate_features(use_case: UseCase, ctx: RunContext, *, features: DatasetRef) -> QualityReportRef:
    """Check the features; publish the report and Data Docs.

    Rules derived from the training split apply to the other splits, and only warn.

    Raises:
        DataQualityError: a critical expectation failed.
    """
    from lepton_tasks.quality.check import check
    from lepton_tasks.quality.profile import compared_with, profile_of
    from lepton_tasks.quality.rows import FrameRows
    from lepton_tasks.quality.tables import feature_rows, features_table, of_splits, origin_of

    folder, own = ctx.open(features), use_case.quality.features
    check_rows = functools.partial(
        check, ctx=ctx, use_case=use_case.name, where=f"{use_case.name}.yaml: quality.features"
    )
    if takes_tables(use_case):
        rules = TABLE_FEATURES.load(use_case.features.name).expectations("features")
        if (rows := feature_rows(folder)) is not None:
            train, rest = (of_splits(rows, names) for names in (SPLITS[:1], SPLITS[1:]))
            learned = compared_with(profile_of(train, ctx))
            return check_rows([(rows, (*rules, *own)), (rest, learned)], origin=origin_of(rows.parts))
        arrays = FrameRows.of(features_table(folder)).numbered()
        return check_rows([(arrays, (*rules, *own)), _other_splits(arrays, ctx)])
    from lepton_tasks.data.expectations import applicable

    table = features_table(folder)
    rules = applicable(FEATURES.load(use_case.features.name).expectations("features"), table)
    samples = FrameRows.of(table).numbered()
    return check_rows([(samples, (*rules, *own)), _other_splits(samples, ctx)], identity="sample_id")


def _other_splits(rows: FrameRows, ctx: RunContext) -> tuple[FrameRows, list[Expectation]]:
    """Rows of validation and test, and rules derived from the training split."""
    from lepton_tasks.quality.profile import compared_with, profile_of

    columns = [name for name in _COMPARED if name in rows.schema]
    learned = compared_with(profile_of(rows.where("split", *SPLITS[:1]).select(columns), ctx))
    return rows.where("split", *SPLITS[1:]), learned
