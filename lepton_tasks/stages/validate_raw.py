"""Stage validate_raw: the rows as they came, against the rules of the feature extractor and the use case."""

from __future__ import annotations

from lepton_tasks.core.artifacts import DatasetRef, QualityReportRef
from lepton_tasks.core.catalogue import FEATURES
from lepton_tasks.core.context import RunContext
from lepton_tasks.core.use_case import UseCase


def validate_raw(use_case: UseCase, ctx: RunContext, *, raw: DatasetRef) -> QualityReportRef:
    """Publish the report and its Data Docs; warnings are logged.

    Raises:
        DataQualityError: a critical expectation failed.
    """
    from lepton_tasks.quality.check import check
    from lepton_tasks.quality.tables import raw_table

    rules = (*FEATURES.load(use_case.features.name).expectations("raw"), *use_case.quality.raw)
    return check(raw_table(ctx.open(raw)), rules, ctx, where=f"{use_case.name}.yaml: quality.raw")
