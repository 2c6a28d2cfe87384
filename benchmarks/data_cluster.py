"""What `map_chunks` costs and how it scales: threads of one process beside worker processes over TLS, same results.

1. Overhead: seconds per empty task of `map_chunks` on threads, beside a bare ThreadPoolExecutor and `dask.compute`.
2. Stragglers: every sixteenth task ten times as long; wall time beside the least possible, and with a barrier after
   each window as `dask.compute` makes it.
3. Two kernels, pictures (JPEG -> 96 x 96, as the stage `clean` decodes them) and a table's part (Polars), on threads
   and on workers of this machine.
4. What client and scheduler pay for a task and for a byte of results: what bounds a large cluster.

Ratios: `overhead_vs_pool`, `overhead_vs_dask_compute`, `stragglers_vs_limit`, `stragglers_vs_barrier`, and per kernel
`*_threads_2_vs_1` and `*_workers_2_vs_1` (scaling efficiency: 1 means twice the rate), `*_workers_vs_threads` (wall)
and `*_workers_vs_threads_cpu`.
"""

from __future__ import annotations

import lepton_tasks  # noqa: F401 - its settings must be there before Polars is loaded, as in the product

# isort: split
import functools
import hashlib
import io
import itertools
import logging
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dask
import numpy as np
import polars as pl
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from distributed import LocalCluster, Security
from PIL import Image

from benchmarks.harness import alternate, arguments, report
from lepton_tasks.core.context import RunContext
from lepton_tasks.data.clean.probes import probe_rows
from lepton_tasks.data.cluster import map_chunks
from lepton_tasks.data.features import ImageFeatures

CORES = 2


def context(folder: Path, **dask_settings: Any) -> RunContext:
    """A context that says nothing about its progress."""
    environment = {"data_root": str(folder), "dask": dask_settings}
    ctx = RunContext.local(folder / "state", **environment)
    object.__setattr__(ctx, "on_progress", lambda progress: None)
    return ctx


def run(function: Callable[[Any], Any], chunks: list[Any], ctx: RunContext) -> list[Any]:
    """All results of `map_chunks`."""
    return list(map_chunks(function, chunks, ctx, total=sum(map(len, chunks)), unit="rows"))


