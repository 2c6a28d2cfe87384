"""Default data rules for text, text pairs, series and interactions; use cases add their own under `quality`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from lepton_tasks.core.use_case import Expectation
from lepton_tasks.data.expectations import rule
from lepton_tasks.data.split import SPLITS

Rules = Mapping[Literal["raw", "features"], Sequence[Expectation]]

_ROWS = (rule("expect_table_row_count_to_be_between", min_value=len(SPLITS)),)
_SPLITS = (rule("expect_column_distinct_values_to_equal_set", column="split", value_set=list(SPLITS)),)
_LEAST = 1e-9  # lower bound of a row's mean: 0 if no token, or neither user nor item, is known

SPARSE: Rules = {"raw": _ROWS, "features": _SPLITS}

TOKENS: Rules = {
    "raw": _ROWS,
    "features": (
        *_SPLITS,
        # A text without tokens has no information; equal texts in two splits would inflate test metrics.
        rule("expect_column_values_to_be_between", "warning", column="mean", min_value=_LEAST),
        rule("expect_column_values_to_be_between", column="mean", min_value=_LEAST, mostly=0.9),
        rule("expect_column_values_to_be_unique", "warning", column="input_sha256", mostly=0.99),
    ),
}

WINDOWS: Rules = {
    "raw": _ROWS,
    "features": (
        *_SPLITS,
        rule("expect_column_values_to_not_be_null", column="mean"),
        # Values are scaled by the training split: a window far outside is not comparable with the training data.
        rule("expect_column_values_to_be_between", "warning", column="mean", min_value=-5, max_value=5),
    ),
}

PAIRS: Rules = {
    "raw": _ROWS,
    "features": (*_SPLITS, rule("expect_column_values_to_be_between", column="mean", min_value=_LEAST, mostly=0.5)),
}
"""The mean is 0 if both user and item are unknown in training."""
