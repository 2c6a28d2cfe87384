"""Stage validate_features: what training will see, against the rules of the feature extractor and the use case."""

from __future__ import annotations

import functools

from lepton_tasks.core.artifacts import DatasetRef, QualityReportRef
from lepton_tasks.core.catalogue import FEATURES, TABLE_FEATURES
from lepton_tasks.core.components import takes_tables
from lepton_tasks.core.context import RunContext
from lepton_tasks.core.use_case import UseCase


def validate_features(use_case: UseCase, ctx: RunContext, *, features: DatasetRef) -> QualityReportRef:
    """Publish the report and its Data Docs; warnings are logged.

    Raises:
        DataQualityError: a critical expectation failed.
    """
    from lepton_tasks.quality.check import check
    from lepton_tasks.quality.rows import FrameRows
    from lepton_tasks.quality.tables import feature_rows, features_table, origin_of

    folder, own = ctx.open(features), use_case.quality.features
    check_rows = functools.partial(
        check, ctx=ctx, use_case=use_case.name, where=f"{use_case.name}.yaml: quality.features"
    )
    if takes_tables(use_case):
        rules = TABLE_FEATURES.load(use_case.features.name).expectations("features")
        if (rows := feature_rows(folder)) is not None:
            return check_rows([(rows, (*rules, *own))], origin=origin_of(rows.parts))
        return check_rows([(FrameRows.of(features_table(folder)), (*rules, *own))])
    from lepton_tasks.data.expectations import applicable

    table = features_table(folder)
    rules = applicable(FEATURES.load(use_case.features.name).expectations("features"), table)
    return check_rows([(FrameRows.of(table), (*rules, *own))], identity="sample_id")
