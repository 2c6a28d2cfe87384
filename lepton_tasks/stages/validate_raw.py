"""Stage validate_raw: the rows as they came, against the rules of the feature extractor and the use case."""

from __future__ import annotations

import functools

from lepton_tasks.core.artifacts import DatasetRef, QualityReportRef
from lepton_tasks.core.catalogue import FEATURES, TABLE_FEATURES
from lepton_tasks.core.components import takes_tables
from lepton_tasks.core.context import RunContext
from lepton_tasks.core.use_case import UseCase


def validate_raw(use_case: UseCase, ctx: RunContext, *, raw: DatasetRef) -> QualityReportRef:
    """Publish the report and its Data Docs; warnings are logged.

    Raises:
        DataQualityError: a critical expectation failed.
    """
    from lepton_tasks.quality.check import check

    check_rows = functools.partial(check, ctx=ctx, use_case=use_case.name, where=f"{use_case.name}.yaml: quality.raw")
    if takes_tables(use_case):
        from lepton_tasks.data.tables.artifact import open_raw
        from lepton_tasks.quality.tables import origin_of

        rows = open_raw(ctx, raw)
        rules = TABLE_FEATURES.load(use_case.features.name).expectations("raw")
        return check_rows([(rows, (*rules, *use_case.quality.raw))], origin=origin_of(rows.parts))
    from lepton_tasks.data.expectations import applicable
    from lepton_tasks.quality.rows import FrameRows
    from lepton_tasks.quality.tables import raw_table

    table = raw_table(ctx.open(raw))
    rules = applicable(FEATURES.load(use_case.features.name).expectations("raw"), table)
    return check_rows([(FrameRows.of(table), (*rules, *use_case.quality.raw))], identity="sample_id")
