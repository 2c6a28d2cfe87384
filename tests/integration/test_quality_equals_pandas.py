"""What one pass over parts finds out is what Great Expectations' own pandas engine finds in the whole table."""

import datetime as dt

import numpy as np
import polars as pl
import pytest

from lepton_tasks.core.context import RunContext
from lepton_tasks.core.use_case import Expectation
from lepton_tasks.data.tables.rows import ROW
from lepton_tasks.quality.suite import expectation_of, quiet, run_suite

ROWS = 500


class Parts:
    """Rows cut into parts of uneven size."""

    def __init__(self, frame, cuts=(0, 7, 120, 121, ROWS)):
        self.frame, self.cuts = frame, cuts
        self.schema, self.height = frame.schema, frame.height

    def select(self, columns):
        return Parts(self.frame.select(columns), self.cuts)

    def map(self, function, ctx):
        numbered = self.frame.with_columns(pl.int_range(pl.len(), dtype=pl.Int64).alias(ROW))
        for start, end in zip(self.cuts, self.cuts[1:], strict=False):
            yield function(numbered[start:end])


def table():
    rng = np.random.default_rng(5)
    some = pl.Series(rng.random(ROWS) < 0.1)
    floats = pl.Series(rng.normal(10, 3, ROWS)).round(2)
    frame = pl.DataFrame(
        {
            "id": np.arange(ROWS),
            "whole": rng.integers(0, 12, ROWS),
            "float": floats,
            "gaps": floats,
            "nan": floats.set(some, float("nan")),
            "word": pl.Series(["ab", "abc", "Ärger", "", "x-1", "x-22"])[rng.integers(0, 6, ROWS)],
            "holes": pl.Series(["red", "green", "blue"])[rng.integers(0, 3, ROWS)],
            "flag": rng.random(ROWS) < 0.5,
            "time": [dt.datetime(2024, 1, 1) + dt.timedelta(hours=int(i)) for i in range(ROWS)],
            "rising": np.arange(ROWS) // 2,
            "broken": np.where(np.arange(ROWS) % 120 == 0, 0, np.arange(ROWS)),
            "other": rng.integers(0, 12, ROWS),
        }
    )
    hole = pl.Series(rng.random(ROWS) < 0.2)
    empty = pl.lit(None)
    return frame.with_columns(
        gaps=pl.when(hole).then(empty).otherwise(pl.col("gaps")),
        holes=pl.when(some).then(empty).otherwise(pl.col("holes")),
        nothing=pl.lit(None, pl.Float64),
    )


