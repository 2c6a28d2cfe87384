import datetime as dt

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_tables import table_on_disk

from lepton_tasks.core.context import RunContext
from lepton_tasks.core.errors import ConfigError, DataError
from lepton_tasks.data.tables.operations import apply_operations
from lepton_tasks.data.tables.steps.impute import Impute
from lepton_tasks.data.tables.steps.labels import Labels
from lepton_tasks.data.tables.steps.missing import Missing
from lepton_tasks.data.tables.steps.outliers import Outliers
from lepton_tasks.data.tables.steps.types import Types
from lepton_tasks.data.tables.steps.values import Allowed, Ranges


def run(step, frame):
    """A row step's output frame and its reasons."""
    step.check(frame.schema)
    changed = step.change(frame.lazy()).collect()
    reason = step.refuse()
    reasons = [None] * len(frame) if reason is None else changed.select(reason).to_series().to_list()
    return changed.select(frame.columns), reasons


def test_text_becomes_numbers_and_what_is_none_is_refused():
    frame = pl.DataFrame({"n": ["1", " 2 ", "3.0", "3.5", "x", None, "9007199254740993"]})
    changed, reasons = run(Types({"n": "int"}), frame)
    assert changed["n"].to_list() == [1, 2, 3, None, None, None, 9007199254740993]
    assert reasons == [None, None, None, "n: not int", "n: not int", None, None]


def test_numbers_with_a_decimal_comma_are_read_and_points_only_group_thousands():
    texts = ["1,5", " -1.234.567,25 ", "12", "1.500", "1.5", "1,234.5", "1,2,3", "x", None]
    changed, reasons = run(Types({"n": "float"}, decimal=","), pl.DataFrame({"n": texts}))
    assert changed["n"].to_list() == [1.5, -1234567.25, 12.0, 1500.0, None, None, None, None, None]
    assert reasons == [None] * 4 + ["n: not float"] * 4 + [None]


def test_infinite_numbers_are_no_numbers():
    changed, reasons = run(Types({"n": "float"}), pl.DataFrame({"n": ["1.5", "inf", "nan", "1e400"]}))
    assert changed["n"].to_list() == [1.5, None, None, None]
    assert reasons[1:] == ["n: not float"] * 3


def test_what_cannot_be_converted_can_become_missing():
    changed, reasons = run(Types({"b": "bool"}, otherwise="null"), pl.DataFrame({"b": ["Yes", "0", "maybe"]}))
    assert changed["b"].to_list() == [True, False, None]
    assert reasons == [None] * 3


def test_dates_are_read_in_the_given_format():
    changed, reasons = run(Types({"d": "date"}, format="%d/%m/%Y"), pl.DataFrame({"d": ["31/12/2024", "2024-12-31"]}))
    assert changed["d"].to_list() == [dt.date(2024, 12, 31), None]
    assert reasons == [None, "d: not date"]


def test_missing_names_the_first_column_without_a_value():
    frame = pl.DataFrame({"a": [1.0, None, 2.0, float("nan")], "b": ["x", None, None, "y"]})
    assert run(Missing(("a", "b")), frame)[1] == [None, "a: no value", "b: no value", "a: no value"]


def test_ranges_refuse_clip_or_take_away():
    frame = pl.DataFrame({"a": [1.0, 5.0, None, float("nan")]})
    limits = {"a": (None, 3)}
    assert run(Ranges(limits), frame)[1] == [None, "a: above 3", None, "a: above 3"]
    assert run(Ranges(limits, otherwise="clip"), frame)[0]["a"].to_list()[:3] == [1, 3, None]
    assert run(Ranges(limits, otherwise="null"), frame)[0]["a"].to_list() == [1, None, None, None]


def test_only_allowed_values_pass():
    frame = pl.DataFrame({"a": ["x", "y", None]})
    assert run(Allowed({"a": ("x",)}), frame)[1] == [None, "a: not an allowed value", None]
    with pytest.raises(ConfigError, match="holds Int64"):
        Allowed({"a": ("x",)}).check({"a": pl.Int64()})


