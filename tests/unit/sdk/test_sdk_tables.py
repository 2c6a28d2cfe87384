import numpy as np
import pandas as pd
import polars as pl
import pytest

from lepton_ai import tables
from lepton_ai.datasets import Table
from lepton_ai.models import CNN, MLP
from lepton_tasks.core.errors import ConfigError


@pytest.fixture
def frame(tmp_path, monkeypatch):
    monkeypatch.setenv("LEPTON_HOME", str(tmp_path / "home"))
    return pd.DataFrame(
        {
            "age": [30.0, np.nan, 50.0],
            "town": pd.Categorical(["a", None, "b"]),
            "n": [1, 2, 3],
            "price": [1.5, 2.5, 3.0],
        }
    )


def test_a_frame_and_its_files_are_learned_from_alike(frame, tmp_path):
    train, test = Table.split(frame, "price", ignore=["n"])
    assert (train.fraction, train.test, test.test) == (True, False, True)
    path = train.data.source.params["path"]
    assert pl.read_parquet(path).to_dicts()[1] == {"age": None, "town": None, "n": 2, "price": 2.5}
    assert Table.split(pl.from_pandas(frame), "price")[0].data.source.params["path"] == path
    frame.to_csv(tmp_path / "t.csv", index=False)
    assert Table.split(tmp_path / "t.csv", "n")[0].fraction is False
    use_case = MLP(width=8)._use_case(train, {})
    assert (use_case.task.name, use_case.features.params["ignore"]) == ("tabular_regression", ["n"])


def test_a_number_or_a_class_is_learned_by_the_target_or_as_told(frame):
    prices, counts = (Table.split(frame, target)[0] for target in ("price", "n"))
    for model, part, task, steps in (
        (MLP(), prices, "tabular_regression", ["labels"]),
        (MLP(), counts, "tabular_classification", ["labels"]),
        (MLP(regression=True), counts, "tabular_regression", ["labels", "types"]),
        (MLP(regression=False), prices, "tabular_classification", ["labels", "types"]),
    ):
        use_case = model._use_case(part, {})
        assert (use_case.task.name, [step.name for step in use_case.clean]) == (task, steps)
    with pytest.raises(ConfigError, match=r"regression: the target has 101 different values. Write MLP\(regression"):
        MLP()._check([str(i) for i in range(101)])
    MLP(regression=False)._check([str(i) for i in range(101)])


def test_slips_with_tables_are_told_with_the_way_out(frame, tmp_path):
    for call, told in (
        (lambda: Table.split(frame, "prise"), r"target: no column named 'prise'. Did you mean 'price'"),
        (lambda: Table.split(frame.to_numpy(), "price"), r"data: expected a table, not ndarray. .*pandas.DataFrame"),
        (lambda: Table.split(tmp_path / "no.csv", "price"), r"data: no such file or folder: .*no.csv"),
        (lambda: Table.split(frame, "price", ignore="n"), r"ignore: 'n' is no list. Write ignore=\['n'\]"),
        (lambda: Table.split(frame.assign(n=[1, "x", 2]), "price"), r"data: the column 'n' holds .*int, str. Convert"),
        (lambda: MLP().fit(frame), r"not a DataFrame. Take one of `train, test = Table.split\(frame, target='price'"),
        (lambda: MLP().predict(frame), "not trained yet"),
        (lambda: CNN((8, 8, 1), 2).fit(Table.split(frame, "n")[0]), "CNN takes pictures, not rows. E.g."),
    ):
        with pytest.raises(ConfigError, match=told):
            call()


def test_rows_are_json_values():
    frame = pd.DataFrame({"a": [1.5, np.nan], "day": pd.to_datetime(["2024-01-02", None])})
    assert tables.rows_of(frame) == [{"a": 1.5, "day": "2024-01-02T00:00:00"}, {"a": None, "day": None}]
    assert tables.rows_of([{"a": np.float32(0.5), "n": np.int64(3), "x": float("nan")}]) == [
        {"a": 0.5, "n": 3, "x": None}
    ]
    for wrong, told in (
        (np.ones((2, 2)), "expected rows, not ndarray"),
        ([[1]], "row 0 is a list. Give a list of dicts"),
    ):
        with pytest.raises(ConfigError, match=f"inputs: {told}"):
            tables.rows_of(wrong)
