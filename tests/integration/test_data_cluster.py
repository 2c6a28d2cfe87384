import io

import numpy as np
import pytest
from PIL import Image

from lepton_tasks.core.context import RunContext
from lepton_tasks.core.use_case import parse_use_case
from lepton_tasks.stages.runner import run_stage

STAGES = {
    "ingest": "raw",
    "clean": "cleaned",
    "split": "splits",
    "fit_features": "preprocessor",
    "transform": "features",
}


@pytest.fixture
def shapes(tmp_path):
    random = np.random.default_rng(3)
    for i in range(200):
        stream = io.BytesIO()
        size = (*random.integers(10, 80, 2), 3)
        Image.fromarray(random.integers(0, 256, size, dtype=np.uint8)).save(stream, ["JPEG", "PNG"][i % 2])
        path = tmp_path / "shapes" / "abc"[i % 3] / f"{i}.img"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(stream.getvalue()[:99] if i == 7 else stream.getvalue())
    return tmp_path


def digests(ctx):
    use_case = parse_use_case(
        {
            "name": "shapes",
            "task": "image_classification",
            "data": {"source": {"name": "image_folder", "params": {"path": "shapes"}}},
            "clean": ["undecodable", "duplicates"],
            "features": {"name": "image", "params": {"height": 24, "width": 20, "resize": "crop"}},
            "model": "cnn",
        },
        where="shapes.yaml",
    )
    refs = {}
    for stage, produces in STAGES.items():
        refs[produces] = run_stage(stage, use_case, ctx, refs).ref
    assert refs["cleaned"].facts == {"rows": 199, "refused": 1}
    return {name: ref.digest for name, ref in refs.items()}


def test_worker_processes_write_the_same_artifacts_as_threads(shapes):
    from distributed import LocalCluster

    threads = digests(RunContext.local(shapes / "threads", data_root=str(shapes)))
    with LocalCluster(
        n_workers=2,
        threads_per_worker=1,
        host="127.0.0.1",
        dashboard_address=None,
        local_directory=str(shapes / "dask"),
    ) as cluster:
        where = {"address": cluster.scheduler_address}
        assert digests(RunContext.local(shapes / "cluster", data_root=str(shapes), dask=where)) == threads
