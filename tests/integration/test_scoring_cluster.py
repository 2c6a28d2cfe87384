import dataclasses

from tiny_packages import TABLE, make_sums

from lepton_tasks.core.context import RunContext
from lepton_tasks.scoring.package_selection import SelectedPackage
from lepton_tasks.scoring.score import score


def test_workers_of_a_cluster_write_what_threads_write(tmp_path):
    from distributed import LocalCluster

    make_sums(tmp_path / "package", "tabular", TABLE, shape=[2])
    lines = [f"{'x' if i % 100 == 7 else i},{'007' if i % 2 else 8}" for i in range(3000)]
    (tmp_path / "rows.csv").write_text("\n".join(["a,code", *lines]))

    def answers(name, **environment):
        ctx = RunContext.local(tmp_path / "state", data_root=str(tmp_path), **environment)
        output = tmp_path / f"{name}.parquet"
        ctx = dataclasses.replace(ctx, stage="predict", fingerprint=name)
        found = score(str(tmp_path / "rows.csv"), output, SelectedPackage(tmp_path / "package"), ctx)
        assert (found["rows"], found["answered"], found["refused"]) == (3000, 2970, 30)
        return output.read_bytes()

    threads = answers("threads")
    folder = str(tmp_path / "dask")
    with LocalCluster(1, threads_per_worker=2, host="127.0.0.1", dashboard_address=None, local_directory=folder) as one:
        assert answers("cluster", dask={"address": one.scheduler_address}) == threads
