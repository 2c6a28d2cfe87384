import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lepton_tasks.quality.tables import features_table, raw_table


def test_the_raw_table_joins_the_parts_and_leaves_the_bytes_out(tmp_path):
    for part, name in enumerate("ab"):
        columns = {"sample_id": [name], "uri": [name], "data": [b"x"], "label": ["cat"], "size_bytes": [1]}
        pq.write_table(pa.table(columns | {"sha256": ["00"]}), tmp_path / f"part-{part:05d}.parquet")
    table = raw_table(tmp_path)
    assert table["sample_id"].to_pylist() == ["a", "b"]
    assert "data" not in table.column_names


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