def test_labels_are_trimmed_renamed_and_checked():
    frame = pl.DataFrame({"label": [" yes", "yes.", "no", "", None, "what"]})
    changed, reasons = run(Labels(rename={"yes.": "yes"}, classes=("yes", "no")), frame)
    assert changed["label"].to_list() == ["yes", "yes", "no", "", None, "what"]
    assert reasons == [None, None, None, "no label", "no label", "no such class"]


def test_a_wrong_column_gets_the_closest_name_and_a_wrong_type_the_right_ones():
    with pytest.raises(ConfigError, match=r"no column 'agee'.*Did you mean 'age'"):
        Missing(("agee",)).check({"age": pl.Int64()})
    with pytest.raises(ConfigError, match="'age' holds String, not numbers"):
        Outliers(("age",)).check({"age": pl.String()})


def fitted(step, frame, folder):
    rows = table_on_disk(frame, folder, rows_per_part=3)
    step.check(rows.schema)
    return step.fit(rows, RunContext.local(folder))


@pytest.mark.parametrize(("strategy", "value"), [("mean", 4.0), ("median", 2.0), ("mode", 2.0), ("constant", 7.0)])
def test_missing_values_are_filled(tmp_path, strategy, value):
    frame = pl.DataFrame({"a": [2.0, None, 2.0, 8.0, float("nan"), 1.0, 7.0]})
    step = Impute(("a",), strategy, value=7.0 if strategy == "constant" else None, mark=True)
    learned = fitted(step, frame.filter(pl.col("a").is_nan().not_() | pl.col("a").is_null()), tmp_path)
    changed = apply_operations(frame.lazy(), step.operations(learned)).collect()
    assert changed["a"].to_list() == [2, value, 2, 8, value, 1, 7]
    assert changed["a_missing"].to_list() == [0, 1, 0, 0, 1, 0, 0]


def test_a_column_without_any_value_cannot_be_imputed(tmp_path):
    with pytest.raises(DataError, match="'a' has no value in the training split"):
        fitted(Impute(("a",)), pl.DataFrame({"a": [None, None]}, schema={"a": pl.Float64}), tmp_path)


@pytest.mark.parametrize(
    ("method", "bounds"),
    [("iqr", [-3.0, 13.0]), ("quantile", [0.1, 9.9]), ("mad", [5 - 3.5 * 1.4826 * 2.5, 5 + 3.5 * 1.4826 * 2.5])],
)
def test_bounds_of_outliers(tmp_path, method, bounds):
    values = [0.0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10]
    learned = fitted(Outliers(("a",), method), pl.DataFrame({"a": values}), tmp_path)
    if method == "iqr":
        bounds = [2.5 - 1.5 * 5, 7.5 + 1.5 * 5]
    if method == "mad":
        bounds = [5 - 3.5 * 1.4826 * 3, 5 + 3.5 * 1.4826 * 3]
    assert learned["a"] == pytest.approx(bounds, abs=1e-6)


@settings(max_examples=20)
@given(st.lists(st.floats(-1e6, 1e6), min_size=5, max_size=60))
def test_clipped_values_lie_within_and_others_are_untouched(tmp_path_factory, values):
    step = Outliers(("a",), "quantile", "clip", tail=0.1)
    learned = fitted(step, pl.DataFrame({"a": values}), tmp_path_factory.mktemp("rows"))
    low, high = learned["a"]
    changed = apply_operations(pl.LazyFrame({"a": [*values, None]}), step.operations(learned)).collect()["a"].to_list()
    assert changed == [*(min(max(value, low), high) for value in values), None]


def test_dropped_outliers_are_refused_and_missing_values_are_none(tmp_path):
    step = Outliers(("a",), "z_score", "drop", factor=1.0)
    learned = fitted(step, pl.DataFrame({"a": [1.0, 2, 3]}), tmp_path)
    frame = pl.DataFrame({"a": [0.9, 2.0, None, 3.1]})
    assert frame.select(step.refuse(learned)).to_series().to_list() == ["a: outlier", None, None, "a: outlier"]
    assert step.operations(learned) == []
