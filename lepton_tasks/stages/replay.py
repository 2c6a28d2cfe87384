"""Requests replayed from the test split, to compare network, package and champion."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lepton_tasks.core.protocols import Codec, OutputCodec, Outputs

if TYPE_CHECKING:
    from lepton_tasks.serving.package import Package

MAX_REQUESTS = 2_000
"""Maximum number of replayed requests: a difference that none of them shows is rarer than 1 in 600 (95 %)."""

REQUESTS_FILE = "requests.parquet"
PROFILE_FILE = "requests_profile.json"
"""Evaluation artifact: profile of training and validation rows as requests."""
OUTPUTS_FILE = "outputs.npz"
"""Evaluation artifact: the network's outputs for the stored rows of the test split."""
SERVED_FILE = "served.npz"
"""Evaluation artifact: the network's outputs for the requests, decoded by the codec, before any conversion."""

_BATCH = 256


def write_requests(folder: Path, payloads: Sequence[bytes]) -> None:
    """Write ``requests.parquet``: one column ``payload``, in the order of the test split."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"payload": pa.array(payloads, pa.binary())}), folder / REQUESTS_FILE)


def read_requests(folder: Path) -> list[bytes]:
    """Read the file of `write_requests`."""
    import pyarrow.parquet as pq

    payloads: list[bytes] = pq.read_table(folder / REQUESTS_FILE)["payload"].to_pylist()
    return payloads


def write_outputs(path: Path, outputs: Outputs) -> None:
    """Write arrays by name as a ``.npz`` file."""
    np.savez(path, allow_pickle=False, **outputs)


def read_outputs(path: Path) -> dict[str, np.ndarray]:
    """Read a file of `write_outputs`."""
    with np.load(path) as arrays:
        return dict(arrays)


def decoded(codec: Codec, payloads: Sequence[bytes]) -> np.ndarray:
    """Decode requests to graph inputs, [N, ...]."""
    return np.stack([codec.decode(payload) for payload in payloads])


def outputs_of(package: Package, payloads: Sequence[bytes]) -> dict[str, np.ndarray]:
    """Outputs [N, ...] of a package for requests, decoded by its own codec."""
    parts = [
        package.run(decoded(package.codec, payloads[start : start + _BATCH]))
        for start in range(0, len(payloads), _BATCH)
    ]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def first_rows(outputs: Outputs, count: int) -> dict[str, np.ndarray]:
    """The outputs of the first `count` rows."""
    return {name: values[:count] for name, values in outputs.items()}


def label_mismatch(codec: OutputCodec, outputs: Outputs, expected: Outputs) -> float | None:
    """Fraction of answers whose label differs from the expected one; None if answers have no labels."""
    count = len(next(iter(expected.values())))
    pairs = [(codec.encode(outputs, row), codec.encode(expected, row)) for row in range(count)]
    if not pairs or "label" not in pairs[0][1]:
        return None
    return float(np.mean([actual.get("label") != reference["label"] for actual, reference in pairs]))


def differences(outputs: Outputs, expected: Outputs) -> tuple[float, float]:
    """Largest difference of floats, and fraction of other values that differ.

    A difference is relative if the expected value is above 1. Floats are ignored in rows where an integer differs: they
    belong to another answer, such as the score of another text. If only one of the two is NaN, the difference is
    infinite; if shapes differ, the result is infinity and 1.
    """
    if any(outputs[name].shape != reference.shape for name, reference in expected.items()):
        return np.inf, 1.0
    largest = share = 0.0
    same = np.ones(len(next(iter(expected.values()))), bool)
    for name, reference in expected.items():
        if reference.size and not np.issubdtype(reference.dtype, np.floating):
            differs = outputs[name] != reference
            share = max(share, float(differs.mean()))
            same &= ~differs.reshape(len(differs), -1).any(axis=1)
    for name, reference in expected.items():
        if np.issubdtype(reference.dtype, np.floating) and reference[same].size:
            actual, reference = outputs[name][same], reference[same]
            equal = (actual == reference) | (
                np.isnan(actual) & np.isnan(reference)
            )  # equal infinities are no difference
            with np.errstate(invalid="ignore"):
                distance = np.where(equal, 0, np.abs(actual - reference) / np.maximum(1, np.abs(reference)))
            largest = max(largest, float(np.where(np.isnan(distance), np.inf, distance).max()))
    return largest, share
