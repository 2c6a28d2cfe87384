import numpy as np
import polars as pl
import torch

from lepton_tasks.data.sketch import NumericSketch
from lepton_tasks.data.tables.number_transforms import bin_edges, bin_expression
from lepton_tasks.models.tables import TableFeatures


def sketch(values):
    made = NumericSketch()
    made.update(np.asarray(values, np.float64))
    return made


def test_few_different_values_have_a_bin_each():
    assert bin_edges(sketch([0] * 900 + [5_013] * 60 + [5_178] * 40), 128) == [5_013, 5_178]


def test_many_values_are_cut_into_equal_shares():
    values = np.random.default_rng(0).lognormal(size=4_000)
    edges = bin_edges(sketch(values), 8)
    counts = np.bincount(np.searchsorted(edges, values, side="right"))
    assert len(counts) == 8
    assert abs(counts - 500).max() < 20


def test_a_column_and_the_graph_give_the_same_codes():
    edges = [1.0, 2.5]
    values = [-3.0, 1.0, 2.4, 2.5, 99.0, None]
    found = pl.DataFrame({"x": values}).select(bin_expression("x", edges).alias("x"))["x"]
    assert found.to_list() == [2, 3, 3, 4, 4, 1]
    assert found.dtype == pl.Int32
    feature = {"name": "x", "column": "x", "kind": "bin", "edges": edges, "size": 5}
    graph = TableFeatures({"request": [{"name": "x", "type": "float"}], "operations": [], "features": [feature]})
    rows = torch.tensor([[np.nan if value is None else value] for value in values], dtype=torch.float64)
    assert graph(rows)[1][:, 0].tolist() == found.to_list()


def test_a_column_without_values_has_one_bin():
    assert bin_edges(sketch([]), 8) == bin_edges(sketch([7.0] * 5), 8) == []
