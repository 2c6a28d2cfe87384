import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lepton_tasks.core.context import RunContext
from lepton_tasks.quality.rows import FrameRows
from lepton_tasks.quality.tables import feature_rows, features_table, of_splits, raw_table


def test_the_raw_table_joins_the_parts_and_leaves_the_bytes_out(tmp_path):
    for part, name in enumerate("ab"):
        columns = {"sample_id": [name], "uri": [name], "data": [b"x"], "label": ["cat"], "size_bytes": [1]}
        pq.write_table(pa.table(columns | {"sha256": ["00"]}), tmp_path / f"part-{part:05d}.parquet")
    table = raw_table(tmp_path)
    assert table["sample_id"].to_pylist() == ["a", "b"]
    assert "data" not in table.column_names


def test_rows_of_a_split_keep_their_numbers(tmp_path):
    for split, values in {"train": [1.0, 2.0], "validation": [3.0], "test": [4.0, 5.0]}.items():
        (tmp_path / split).mkdir()
        pq.write_table(pa.table({"x": values}), tmp_path / split / "part-000.parquet")
    rest = of_splits(feature_rows(tmp_path), ["validation", "test"])
    ctx = RunContext.local(tmp_path)
    assert rest.height == 3
    assert [row for part in rest.map(lambda frame: frame.rows(), ctx) for row in part] == [(2, 3.0), (3, 4.0), (4, 5.0)]
    samples = FrameRows.of(pa.table({"split": ["test", "train", "test"], "x": [1, 2, 3]})).numbered()
    (found,) = samples.where("split", "test").select(["x"]).map(lambda frame: frame.rows(named=True), ctx)
    assert found == [{"x": 1, "_row": 0}, {"x": 3, "_row": 2}]
    assert "_row" not in samples.schema


@pytest.fixture
def features(tmp_path):
    for split, values in {"train": [0, 255, 51], "test": [51]}.items():
        folder = tmp_path / split
        folder.mkdir()
        np.save(folder / "inputs.npy", np.stack([np.full((4, 5, 3), value, np.uint8) for value in values]))
        np.save(folder / "targets.npy", np.arange(len(values)))
        names = [f"{split}-{i}" for i in range(len(values))]
        pq.write_table(pa.table({"sample_id": names, "uri": names, "label": names}), folder / "ids.parquet")
    return tmp_path


@pytest.mark.parametrize("chunk_bytes", [1, 130, 1 << 20])
def test_the_features_table_says_what_the_arrays_hold(features, chunk_bytes, monkeypatch):
    monkeypatch.setattr("lepton_tasks.quality.tables._CHUNK_BYTES", chunk_bytes)
    table = features_table(features)
    assert table["sample_id"].to_pylist() == ["test-0", "train-0", "train-1", "train-2"]
    assert table["split"].to_pylist() == ["test", "train", "train", "train"]
    assert table["target"].to_pylist() == [0, 0, 1, 2]
    assert table["mean"].to_pylist() == pytest.approx([0.2, 0, 1, 0.2])
    assert table["std"].to_pylist() == pytest.approx([0, 0, 0, 0])
    digests = table["input_sha256"].to_pylist()
    assert digests[0] == digests[3]
    assert len(set(digests)) == 3
