"""The rules that every use case of a learning task shares. A use case adds its own in `quality`.

They are here and not on the learning task because that imports torch, which checking a table does not need.
"""

from __future__ import annotations

from typing import Any, Literal

from lepton_tasks.core.use_case import Expectation

Severity = Literal["critical", "warning"]


def _rule(type_: str, severity: Severity = "critical", **params: Any) -> Expectation:
    return Expectation(type=type_, params=params, severity=severity)


_LABELLED = (
    _rule("expect_column_values_to_be_unique", column="sample_id"),
    _rule("expect_column_values_to_not_be_null", column="label", mostly=0.9),
    _rule("expect_column_unique_value_count_to_be_between", column="label", min_value=2),
)

_SUITES: dict[tuple[str, str], tuple[Expectation, ...]] = {
    ("image_classification", "raw"): (
        *_LABELLED,
        _rule("expect_column_values_to_not_be_null", "warning", column="label"),
        _rule("expect_column_values_to_not_be_null", column="sha256", mostly=0.5),  # null: the file cannot be read
        _rule("expect_column_values_to_be_unique", "warning", column="sha256"),
        _rule("expect_column_values_to_be_between", "warning", column="size_bytes", min_value=1),
    ),
    ("image_classification", "features"): (
        *_LABELLED,
        _rule("expect_column_distinct_values_to_equal_set", column="split", value_set=["train", "validation", "test"]),
        # Pictures that differ only in what resizing takes away may lie in two splits, and flatter the test figures.
        _rule("expect_column_values_to_be_unique", "warning", column="input_sha256"),
        # A picture of one colour shows nothing.
        _rule("expect_column_values_to_be_between", "warning", column="std", min_value=0.001),
        _rule("expect_column_values_to_be_between", column="std", min_value=0.001, mostly=0.5),
    ),
}


def shared_rules(task: str, stage: str) -> tuple[Expectation, ...]:
    """The rules of a learning task for ``raw`` or ``features``; none for a task without a suite."""
    return _SUITES.get((task, stage), ())
