"""Decode and resize pictures, and load them for training, each beside its peers.

`python -m benchmarks.data_pictures [--quick] [--json]`

Synthetic photos of 640 x 480 pixels (JPEG, quality 88). Rates are of processor time, which a busy machine changes
least.

    decode_vs_same_full    our decode + resize to 128 px : a full decode alone, by the same decoder (limit: 1.1)
    decode_vs_best_full    ... : a full decode alone, by the fastest decoder at hand, OpenCV's (wished for: 1.1)
    loader_vs_tar          our loader : a tar of JPEGs resized to 128 px before, read in a row (limit: 2)
    threads_scaling        our decode + resize by wall time on all cores : on one
"""

from __future__ import annotations

import io
import os
import tarfile
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from benchmarks.harness import alternate, arguments, report
from lepton_tasks.codecs.image import ImageCodec, open_picture
from lepton_tasks.data.feature_arrays import open_split
from lepton_tasks.training.batches import Batches

_SIZE = (640, 480)
_SIDES = (96, 128)
_BATCH = 64


def main() -> None:
    """Measure, print, keep."""
    options = arguments(__doc__ or "")
    cv2.setNumThreads(1)  # a picture a thread: the threads are ours
    photos = [_photo(seed) for seed in range(40 if options.quick else 200)]
    rounds = 3 if options.quick else 7
    rates = alternate({name: _rate(decode, photos) for name, decode in _decoders().items()}, rounds)
    walls = alternate({f"wall, {n} threads": _threads(n, photos) for n in (1, os.cpu_count() or 1)}, rounds)
    with tempfile.TemporaryDirectory() as folder:
        readers = _loaders(photos, Path(folder), copies=5 if options.quick else 20)
        loads = alternate(readers, rounds)
    one, many = walls.values()
    report(
        "data_pictures",
        ratios={
            "decode_vs_same_full": rates["ours, 128 px"] / rates["full decode, Pillow"],
            "decode_vs_best_full": rates["ours, 128 px"] / rates["full decode, OpenCV"],
            "decode_96_vs_same_full": rates["ours, 96 px"] / rates["full decode, Pillow"],
            "decode_96_vs_best_full": rates["ours, 96 px"] / rates["full decode, OpenCV"],
            "decode_vs_pillow_whole": rates["ours, 128 px"] / rates["Pillow without draft, 128 px"],
            "loader_vs_tar": loads["memory map (ours)"] / loads["tar of resized JPEGs"],
            "loader_vs_folder": loads["memory map (ours)"] / loads["folder of photos"],
            "threads_scaling": many / one,
        },
        figures=rates | walls | loads,
        header=("", "pictures/s"),
        rows=[*rates.items(), *walls.items(), *loads.items()],
        quick=options.quick,
        as_json=options.json,
    )


def _photo(seed: int) -> bytes:
    """A scene with soft shapes, edges and some noise, at 1.2 bits a pixel, which is the median of photos of pets."""
    chance = np.random.default_rng(seed)
    soft = Image.fromarray(chance.integers(0, 256, (9, 12, 3), dtype=np.uint8)).resize(_SIZE, Image.Resampling.BICUBIC)
    fine = Image.fromarray(chance.integers(0, 256, (60, 80, 3), dtype=np.uint8)).resize(_SIZE, Image.Resampling.NEAREST)
    pixels = 0.7 * np.asarray(soft) + 0.25 * np.asarray(fine) + chance.normal(0, 2, (*_SIZE[::-1], 3))
    return _jpeg(np.clip(pixels, 0, 255).astype(np.uint8), 88)


def _jpeg(pixels: np.ndarray, quality: int) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=quality)
    return stream.getvalue()


def _decoders() -> dict[str, Callable[[bytes], object]]:
    """Bytes -> pixels, by name."""
    found: dict[str, Callable[[bytes], object]] = {
        "full decode, Pillow": lambda payload: open_picture(payload, "RGB"),
        "full decode, OpenCV": lambda payload: cv2.imdecode(np.frombuffer(payload, np.uint8), cv2.IMREAD_COLOR),
    }
    for side in _SIDES:
        found |= {
            f"ours, {side} px": ImageCodec(side, side).decode,
            f"Pillow without draft, {side} px": lambda payload, side=side: np.asarray(
                open_picture(payload, "RGB").picture.resize((side, side), Image.Resampling.BILINEAR)
            ),
            f"OpenCV reduced, {side} px": lambda payload, side=side: _opencv(payload, side),
        }
    return found


