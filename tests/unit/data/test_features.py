import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from lepton_tasks.codecs.image import ImageCodec
from lepton_tasks.core.context import RunContext
from lepton_tasks.core.errors import DataError
from lepton_tasks.data.features import ImageFeatures
from lepton_tasks.data.rows import OPTIONAL_COLUMNS
from lepton_tasks.data.samples import Samples, class_names, write_ids


def encoded(pixels, format_="PNG"):
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format_)
    return stream.getvalue()


@pytest.fixture
def samples(tmp_path):
    """Every third of 150 arrays, in reverse order."""
    arrays = np.random.default_rng(5).integers(0, 256, (150, 12, 10, 3), np.uint8)
    np.save(tmp_path / "arrays.npy", arrays)
    return Samples(pa.table({"position": range(149, -1, -3)}), tmp_path / "arrays.npy"), arrays[149::-3]


@pytest.mark.parametrize("batch_bytes", [1, 1_000, 16 << 20])
def test_fitted_values_are_those_of_the_written_arrays(samples, tmp_path, monkeypatch, batch_bytes):
    monkeypatch.setattr("lepton_tasks.data.samples._BATCH_BYTES", batch_bytes)
    ctx, features = RunContext.local(tmp_path), ImageFeatures(12, 10)
    fitted = features.fit(samples[0], ctx)
    facts = features.transform(samples[0], fitted, tmp_path, ctx)
    inputs = np.load(tmp_path / "inputs.npy", mmap_mode="r")
    np.testing.assert_array_equal(inputs, samples[1])
    assert facts == {"rows": 50, "bytes": inputs.nbytes}
    np.testing.assert_allclose(fitted["mean"], inputs.mean(axis=(0, 1, 2)) / 255, rtol=1e-12)
    np.testing.assert_allclose(fitted["std"], inputs.std(axis=(0, 1, 2)) / 255, rtol=1e-12)


def test_serving_computes_the_same_array():
    features = ImageFeatures(12, 10, channels=1, resize="pad")
    name, params = features.codec({})
    assert name == "image"
    for seed, format_ in enumerate(["PNG", "JPEG"]):
        payload = encoded(np.random.default_rng(seed).integers(0, 256, (40, 60, 3), np.uint8), format_)
        np.testing.assert_array_equal(ImageCodec(**params).decode(payload), features.probe(payload)[1])


def test_a_channel_of_one_value_keeps_a_spread_to_divide_by(tmp_path):
    np.save(tmp_path / "arrays.npy", np.full((1, 4, 4, 3), 51, np.uint8))
    samples = Samples(pa.table({"position": [0]}), tmp_path / "arrays.npy")
    fitted = ImageFeatures(4, 4).fit(samples, RunContext.local(tmp_path))
    assert fitted["mean"] == [0.2] * 3
    assert fitted["std"] == [1 / 255] * 3


def test_the_probe_tells_equal_pixels_whatever_the_format():
    grey = np.tile(np.arange(0, 200, 10, dtype=np.uint8), (9, 1))
    probe = ImageFeatures(9, 20).probe
    png, bmp, colour = (
        probe(payload)[0] for payload in (encoded(grey), encoded(grey, "BMP"), encoded(np.stack([grey] * 3, -1)))
    )
    assert png == bmp == colour
    assert (png["width"], png["height"]) == (20, 9)
    assert png["contrast"] == pytest.approx(grey.std() / 255)
    assert probe(encoded(grey.reshape(20, 9)))[0]["content_sha256"] != png["content_sha256"]


@pytest.mark.parametrize("resize", ["pad", "stretch", "crop"])
def test_black_bars_around_a_blank_picture_are_no_contrast(resize):
    payload = encoded(np.full((30, 60, 3), 200, np.uint8))
    facts, array = ImageFeatures(12, 12, resize=resize).probe(payload)
    assert facts["contrast"] == 0
    assert (array.min() == 0) == (resize == "pad")


