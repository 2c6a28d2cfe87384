"""Measure a package's speed on this machine, and choose batch sizes and inline execution from it."""

from __future__ import annotations

import dataclasses
import math
import time

import numpy as np

from lepton_tasks.serving.package import Package

_BATCH_SIZES = (1, 2, 4, 8, 16, 32)
_MIN_ROUNDS, _MAX_ROUNDS = 5, 40
_MAX_SECONDS = 0.3
_RATE_SHARE = 0.87  # of the best rate, to be a candidate for `max_batch`
_SHORT_SECONDS, _LONG_SECONDS = 0.0015, 0.1  # per batch
_BURST_RATE_SHARE = 0.75  # for `burst_batch`; lower, as large batches are seldom measured without interruption
_MAX_BURST_BATCH, _BURST_SECONDS = 8, 0.025  # 8 jobs are enough to amortise waking a thread
_INLINE_SECONDS = 0.0005  # per request: the longest acceptable block of the event loop
_TINY_SECONDS = 0.00002  # per sample in a batch: well below the interpreter time of the rest of a request
_MIN_INLINE_BYTES = 4096


@dataclasses.dataclass(frozen=True)
class Calibration:
    """Measured settings of a `Batcher`.

    Attributes:
        max_batch: Requests per inference.
        burst_batch: Requests per inference with a long queue.
        rate: Samples per second and thread with `max_batch`.
        inline_bytes: Maximum request size in bytes for running in the event loop; 0 for never.
        inline_when_busy: Whether to run there even while other requests are in progress.
    """

    max_batch: int
    burst_batch: int
    rate: float
    inline_bytes: int = 0
    inline_when_busy: bool = False


def calibrate(package: Package) -> Calibration:
    """Measure the package on its example, or on zeros; also warms it up."""
    example = package.example()
    if example is not None:
        sample = package.codec.decode(example[0])
    else:
        tensor = package.spec.inputs[0]
        sample = np.zeros([size or 1 for size in tensor.shape[1:]], tensor.dtype)
    package.output_codec.encode(package.run(sample[np.newaxis]), 0)
    batch, burst_batch, rate = best_batch(package, sample)
    package.shrink(sample[np.newaxis])  # the largest batch tried took 14 MB for a small CNN
    seconds = min(_request_seconds(package, example[0] if example else None, sample) for _ in range(3))
    inline_bytes = max(_MIN_INLINE_BYTES, 8 * sample.nbytes)  # one sample as JSON, or eight binary ones
    if seconds > _INLINE_SECONDS:
        inline_bytes = 0
    return Calibration(batch, burst_batch, rate, inline_bytes, 1 / rate <= _TINY_SECONDS)


def _request_seconds(package: Package, payload: bytes | None, sample: np.ndarray) -> float:
    began = time.perf_counter()
    if payload is not None:
        sample = package.codec.decode(payload)
    package.output_codec.encode(package.run(sample[np.newaxis]), 0)
    return time.perf_counter() - began


def best_batch(package: Package, sample: np.ndarray) -> tuple[int, int, float]:
    """Measure `max_batch`, `burst_batch` and the samples per second with the first; also warms up the package.

    Among the sizes with at least 87 % of the best rate, `max_batch` is the largest that takes at most 1.5 ms, else the
    smallest; `burst_batch` is the largest up to 8 and 25 ms. A small CNN gains nothing from batches in ONNX Runtime,
    but the interpreter does: between inferences its caches get cold and other threads take the GIL. The sizes are
    measured in turns by CPU time of the thread: by wall time, a batch of 10 ms is always interrupted by other work on
    the machine.

    Args:
        package: The package to measure.
        sample: One decoded sample, without batch axis.
    """
    batches = [np.repeat(sample[np.newaxis], size, axis=0) for size in _BATCH_SIZES]
    seconds = [math.inf] * len(batches)
    until = time.perf_counter() + _MAX_SECONDS
    for turn in range(_MAX_ROUNDS + 1):
        if turn > _MIN_ROUNDS and time.perf_counter() > until:
            break
        for i, batch in enumerate(batches):
            started = time.thread_time()
            package.run(batch)
            took = time.thread_time() - started
            if turn or took > _LONG_SECONDS:  # the first is a warm-up, unless it is long
                seconds[i] = min(seconds[i], took)
            if took > _LONG_SECONDS:  # larger batches would wait too long
                del batches[i + 1 :], seconds[i + 1 :]
    rates = [size / max(took, 1e-9) for size, took in zip(_BATCH_SIZES, seconds, strict=False)]
    good = [i for i, rate in enumerate(rates) if rate >= _RATE_SHARE * max(rates)]
    best = max((i for i in good if seconds[i] <= _SHORT_SECONDS), default=good[0])
    fair = [i for i, rate in enumerate(rates) if rate >= _BURST_RATE_SHARE * max(rates)]
    burst = max((i for i in fair if seconds[i] <= _BURST_SECONDS and _BATCH_SIZES[i] <= _MAX_BURST_BATCH), default=best)
    return _BATCH_SIZES[best], _BATCH_SIZES[max(best, burst)], rates[best]