DAYS = {"min_value": dt.datetime(2024, 1, 2), "max_value": dt.datetime(2024, 1, 10)}
WHEN = {"row_condition": 'col("whole") > 5', "condition_parser": "great_expectations"}
NESTED = {
    "row_condition": {
        "type": "or",
        "conditions": [
            {"type": "comparison", "column": {"name": "holes"}, "operator": "IN", "parameter": ["red", "blue"]},
            {"type": "nullity", "column": {"name": "gaps"}, "is_null": True},
        ],
    }
}
RULES = [
    ("table_row_count_to_equal", {"value": ROWS}),
    ("table_row_count_to_be_between", {"min_value": 1, "max_value": 10}),
    ("table_column_count_to_equal", {"value": 13}),
    ("table_columns_to_match_set", {"column_set": ["id", "absent"], "exact_match": False}),
    ("column_to_exist", {"column": "word"}),
    ("column_values_to_not_be_null", {"column": "gaps", "mostly": 0.7}),
    ("column_values_to_not_be_null", {"column": "nan"}),
    ("column_values_to_be_null", {"column": "gaps", "mostly": 0.5}),
    ("column_values_to_be_null", {"column": "nothing"}),
    ("column_values_to_be_between", {"column": "gaps", "min_value": 5, "max_value": 15, "mostly": 0.9}),
    ("column_values_to_be_between", {"column": "nan", "min_value": 8, "strict_min": True}),
    ("column_values_to_be_between", {"column": "whole", "max_value": 11, "strict_max": True}),
    ("column_values_to_be_between", {"column": "time", **DAYS}),
    ("column_values_to_be_between", {"column": "float", "min_value": 9, **WHEN}),
    ("column_values_to_be_between", {"column": "gaps", "min_value": 9, **NESTED}),
    ("column_values_to_be_between", {"column": "nothing", "min_value": 9}),
    ("column_values_to_be_in_set", {"column": "holes", "value_set": ["red", "green"], "mostly": 0.5}),
    ("column_values_to_be_in_set", {"column": "whole", "value_set": [1, 2, 3.5, "x"]}),
    ("column_values_to_be_in_set", {"column": "float", "value_set": [10, 9.5]}),
    ("column_values_to_not_be_in_set", {"column": "whole", "value_set": [1, 2]}),
    ("column_values_to_match_regex", {"column": "word", "regex": r"^x-\d+$"}),
    ("column_values_to_match_regex", {"column": "word", "regex": r"(?<!x-)\d"}),
    ("column_values_to_not_match_regex", {"column": "word", "regex": "Ä"}),
    ("column_values_to_match_regex_list", {"column": "word", "regex_list": ["a", "b"], "match_on": "all"}),
    ("column_values_to_match_regex_list", {"column": "word", "regex_list": ["^x", "b"]}),
    ("column_values_to_not_match_regex_list", {"column": "word", "regex_list": ["^x", "z"]}),
    ("column_value_lengths_to_be_between", {"column": "word", "min_value": 2, "max_value": 4}),
    ("column_value_lengths_to_equal", {"column": "holes", "value": 4}),
    ("column_values_to_be_unique", {"column": "id"}),
    ("column_values_to_be_unique", {"column": "gaps"}),
    ("column_values_to_be_increasing", {"column": "rising"}),
    ("column_values_to_be_increasing", {"column": "rising", "strictly": True}),
    ("column_values_to_be_increasing", {"column": "broken"}),
    ("column_values_to_be_decreasing", {"column": "gaps"}),
    ("column_values_to_be_increasing", {"column": "time", "strictly": True}),
    ("column_pair_values_to_be_equal", {"column_A": "whole", "column_B": "other"}),
    ("column_pair_values_a_to_be_greater_than_b", {"column_A": "float", "column_B": "gaps", "or_equal": True}),
    (
        "column_pair_values_a_to_be_greater_than_b",
        {"column_A": "float", "column_B": "gaps", "ignore_row_if": "either_value_is_missing", "mostly": 0.1},
    ),
    ("compound_columns_to_be_unique", {"column_list": ["whole", "other"]}),
    ("compound_columns_to_be_unique", {"column_list": ["id", "gaps"]}),
    ("multicolumn_sum_to_equal", {"column_list": ["whole", "other"], "sum_total": 11}),
    ("select_column_values_to_be_unique_within_record", {"column_list": ["whole", "other"]}),
    ("column_min_to_be_between", {"column": "gaps", "min_value": -100, "max_value": 0}),
    ("column_max_to_be_between", {"column": "nan", "max_value": 5}),
    ("column_max_to_be_between", {"column": "time", "max_value": dt.datetime(2030, 1, 1)}),
    ("column_mean_to_be_between", {"column": "gaps", "min_value": 9, "max_value": 11}),
    ("column_mean_to_be_between", {"column": "float", "min_value": 9, **WHEN}),
    ("column_mean_to_be_between", {"column": "nothing", "min_value": 9}),
    ("column_median_to_be_between", {"column": "nan", "min_value": 9}),
    ("column_stdev_to_be_between", {"column": "gaps", "min_value": 1, "max_value": 2}),
    ("column_sum_to_be_between", {"column": "whole", "min_value": 1}),
    ("column_sum_to_be_between", {"column": "gaps", "min_value": 1}),
    (
        "column_quantile_values_to_be_between",
        {
            "column": "gaps",
            "quantile_ranges": {"quantiles": [0.05, 0.5, 0.97], "value_ranges": [[0, 8], [9, 11], [12, 13]]},
        },
    ),
    ("column_unique_value_count_to_be_between", {"column": "holes", "max_value": 2}),
    ("column_proportion_of_unique_values_to_be_between", {"column": "gaps", "min_value": 0.9}),
    ("column_proportion_of_non_null_values_to_be_between", {"column": "gaps", "min_value": 0.9}),
    ("column_distinct_values_to_be_in_set", {"column": "whole", "value_set": list(range(10))}),
    ("column_distinct_values_to_contain_set", {"column": "holes", "value_set": ["red", "pink"]}),
    ("column_distinct_values_to_equal_set", {"column": "whole", "value_set": list(range(12))}),
    ("column_most_common_value_to_be_in_set", {"column": "holes", "value_set": ["red"]}),
    ("column_values_to_be_of_type", {"column": "word", "type_": "float64"}),
    ("column_value_z_scores_to_be_less_than", {"column": "gaps", "threshold": 2, "double_sided": True}),
    ("column_kl_divergence_to_be_less_than", {
        "column": "holes",
        "partition_object": {"values": ["red", "green", "blue"], "weights": [0.3, 0.3, 0.4]},
        "threshold": 0.1,
    }),
]  # fmt: skip


def on_pandas(rules, frame):
    with quiet():
        from great_expectations.execution_engine import PandasExecutionEngine
        from great_expectations.validator.validator import Validator

        pandas = frame.with_columns(pl.int_range(pl.len(), dtype=pl.Int64).alias(ROW)).to_pandas()
        form = {"result_format": "SUMMARY", "unexpected_index_column_names": [ROW], "partial_unexpected_count": 20}
        found = []
        for rule in rules:
            seen = pandas.drop(columns=ROW) if "table_col" in rule.type else pandas
            validator = Validator(execution_engine=PandasExecutionEngine(batch_data_dict={"rows": seen}))
            expectation = expectation_of(rule, where="test")
            found += validator.graph_validate(
                configurations=[expectation.configuration], runtime_configuration={"result_format": form}
            )
        return found


def comparable(value):
    """The value with lists in one order: sets come as lists, and GE lists equal counts in any order."""
    if isinstance(value, dict):
        return {key: comparable(item) for key, item in sorted(value.items())}
    if isinstance(value, list | tuple):
        return sorted((comparable(item) for item in value), key=str)
    return round(float(value), 9) if isinstance(value, float | int) else value


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    frame = table()
    rules = [Expectation(type=f"expect_{name}", params=params) for name, params in RULES]
    ctx = RunContext.local(tmp_path_factory.mktemp("state"))
    return run_suite(Parts(frame), rules, ctx, where="test"), on_pandas(rules, frame)


@pytest.mark.parametrize("number", range(len(RULES)), ids=[f"{name}-{i}" for i, (name, _) in enumerate(RULES)])
def test_the_outcome_is_that_of_pandas(outcomes, number):
    name = RULES[number][0]
    ours, theirs = outcomes[0][number].result.to_json_dict(), outcomes[1][number].to_json_dict()
    assert not theirs["exception_info"].get("raised_exception", False), theirs["exception_info"]
    assert ours["success"] == theirs["success"]
    mine, reference = ours["result"], theirs["result"]
    if name in (
        "column_values_to_not_be_null",
        "column_pair_values_a_to_be_greater_than_b",
    ):  # pandas counts each NaN as a value of its own
        mine.pop("partial_unexpected_counts"), reference.pop("partial_unexpected_counts")
    assert comparable(mine) == comparable(reference)
