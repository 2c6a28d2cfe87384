"""Pictures in a real S3 store (SeaweedFS); skipped where its program `weed` is not installed."""

import io
import json
import shutil
import subprocess
import time
import zipfile

import fsspec
import numpy as np
import pytest
from free_ports import free_ports
from PIL import Image

from lepton_tasks.core.context import RunContext
from lepton_tasks.core.errors import DataError
from lepton_tasks.core.use_case import parse_use_case
from lepton_tasks.stages.runner import run_stage

pytestmark = pytest.mark.skipif(shutil.which("weed") is None, reason="the program `weed` is not installed")

_PATIENCE = 60  # seconds


@pytest.fixture(scope="module")
def s3(tmp_path_factory):
    """The environment of a client of a store with two buckets' worth of pictures."""
    folder = tmp_path_factory.mktemp("s3")
    keys = {"accessKey": "reader", "secretKey": "of-pictures"}
    identity = {"name": "tests", "credentials": [keys], "actions": ["Admin", "Read", "Write", "List"]}
    (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
    names = ("master", "volume", "filer", "s3")
    ports = dict(zip([*names, *(f"{name}.port.grpc" for name in names)], free_ports(8), strict=True))
    options = [f"-{name}={port}" if "." in name else f"-{name}.port={port}" for name, port in ports.items()]
    command = ["weed", "server", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-filer", "-s3"]
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(
            [*command, f"-s3.config={folder / 's3.json'}", "-volume.max=5", *options], stdout=log, stderr=log
        )
    try:
        with pytest.MonkeyPatch.context() as environment:
            environment.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{ports['s3']}")
            environment.setenv("AWS_ACCESS_KEY_ID", keys["accessKey"])
            environment.setenv("AWS_SECRET_ACCESS_KEY", keys["secretKey"])
            environment.setenv("AWS_DEFAULT_REGION", "us-east-1")
            _fill(fsspec.filesystem("s3"), folder / "log")
            yield
    finally:
        server.kill()  # it would wait half a minute for its clients
        server.wait(30)


def _fill(system, log):
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            system.mkdir("shop")
            break
        except OSError:
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.5)
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
