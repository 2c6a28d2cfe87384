import hashlib
import io

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from lepton_tasks.codecs.image import ImageCodec
from lepton_tasks.core.context import RunContext
from lepton_tasks.core.errors import DataError
from lepton_tasks.data.features import ImageFeatures


def row(index, pixels, format_="PNG"):
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format_)
    data = stream.getvalue()
    return {"uri": f"picture-{index}", "data": data, "sha256": hashlib.sha256(data).hexdigest()}


@pytest.fixture
def rows():
    random = np.random.default_rng(5)
    sizes = random.integers(9, 50, (150, 2))
    return pa.Table.from_pylist([row(i, random.integers(0, 256, (*size, 3), np.uint8)) for i, size in enumerate(sizes)])


def test_fitted_values_are_those_of_the_written_arrays(rows, tmp_path):
    ctx, features = RunContext.local(tmp_path), ImageFeatures(12, 10)
    fitted = features.fit(rows, ctx)
    facts = features.transform(rows, fitted, tmp_path, ctx)
    inputs = np.load(tmp_path / "inputs.npy", mmap_mode="r")
    assert inputs.shape == (150, 12, 10, 3)
    assert inputs.dtype == np.uint8
    assert facts == {"rows": 150, "bytes": inputs.nbytes}
    np.testing.assert_allclose(fitted["mean"], inputs.mean(axis=(0, 1, 2)) / 255, rtol=1e-12)
    np.testing.assert_allclose(fitted["std"], inputs.std(axis=(0, 1, 2)) / 255, rtol=1e-12)


def test_serving_computes_the_same_array(rows, tmp_path):
    ctx, features = RunContext.local(tmp_path), ImageFeatures(12, 10, channels=1, resize="pad")
    features.transform(rows, {}, tmp_path, ctx)
    name, params = features.codec(features.fit(rows, ctx))
    assert name == "image"
    inputs = np.load(tmp_path / "inputs.npy")
    for index in (0, 77, 149):
        np.testing.assert_array_equal(ImageCodec(**params).decode(rows["data"][index].as_py()), inputs[index])


def test_the_number_of_threads_does_not_show(rows, tmp_path):
    one, four = (RunContext.local(tmp_path, dask={"workers": n}) for n in (1, 4))
    assert ImageFeatures(8, 8).fit(rows, one) == ImageFeatures(8, 8).fit(rows, four)


def test_a_channel_of_one_value_keeps_a_spread_to_divide_by(tmp_path):
    rows = pa.Table.from_pylist([row(0, np.full((4, 4, 3), 51, np.uint8))])
    fitted = ImageFeatures(4, 4).fit(rows, RunContext.local(tmp_path))
    assert fitted["mean"] == [0.2] * 3
    assert fitted["std"] == [1 / 255] * 3


def test_the_probe_tells_equal_pixels_whatever_the_format():
    grey = np.tile(np.arange(0, 200, 10, dtype=np.uint8), (9, 1))
    probe = ImageFeatures.probe
    png, bmp, colour = (
        probe(row(0, grey)["data"]),
        probe(row(0, grey, "BMP")["data"]),
        probe(row(0, np.stack([grey] * 3, -1))["data"]),
    )
    assert png == bmp == colour
    assert (png["width"], png["height"]) == (20, 9)
    assert probe(row(0, grey.reshape(20, 9))["data"])["content_sha256"] != png["content_sha256"]


def test_a_bad_picture_that_clean_let_through_is_named(rows, tmp_path):
    bad = {"uri": "/data/bad.jpg", "data": b"text", "sha256": hashlib.sha256(b"text").hexdigest()}
    table = pa.concat_tables([rows, pa.Table.from_pylist([bad])])
    with pytest.raises(DataError, match=r"/data/bad.jpg: not a picture.*`undecodable`"):
        ImageFeatures(8, 8).transform(table, {}, tmp_path, RunContext.local(tmp_path))
