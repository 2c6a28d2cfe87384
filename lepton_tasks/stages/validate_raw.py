"""Stage validate_raw: check the raw rows against the rules of extractor and use case."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from lepton_tasks.core.artifacts import DatasetRef, QualityReportRef
from lepton_tasks.core.catalogue import FEATURES, TABLE_FEATURES
from lepton_tasks.core.components import takes_tables
from lepton_tasks.core.context import RunContext
from lepton_tasks.core.errors import DataQualityError
from lepton_tasks.core.use_case import Expectation, UseCase
from lepton_tasks.data.expectations import applicable, rule

if TYPE_CHECKING:
    import polars as pl

_CLASSES = "expect_column_unique_value_count_to_be_between"


def validate_raw(use_case: UseCase, ctx: RunContext, *, raw: DatasetRef) -> QualityReportRef:
    """Check the raw rows; publish the report, Data Docs and ``profile.json``.

    Rules derived from the last raw data that passed only warn: data may change, but not unnoticed. Columns without
    values and invalid numbers also warn.

    Raises:
        DataQualityError: a critical expectation failed.
    """
    from lepton_tasks.quality.check import check
    from lepton_tasks.quality.previous_data import rules_from_earlier
    from lepton_tasks.quality.profile import oddities_in, profile_of

    earlier, note = rules_from_earlier(use_case.name, ctx)
    own, where = (*use_case.quality.raw, *earlier), f"{use_case.name}.yaml: quality.raw"
    check_rows = functools.partial(check, ctx=ctx, use_case=use_case.name, where=where)
    if takes_tables(use_case):
        from lepton_tasks.data.tables.artifact import open_raw
        from lepton_tasks.quality.tables import origin_of

        rows = open_raw(ctx, raw)
        rules = (
            *TABLE_FEATURES.load(use_case.features.name).expectations("raw"),
            *_label_rules(use_case.data.label, rows.schema),
        )
        profile = profile_of(rows, ctx)
        oddities = oddities_in(profile)
        for sentence in oddities:
            ctx.log.warning("%s", sentence)
        note = " ".join([*oddities, note])
        with _single_class_reported(use_case, use_case.data.label, profile):
            return check_rows([(rows, (*rules, *own))], origin=origin_of(rows.parts), profile=profile, note=note)
    from lepton_tasks.quality.rows import FrameRows
    from lepton_tasks.quality.tables import raw_table

    table = raw_table(ctx.open(raw))
    common, samples = applicable(FEATURES.load(use_case.features.name).expectations("raw"), table), FrameRows.of(table)
    profile = profile_of(samples, ctx)
    with _single_class_reported(use_case, "label", profile):
        return check_rows([(samples, (*common, *own))], identity="sample_id", profile=profile, note=note)


@contextlib.contextmanager
def _single_class_reported(use_case: UseCase, label: str | None, profile: Mapping[str, Any]) -> Iterator[None]:
    """Report a label with a single class by name, instead of by the implicit rule that failed."""
    try:
        yield
    except DataQualityError as error:
        about = profile["columns"].get(label, {})
        if f"{_CLASSES} ({label}, min_value=2)" not in error.what or about.get("distinct") != 1:
            raise
        raise DataQualityError(
            f"the label {label!r} has only one value, {about['top'][0][0]!r}: nothing can be told apart.",
            where=f"{use_case.name}.yaml: data",
            fix=f"Add data of other classes, or choose another label. {error.fix}",
        ) from error


def _label_rules(label: str | None, schema: Mapping[str, pl.DataType]) -> list[Expectation]:
    """Require two classes of a label that is not a float; a label made by a cleaning step is not checked."""
    if label is None or label not in schema or schema[label].is_float():
        return []
    return [rule(_CLASSES, column=label, min_value=2)]
