"""Pictures in a real S3 store (SeaweedFS); skipped where its program `weed` is not installed."""

import io
import zipfile

import fsspec
import numpy as np
import pytest
from PIL import Image
from s3_store import MISSING, s3_store

from lepton_tasks.core.context import RunContext
from lepton_tasks.core.errors import DataError
from lepton_tasks.core.use_case import parse_use_case
from lepton_tasks.stages.runner import run_stage

pytestmark = pytest.mark.skipif(bool(MISSING), reason=MISSING)


@pytest.fixture(scope="module")
def s3(tmp_path_factory):
    """A store with the same pictures twice."""
    with s3_store(tmp_path_factory.mktemp("s3"), "shop") as system:
        _fill(system)
        yield


def _fill(system):
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as writer:
        for i in range(150):  # more than are fetched at once
            name = f"pets/{'cat' if i % 2 else 'dog'}/{i:03d}.jpg"
            writer.writestr(name, jpeg(i))
            system.pipe(f"shop/{name}", jpeg(i))
    system.pipe("shop/pets.zip", archive.getvalue())


def jpeg(seed):
    stream = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((40, 30)).save(stream, "JPEG")
    return stream.getvalue()


def prepared(path, folder):
    case = {
        "name": "pets",
        "data": {"source": {"name": "image_folder", "params": {"path": path}}},
        "clean": ["undecodable", "unlabelled", "duplicates"],
        "features": {"name": "image", "params": {"height": 16, "width": 16}},
    }
    ctx, refs = RunContext.local(folder), {}
    use_case = parse_use_case(case, where="pets.yaml")
    stages = {"ingest": "raw", "clean": "cleaned", "split": "splits", "fit_features": "preprocessor"}
    for stage, produces in stages.items():
        refs[produces] = run_stage(stage, use_case, ctx, refs).ref
    assert run_stage("ingest", use_case, ctx, {}).cached
    return refs


def test_pictures_of_a_bucket_and_of_an_archive_in_it_give_the_same(s3, tmp_path):
    bucket = prepared("s3://shop/pets", tmp_path / "bucket")
    archive = prepared("s3://shop/pets.zip/pets", tmp_path / "archive")
    assert bucket["cleaned"].facts == {"rows": 150, "refused": 0, "repaired": 0}
    assert bucket["raw"].facts["classes"] == 2
    assert bucket["preprocessor"].digest == archive["preprocessor"].digest


def test_a_changed_picture_is_noticed(s3, tmp_path):
    before = prepared("s3://shop/pets", tmp_path)["raw"].digest
    fsspec.filesystem("s3").pipe("shop/pets/cat/001.jpg", jpeg(999))
    assert prepared("s3://shop/pets", tmp_path)["raw"].digest != before


def test_a_bucket_that_is_not_there_is_named(s3, tmp_path):
    with pytest.raises(DataError, match="s3://nowhere/pets: "):
        prepared("s3://nowhere/pets", tmp_path)
