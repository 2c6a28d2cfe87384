import io
import os
import shutil
import threading
import time

import numpy as np
import pytest
from dask_hosts import Hosts, Networks, certificates
from PIL import Image

from lepton_tasks.core.context import RunContext
from lepton_tasks.core.use_case import parse_use_case
from lepton_tasks.data.cluster import map_chunks
from lepton_tasks.data.cluster.client import reports_of
from lepton_tasks.stages import pipeline
from lepton_tasks.stages.runner import run_stage

STAGES = {s.name: s.produces for s in pipeline.STAGES if s.group == "data" and not s.name.startswith("validate")}


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


def use_case(path="shapes"):
    return parse_use_case(
        {
            "name": "shapes",
            "task": "image_classification",
            "data": {"source": {"name": "image_folder", "params": {"path": path}}},
            "clean": ["undecodable", "duplicates"],
            "features": {"name": "image", "params": {"height": 24, "width": 20, "resize": "crop"}},
            "model": "cnn",
        },
        where="shapes.yaml",
    )


def digests(ctx, path="shapes"):
    refs = {}
    for stage, produces in STAGES.items():
        refs[produces] = run_stage(stage, use_case(path), ctx, refs).ref
    assert refs["cleaned"].facts == {"rows": 199, "refused": 1, "repaired": 0}
    return {name: ref.digest for name, ref in refs.items()}


@pytest.fixture
def threads(shapes):
    """What this process alone makes of them."""
    return digests(RunContext.local(shapes / "threads", data_root=str(shapes)))


def test_worker_processes_write_the_same_artifacts_as_threads(shapes, threads, caplog):
    from distributed import LocalCluster

    with LocalCluster(
        n_workers=2,
        threads_per_worker=1,
        host="127.0.0.1",
        dashboard_address=None,
        local_directory=str(shapes / "dask"),
    ) as cluster:
        where = {"address": cluster.scheduler_address}
        ctx = RunContext.local(shapes / "cluster", data_root=str(shapes), dask=where)
        with caplog.at_level("INFO", "lepton.dask"):
            assert digests(ctx) == threads
        told = {record.getMessage() for record in caplog.records if record.name == "lepton.dask"}
        assert told == {f"Dask at {cluster.scheduler_address}: 2 threads on 2 workers"}  # and no dashboard
        shutil.make_archive(shapes / "packed", "zip", shapes / "shapes")
        assert digests(ctx, "packed.zip")["preprocessor"] == threads["preprocessor"]


def slowly(rows):
    time.sleep(0.2)
    return sum(rows)


@pytest.mark.skipif(os.geteuid() or not shutil.which("ip"), reason="network namespaces need root and iproute2")
def test_three_hosts_write_the_same_artifacts_as_one_and_a_pulled_plug_changes_nothing(shapes, threads):
    with Networks(3) as networks:
        hosts = Hosts(shapes / "dask", certificates(shapes / "tls"), host=networks.addresses[0])
        try:
            hosts.scheduler(prefix=networks.inside(0))
            for place in (1, 2):
                hosts.worker(host=networks.addresses[place], prefix=networks.inside(place))
            where = {"address": hosts.address, "tls": hosts.tls, "patience": 90}
            ctx = RunContext.local(shapes / "cluster", data_root=str(shapes), dask=where)
            assert digests(ctx) == threads

            chunks, results, times = [[i, i] for i in range(100)], [], []
            for result in map_chunks(slowly, chunks, ctx, total=200, unit="rows"):
                results.append(result)
                times.append(time.monotonic())
                if len(results) == 10:
                    networks.wire(0, "down")
                    threading.Timer(5, networks.wire, (0, "up")).start()
            assert results == [2 * i for i in range(100)]
            assert max(np.diff(times)) > 3  # nothing came through the pulled plug
        finally:
            hosts.close()


def test_dasks_report_is_kept_beside_the_work_of_the_stage(shapes):
    pytest.importorskip("bokeh", reason="the scheduler draws its report with bokeh")
    hosts = Hosts(shapes / "dask")
    try:
        hosts.scheduler()
        hosts.worker()
        ctx = RunContext.local(shapes / "cluster", data_root=str(shapes), dask={"address": hosts.address})
        ref = run_stage("ingest", use_case(), ctx, {}).ref
        pages = reports_of(ctx, ref)
        assert len(pages) == 1
        page = pages[0].read_text()
        assert "_digests" in page
        assert "src=" not in page.partition("<body>")[0]  # it is looked at without a network
    finally:
        hosts.close()
