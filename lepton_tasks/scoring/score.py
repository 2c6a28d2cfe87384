"""Score files of samples on all cores or a Dask cluster, with the same predictions as the endpoint."""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lepton_tasks.core.context import RunContext
from lepton_tasks.core.errors import ArtifactError, DataError
from lepton_tasks.scoring.inputs import Sample, open_inputs
from lepton_tasks.scoring.package_selection import SelectedPackage
from lepton_tasks.scoring.results import flatten, open_results, schema_of
from lepton_tasks.serving.package import Package, load_package

_BATCH = 32  # samples per inference; larger batches gain little
_MAX_REASONS = 5

_load_lock = threading.Lock()


def score_samples(samples: Sequence[Sample], *, folder: str, digest: str) -> list[dict[str, Any]]:
    """For each sample, in order: ``origin``, ``row``, and the columns of the prediction or ``error``.

    Args:
        samples: The samples.
        folder: Folder of the package, on all workers.
        digest: Digest of the package.
    """
    package = _load_once(folder, digest)
    answers: list[dict[str, Any]] = [{"origin": sample.origin, "row": sample.row} for sample in samples]
    groups: dict[tuple[Any, ...], list[tuple[int, np.ndarray]]] = {}  # samples may differ in shape
    for i, sample in enumerate(samples):
        try:
            array = _decode(package, sample)
            groups.setdefault((array.dtype, array.shape), []).append((i, array))
        except DataError as error:
            answers[i]["error"] = str(error)
    for members in groups.values():
        for start in range(0, len(members), _BATCH):
            batch = members[start : start + _BATCH]
            outputs = package.run(np.stack([array for _, array in batch]))
            for row, (i, _) in enumerate(batch):
                answers[i] |= flatten(package.output_codec.encode(outputs, row))
    return answers


def _decode(package: Package, sample: Sample) -> np.ndarray:
    payload = sample.payload(package.codec)
    if not payload:
        raise DataError("the sample is empty.")
    return package.codec.decode(payload)


@functools.lru_cache(maxsize=2)
def _load(folder: str, digest: str) -> Package:
    package = load_package(Path(folder))
    if package.digest != digest:
        raise ArtifactError(f"the package's digest is {package.digest[:12]}, not {digest[:12]}.", where=folder)
    return package


def _load_once(folder: str, digest: str) -> Package:
    with _load_lock:
        return _load(folder, digest)


def score(path: str, output: Path, model: SelectedPackage, ctx: RunContext) -> dict[str, Any]:
    """Score the samples at `path` and write the predictions.

    Args:
        path: See `open_inputs`; relative to the current folder.
        output: The Parquet file to write; replaced only on success.
        model: The package.
        ctx: Cluster and progress meter.

    Returns:
        ``model, version, digest, files, rows, answered, refused, reasons`` (of the first refused rows), ``notes,
        seconds, rows_per_second, output``.

    Raises:
        DataError: there are no readable samples, or the output cannot be written.
        ArtifactError: the package is damaged, or not the registered one.
    """
    from lepton_tasks.data.cluster import map_chunks

    package = load_package(model.folder)
    folder, digest = str(model.folder), model.digest or package.digest
    _load_once(folder, digest)
    job = functools.partial(score_samples, folder=folder, digest=digest)
    version = model.version or package.digest[:12]
    inputs = open_inputs(path, package.codec, Path.cwd())
    identity = {"model": package.spec.name, "version": version, "digest": package.digest, "input": path}
    refused: list[dict[str, Any]] = []
    counts = {"rows": 0, "refused": 0}
    started = time.monotonic()
    with open_results(
        output, schema_of(_sample_prediction(package), identity), model=package.spec.name, version=version
    ) as file:
        for rows in map_chunks(job, inputs.chunks, ctx, total=inputs.total, unit="rows"):
            file.add(rows)
            wrong = [row for row in rows if "error" in row]
            refused += wrong[: _MAX_REASONS - len(refused)]
            counts = {"rows": counts["rows"] + len(rows), "refused": counts["refused"] + len(wrong)}
        if not counts["rows"]:
            raise DataError("there are no rows.", where=path)
    seconds = time.monotonic() - started
    return {
        **identity,
        "files": inputs.files,
        **counts,
        "answered": counts["rows"] - counts["refused"],
        "reasons": [{"origin": row["origin"], "row": row["row"], "error": row["error"]} for row in refused],
        "notes": inputs.notes,
        "seconds": round(seconds, 3),
        "rows_per_second": round(counts["rows"] / seconds, 1) if seconds else 0.0,
        "output": str(output),
    }


def _sample_prediction(package: Package) -> dict[str, Any]:
    """A prediction of the package, from which the columns of the file are derived."""
    if (example := package.example()) is not None:
        return package.predict(example[0])
    tensor = package.spec.inputs[0]
    zeros = np.zeros([1, *(size or 1 for size in tensor.shape[1:])], tensor.dtype)
    return package.output_codec.encode(package.run(zeros), 0)