def seconds(work: Callable[[], Any]) -> float:
    """Wall seconds."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def with_pool(function: Callable[[Any], Any], chunks: list[Any]) -> None:
    """The least that threads can cost."""
    with ThreadPoolExecutor(CORES) as pool:
        list(pool.map(function, chunks))


def with_barriers(function: Callable[[Any], Any], chunks: list[Any], window: int = 8 * CORES) -> None:
    """Windows of `dask.compute`, one after the other."""
    with ThreadPoolExecutor(CORES) as pool:
        for start in range(0, len(chunks), window):
            tasks = [dask.delayed(functools.partial(function, c), pure=False)() for c in chunks[start : start + window]]
            dask.compute(*tasks, scheduler=pool)


def write_pictures(folder: Path, count: int) -> list[Path]:
    """Ingested JPEGs of 320 x 240, as parts of at most 2,560 rows."""
    random = np.random.default_rng(0)
    pictures = []
    for _ in range(32):
        coarse = random.integers(0, 256, (15, 20, 3), dtype=np.uint8)
        stream = io.BytesIO()
        Image.fromarray(coarse).resize((320, 240), Image.Resampling.BICUBIC).save(stream, "JPEG", quality=90)
        pictures.append(stream.getvalue())
    rows = [{"data": data, "sha256": hashlib.sha256(data).hexdigest()} for data in pictures]
    parts = []
    for start in range(0, count, 2_560):
        parts.append(folder / f"pictures-{start:06d}.parquet")
        picked = [rows[i % 32] | {"sample_id": str(i), "uri": str(i)} for i in range(start, min(start + 2_560, count))]
        pq.write_table(pa.Table.from_pylist(picked), parts[-1])
    return parts


def decode(parts: list[Path], folder: Path, ctx: RunContext) -> str:
    """Decode all pictures; the digest of their pixels."""
    pixels = folder / "pixels.npy"
    probe_rows(ImageFeatures(height=96, width=96), parts, ctx, pixels)
    return hashlib.sha256(pixels.read_bytes()).hexdigest()


class Part(str):
    """Path of a Parquet file."""

    __slots__ = ()

    def __len__(self) -> int:
        return 1


def table_parts(folder: Path, count: int, rows: int) -> list[Part]:
    """Files of four columns."""
    random = np.random.default_rng(0)
    paths = []
    for i in range(4):
        path = folder / f"part-{i}.parquet"
        numbers = {name: random.normal(size=rows) for name in "abc"}
        pl.DataFrame({**numbers, "word": pl.Series(["x", "y", "z", None])[random.integers(0, 4, rows)]}).write_parquet(
            path
        )
        paths.append(Part(path))
    return list(itertools.islice(itertools.cycle(paths), count))


def clean_part(part: Part) -> tuple[int, float]:
    """Read, clip, fill, count, scale, sort: rows and a sum of them."""
    frame = pl.scan_parquet(str(part)).with_columns(pl.col("a", "b").clip(-2, 2), pl.col("word").fill_null("?"))
    frame = frame.filter(pl.col("c") > -3).with_columns((pl.col("a") - pl.col("a").mean()) / pl.col("a").std())
    rows = frame.sort("b").collect()
    return len(rows), float(rows["b"].sum())


@contextmanager
def workers(folder: Path, count: int, threads: int = 1) -> Iterator[RunContext]:
    """A cluster of processes over TLS on the loopback, warm."""
    security = Security.temporary()
    files = {"ca": security.tls_ca_file, "cert": security.tls_client_cert, "key": security.tls_client_key}
    for name, text in files.items():
        (folder / f"{name}.pem").write_text(text)
    with LocalCluster(
        n_workers=count,
        threads_per_worker=threads,
        protocol="tls",
        security=security,
        host="127.0.0.1",
        dashboard_address=None,
        local_directory=str(folder / "dask"),
        silence_logs=logging.CRITICAL,
    ) as cluster:
        tls = {name: str(folder / f"{name}.pem") for name in files}
        ctx = context(folder, address=cluster.scheduler_address, tls=tls)
        yield ctx


def cpu_seconds() -> float:
    """Of this process and those it started."""
    me = psutil.Process()
    return sum(sum(process.cpu_times()[:2]) for process in (me, *me.children(recursive=True)))


def measure_kernel(
    folder: Path, work: Callable[[RunContext], object], few: Callable[[RunContext], object], rounds: int
) -> dict[str, float]:
    """Median wall seconds, and CPU seconds, on 1 and 2 threads, 1 and 2 workers of one thread, 1 worker of two.

    `few` is a little of the work, by which imports and connections are warm.
    """
    figures: dict[str, float] = {}
    expected = work(context(folder, workers=CORES))

    def timed(name: str, ctx: RunContext) -> float:
        few(ctx)
        before, started = cpu_seconds(), time.perf_counter()
        assert work(ctx) == expected
        wall = time.perf_counter() - started
        figures[f"{name}_cpu_s"] = cpu_seconds() - before
        return wall

    def on_workers(name: str, count: int, threads: int) -> float:
        with workers(folder, count, threads) as ctx:
            return timed(name, ctx)

    subjects = {
        "threads_1": lambda: timed("threads_1", context(folder, workers=1)),
        "threads_2": lambda: timed("threads_2", context(folder, workers=2)),
        "workers_1": lambda: on_workers("workers_1", 1, 1),
        "workers_2": lambda: on_workers("workers_2", 2, 1),
        "worker_of_2_threads": lambda: on_workers("worker_of_2_threads", 1, 2),
    }
    walls = alternate(subjects, rounds)
    return {**figures, **{f"{name}_s": wall for name, wall in walls.items()}}


def main() -> None:
    """Measure and report."""
    options = arguments(__doc__ or "")
    rounds = 2 if options.quick else 3
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        two = context(folder, workers=CORES)
        empty = [[i] for i in range(2_000 if options.quick else 10_000)]
        overhead = alternate(
            {
                "map_chunks": lambda: seconds(lambda: run(len, empty, two)),
                "pool": lambda: seconds(lambda: with_pool(len, empty)),
                "dask_compute": lambda: seconds(lambda: with_barriers(len, empty)),
            },
            rounds,
        )
        naps = [[0.2 if i % 16 == 15 else 0.02] for i in range(80)]
        stragglers = alternate(
            {
                "map_chunks": lambda: seconds(lambda: run(nap, naps, two)),
                "barriers": lambda: seconds(lambda: with_barriers(nap, naps)),
            },
            rounds,
        )
        size = 0.25 if options.quick else 1.0
        pictures = write_pictures(folder, int(10_240 * size))
        tables = table_parts(folder, int(64 * size), 500_000)
        kernels = {
            "pictures": measure_kernel(
                folder,
                functools.partial(decode, pictures, folder),
                functools.partial(decode, pictures[:1], folder),
                rounds,
            ),
            "table": measure_kernel(
                folder,
                functools.partial(run, clean_part, tables),
                functools.partial(run, clean_part, tables[:4]),
                rounds,
            ),
        }
        wire = measure_wire(folder, 500 if options.quick else 2_000)
    present(overhead, len(empty), stragglers, sum(map(sum, naps)) / CORES, kernels, wire, options)


def nap(rows: list[float]) -> None:
    """Wait."""
    time.sleep(rows[0])


def block(rows: list[int]) -> np.ndarray:
    """4 MiB that cannot be compressed, the same each time."""
    return np.random.default_rng(0).integers(0, 256, 4 << 20, dtype=np.uint8)


def measure_wire(folder: Path, tasks: int) -> dict[str, float]:
    """CPU seconds, of this process with the scheduler in it, that bound a cluster: a task, and a byte of results."""
    with workers(folder, 1) as ctx:
        run(block, [[0]], ctx)
        me = psutil.Process()

        def own_cpu(function: Callable[[Any], Any], chunks: list[Any]) -> float:
            before = sum(me.cpu_times()[:2])
            run(function, chunks, ctx)
            return sum(me.cpu_times()[:2]) - before

        connect = own_cpu(len, [[0]])
        empty = own_cpu(len, [[i] for i in range(tasks)]) - connect
        blocks = own_cpu(block, [[i] for i in range(64)]) - connect - 64 * empty / tasks
    return {"connect_cpu_s": connect, "task_cpu_us": empty / tasks * 1e6, "result_mb_per_cpu_s": 64 * 4.19 / blocks}


def present(
    overhead: dict[str, float],
    tasks: int,
    stragglers: dict[str, float],
    least: float,
    kernels: dict[str, dict[str, float]],
    wire: dict[str, float],
    options: Any,
) -> None:
    """Ratios, figures and a table."""
    ratios = {
        "overhead_vs_pool": overhead["map_chunks"] / overhead["pool"],
        "overhead_vs_dask_compute": overhead["map_chunks"] / overhead["dask_compute"],
        "stragglers_vs_limit": stragglers["map_chunks"] / least,
        "stragglers_vs_barrier": stragglers["map_chunks"] / stragglers["barriers"],
    }
    figures = {f"overhead_{name}_us": wall / tasks * 1e6 for name, wall in overhead.items()} | wire
    rows: list[list[object]] = [
        [f"overhead, {name}", value / tasks * 1e6, "us a task"] for name, value in overhead.items()
    ]
    rows += [[f"stragglers, {name}", value, "s"] for name, value in stragglers.items()]
    rows += [[f"cluster, {name}", value, ""] for name, value in wire.items()]
    for kernel, seen in kernels.items():
        ratios[f"{kernel}_threads_2_vs_1"] = seen["threads_1_s"] / seen["threads_2_s"] / 2
        ratios[f"{kernel}_workers_2_vs_1"] = seen["workers_1_s"] / seen["workers_2_s"] / 2
        ratios[f"{kernel}_workers_vs_threads"] = seen["workers_2_s"] / seen["threads_2_s"]
        ratios[f"{kernel}_workers_vs_threads_cpu"] = seen["workers_2_cpu_s"] / seen["threads_2_cpu_s"]
        figures |= {f"{kernel}_{name}": value for name, value in seen.items()}
        rows += [[f"{kernel}, {name}", value, "s"] for name, value in seen.items()]
    header = ["what", "value", "unit"]
    report(
        "data_cluster",
        ratios=ratios,
        figures=figures,
        header=header,
        rows=rows,
        quick=options.quick,
        as_json=options.json,
    )


if __name__ == "__main__":
    main()