def test_the_probe_tells_the_full_size_of_a_jpeg_that_is_decoded_smaller():
    payload = encoded(np.random.default_rng(0).integers(0, 256, (300, 400, 3), np.uint8), "JPEG")
    facts, array = ImageFeatures(30, 40).probe(payload)
    assert (facts["width"], facts["height"], array.shape) == (400, 300, (30, 40, 3))
    with pytest.raises(DataError, match="truncated"):
        ImageFeatures(30, 40).probe(payload[:-2_000])


def box(xmin, ymin, xmax, ymax, label="cell"):
    return {"label": label, "xmin": xmin, "ymin": ymin, "xmax": xmax, "ymax": ymax}


ROWS = [
    {"sample_id": "a", "uri": "/a", "label": None, "boxes": [box(0, 0, 40, 20), box(30, 5, 40, 15, None)]},
    {"sample_id": "b", "uri": "/b", "label": None, "boxes": []},
    {"sample_id": "c", "uri": "/c", "label": None, "boxes": None},
    {"sample_id": "d", "uri": "/d", "label": None, "boxes": [box(15, 5, 25, 15, "white")]},
]


def marked(tmp_path):
    rows = [row | {"width": 40, "height": 20, "position": i, "split": "train"} for i, row in enumerate(ROWS)]
    np.save(tmp_path / "arrays.npy", np.zeros((4, 10, 10, 1), np.uint8))
    types = {"label": pa.string(), "boxes": OPTIONAL_COLUMNS["boxes"]}
    schema = pa.schema({name: types.get(name, pa.array([value]).type) for name, value in rows[0].items()})
    return Samples(pa.Table.from_pylist(rows, schema=schema), tmp_path / "arrays.npy")


@pytest.mark.parametrize(
    ("resize", "expected"),
    [
        ("stretch", {0: [(0, 0, 10, 10), (7.5, 2.5, 10, 7.5)], 3: [(3.75, 2.5, 6.25, 7.5)]}),
        ("pad", {0: [(0, 2, 10, 7), (7.5, 3.25, 10, 5.75)], 3: [(3.75, 3.25, 6.25, 5.75)]}),
        ("crop", {0: [(0, 0, 10, 10)], 3: [(2.5, 2.5, 7.5, 7.5)]}),  # centre crop of 40 x 20 to 20 x 20
    ],
)
def test_boxes_follow_their_picture_into_the_array(tmp_path, resize, expected):
    samples = marked(tmp_path)
    facts = ImageFeatures(10, 10, channels=1, resize=resize).transform(
        samples, {}, tmp_path, RunContext.local(tmp_path)
    )
    boxes = pq.read_table(tmp_path / "boxes.parquet").to_pylist()
    found = {}
    for line in boxes:
        found.setdefault(line["row"], []).append(tuple(line[side] for side in ("xmin", "ymin", "xmax", "ymax")))
    assert found == expected
    assert facts["boxes"] == len(boxes)
    assert [line["sample_id"] for line in boxes] == [ROWS[line["row"]]["sample_id"] for line in boxes]
    assert boxes[-1]["label"] == "white"


def test_ids_say_how_many_boxes_there_were_and_whether_anybody_looked(tmp_path):
    rows = marked(tmp_path).rows
    assert class_names(rows) == ["cell", "white"]
    write_ids(rows, ["cell", "white"], tmp_path)
    assert np.load(tmp_path / "targets.npy").tolist() == [-1] * 4
    ids = pq.read_table(tmp_path / "ids.parquet")
    assert ids.column_names == ["sample_id", "uri", "label", "boxes", "width", "height"]
    assert ids["boxes"].to_pylist() == [2, 0, None, 1]


def test_labels_of_rows_come_before_those_of_boxes(tmp_path):
    rows = marked(tmp_path).rows
    rows = rows.set_column(2, "label", pa.array(["dog", None, "cat", "cow"]))
    assert class_names(rows) == ["cat", "cow", "dog"]
    write_ids(rows, ["cat", "dog"], tmp_path)
    assert np.load(tmp_path / "targets.npy").tolist() == [1, -1, 0, -1]
