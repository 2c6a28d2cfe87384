"""Stage validate_raw: the rows as they came, against the rules of the feature extractor and the use case."""

from __future__ import annotations

import functools

from lepton_tasks.core.artifacts import DatasetRef, QualityReportRef
from lepton_tasks.core.catalogue import FEATURES, TABLE_FEATURES
from lepton_tasks.core.components import takes_tables
from lepton_tasks.core.context import RunContext
from lepton_tasks.core.use_case import UseCase


def validate_raw(use_case: UseCase, ctx: RunContext, *, raw: DatasetRef) -> QualityReportRef:
    """Publish the report, its Data Docs and ``profile.json``; warnings are logged.

    What the last raw data that passed were like becomes rules that only warn: data may change, but not unnoticed.

    Raises:
        DataQualityError: a critical expectation failed.
    """
    from lepton_tasks.quality.check import check
    from lepton_tasks.quality.earlier import rules_from_earlier
    from lepton_tasks.quality.profile import profile_of

    earlier, note = rules_from_earlier(use_case.name, ctx)
    own, where = (*use_case.quality.raw, *earlier), f"{use_case.name}.yaml: quality.raw"
    check_rows = functools.partial(check, ctx=ctx, use_case=use_case.name, where=where, note=note)
    if takes_tables(use_case):
        from lepton_tasks.data.tables.artifact import open_raw
        from lepton_tasks.quality.tables import origin_of

        rows = open_raw(ctx, raw)
        rules = TABLE_FEATURES.load(use_case.features.name).expectations("raw")
        return check_rows([(rows, (*rules, *own))], origin=origin_of(rows.parts), profile=profile_of(rows, ctx))
    from lepton_tasks.data.expectations import applicable
    from lepton_tasks.quality.rows import FrameRows
    from lepton_tasks.quality.tables import raw_table

    table = raw_table(ctx.open(raw))
    rules, samples = applicable(FEATURES.load(use_case.features.name).expectations("raw"), table), FrameRows.of(table)
    return check_rows([(samples, (*rules, *own))], identity="sample_id", profile=profile_of(samples, ctx))
