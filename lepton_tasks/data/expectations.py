"""Default data rules of feature extractors; use cases add their own under `quality`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from lepton_tasks.core.use_case import Expectation

if TYPE_CHECKING:
    import pyarrow as pa


def rule(type_: str, severity: Literal["critical", "warning"] = "critical", **params: Any) -> Expectation:
    """An expectation by its name in Great Expectations."""
    return Expectation(type=type_, params=params, severity=severity)


LABELLED = (
    rule("expect_column_values_to_be_unique", column="sample_id"),
    rule("expect_column_values_to_not_be_null", column="label", mostly=0.9),
    rule("expect_column_unique_value_count_to_be_between", column="label", min_value=2),
)
"""Rules for every labelled data set, before and after cleaning."""


def applicable(rules: Sequence[Expectation], table: pa.Table) -> Sequence[Expectation]:
    """The rules that apply: without those about ``label`` if no row has one, as for videos and images with boxes."""
    labelled = table["label"].null_count < table.num_rows
    return [rule for rule in rules if labelled or rule.params.get("column") != "label"]