def _opencv(payload: bytes, side: int) -> np.ndarray:
    """At the smallest scale that is not below `side`, as our codec chooses it; then by area."""
    scale = min(_SIZE) // side
    flag = next(
        flag
        for least, flag in (
            (8, cv2.IMREAD_REDUCED_COLOR_8),
            (4, cv2.IMREAD_REDUCED_COLOR_4),
            (2, cv2.IMREAD_REDUCED_COLOR_2),
            (0, cv2.IMREAD_COLOR),
        )
        if scale >= least
    )
    pixels = cv2.imdecode(np.frombuffer(payload, np.uint8), flag)
    return cv2.cvtColor(cv2.resize(pixels, (side, side), interpolation=cv2.INTER_AREA), cv2.COLOR_BGR2RGB)


def _rate(decode: Callable[[bytes], object], photos: Sequence[bytes]) -> Callable[[], float]:
    """Pictures per second of processor time."""

    def measure() -> float:
        began = time.process_time()
        for photo in photos:
            decode(photo)
        return len(photos) / (time.process_time() - began)

    return measure


def _threads(count: int, photos: Sequence[bytes]) -> Callable[[], float]:
    """Pictures per second of wall time by our codec on so many threads."""
    codec = ImageCodec(128, 128)

    def measure() -> float:
        with ThreadPoolExecutor(count) as pool:
            began = time.perf_counter()
            list(pool.map(codec.decode, photos))
            return len(photos) / (time.perf_counter() - began)

    return measure


def _loaders(photos: Sequence[bytes], folder: Path, copies: int) -> dict[str, Callable[[], float]]:
    """Batches of uint8 [64, 128, 128, 3] from each store, pictures per second of processor time."""
    codec = ImageCodec(128, 128)
    arrays = np.stack([codec.decode(photo) for photo in photos] * copies)
    small = [_jpeg(array, 95) for array in arrays[: len(photos)]] * copies
    (folder / "train").mkdir()
    np.save(folder / "train" / "inputs.npy", arrays)
    np.save(folder / "train" / "targets.npy", np.zeros(len(arrays), np.int64))
    with tarfile.open(folder / "small.tar", "w") as archive:
        for i, data in enumerate(small):
            info = tarfile.TarInfo(f"{i:06d}.jpg")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    pq.write_table(pa.table({"data": small}), folder / "small.parquet", row_group_size=_BATCH, compression="none")
    for i, photo in enumerate(photos):
        (folder / f"{i:06d}.jpg").write_bytes(photo)

    def memory_map() -> int:
        batches = Batches(open_split(folder, "train"), size=_BATCH, seed=0)
        return sum(len(inputs) for inputs, _ in batches)

    def tar() -> int:
        with tarfile.open(folder / "small.tar", "r|") as archive:
            return _stacked([codec.decode(archive.extractfile(member).read()) for member in archive])  # type: ignore[union-attr]

    def parquet() -> int:
        with pq.ParquetFile(folder / "small.parquet") as file:
            batches = file.iter_batches(batch_size=_BATCH)
            return sum(_stacked([codec.decode(data) for data in batch["data"].to_pylist()]) for batch in batches)

    def files() -> int:
        return _stacked([codec.decode(path.read_bytes()) for path in sorted(folder.glob("*.jpg"))])

    readers = {
        "memory map (ours)": memory_map,
        "tar of resized JPEGs": tar,
        "Parquet of resized JPEGs": parquet,
        "folder of photos": files,
    }
    return {name: _loading(read) for name, read in readers.items()}


def _stacked(arrays: list[np.ndarray]) -> int:
    """What a loader does with decoded pictures: batches of them; how many there were."""
    return sum(len(np.stack(arrays[start : start + _BATCH])) for start in range(0, len(arrays), _BATCH))


def _loading(read: Callable[[], int]) -> Callable[[], float]:
    def measure() -> float:
        began = time.process_time()
        count = read()
        return count / (time.process_time() - began)

    return measure


if __name__ == "__main__":
    main()
