"""Measure a package's speed on this machine and choose how to run it."""

from __future__ import annotations

import dataclasses
import math
import time

import numpy as np

from lepton_tasks.serving.package import Package

_BATCH_SIZES = (1, 2, 4, 8, 16, 32)
_LEAST_TURNS, _TURNS = 5, 40
_MOST_SECONDS = 0.3
_NEARLY = 0.87  # of the best rate
_SHORT_SECONDS, _LONG_SECONDS = 0.0015, 0.1  # of a batch
_FAIRLY = 0.75  # likewise, while many wait: beside other work, a large batch is seldom measured without a break
_DEEPEST, _DEEP_SECONDS = 8, 0.025  # of a batch while many wait: shared by eight, a wake-up weighs little
_QUICK_SECONDS = 0.0005  # of one request: so long may the event loop stand still
_TINY_SECONDS = 0.00002  # of one sample in a batch: well below what the interpreter takes for the rest of a request
_LEAST_SMALL = 4096


@dataclasses.dataclass(frozen=True)
class Pace:
    """What was measured.

    Attributes:
        batch: Requests of one inference.
        deep: Most requests of one inference while many wait.
        rate: Samples a second with such batches, by one thread.
        small: Bytes of a request up to which it may be answered in the event loop; 0 if never.
        busy: Whether that is best even while others are being answered.
    """

    batch: int
    deep: int
    rate: float
    small: int = 0
    busy: bool = False


def measure(package: Package) -> Pace:
    """Let the package answer its example, or zeros, and see how long it takes; also warms it up."""
    example = package.example()
    if example is not None:
        sample = package.codec.decode(example[0])
    else:
        tensor = package.spec.inputs[0]
        sample = np.zeros([size or 1 for size in tensor.shape[1:]], tensor.dtype)
    package.output_codec.encode(package.run(sample[np.newaxis]), 0)
    batch, deep, rate = best_batch(package, sample)
    package.shrink(sample[np.newaxis])  # the largest batch that was tried took 14 MB for a small CNN
    seconds = min(_seconds(package, example[0] if example else None, sample) for _ in range(3))
    small = max(_LEAST_SMALL, 8 * sample.nbytes)  # the sample as JSON, or eight as bytes
    return Pace(batch, deep, rate, small if seconds <= _QUICK_SECONDS else 0, 1 / rate <= _TINY_SECONDS)


def _seconds(package: Package, payload: bytes | None, sample: np.ndarray) -> float:
    began = time.perf_counter()
    if payload is not None:
        sample = package.codec.decode(payload)
    package.output_codec.encode(package.run(sample[np.newaxis]), 0)
    return time.perf_counter() - began


def best_batch(package: Package, sample: np.ndarray) -> tuple[int, int, float]:
    """The batch size to serve this package with, by measurement, that while many wait, and the samples a second that
    the first gives; also warms it up.

    Of the sizes that give nearly the best rate, the largest one that takes no longer than 1.5 ms is taken, else the
    smallest; while many wait, the largest up to 8 and 25 ms. A small CNN gains nothing from batches in ONNX Runtime,
    but the interpreter does: between two inferences its caches are cold, and its lock is with another thread. The sizes
    are measured in turns, and by processor time of the one thread that runs them: by the clock, a batch of 10 ms is
    never done without a break while other work is on the machine, and would seem bad.

    Args:
        package: What is measured.
        sample: One decoded sample, without batch axis.
    """
    batches = [np.repeat(sample[np.newaxis], size, axis=0) for size in _BATCH_SIZES]
    seconds = [math.inf] * len(batches)
    until = time.perf_counter() + _MOST_SECONDS
    for turn in range(_TURNS + 1):
        if turn > _LEAST_TURNS and time.perf_counter() > until:
            break
        for i, batch in enumerate(batches):
            started = time.thread_time()
            package.run(batch)
            took = time.thread_time() - started
            if turn or took > _LONG_SECONDS:  # the first is for warming up, unless one is enough
                seconds[i] = min(seconds[i], took)
            if took > _LONG_SECONDS:  # a larger one would make requests wait for longer than it is worth
                del batches[i + 1 :], seconds[i + 1 :]
    rates = [size / max(took, 1e-9) for size, took in zip(_BATCH_SIZES, seconds, strict=False)]
    good = [i for i, rate in enumerate(rates) if rate >= _NEARLY * max(rates)]
    best = max((i for i in good if seconds[i] <= _SHORT_SECONDS), default=good[0])
    fair = [i for i, rate in enumerate(rates) if rate >= _FAIRLY * max(rates)]
    deep = max((i for i in fair if seconds[i] <= _DEEP_SECONDS and _BATCH_SIZES[i] <= _DEEPEST), default=best)
    return _BATCH_SIZES[best], _BATCH_SIZES[max(best, deep)], rates[best]
