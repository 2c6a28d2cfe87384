"""Build and measure compressed graphs, and choose the best."""

from __future__ import annotations

import contextlib
import dataclasses
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lepton_tasks.core.catalogue import COMPRESSIONS
from lepton_tasks.core.compress_settings import Compress
from lepton_tasks.core.errors import ArtifactError, StageError
from lepton_tasks.core.metrics import direction
from lepton_tasks.core.protocols import LearningTask, Outputs, Rows
from lepton_tasks.core.release_protocols import CompressionInput
from lepton_tasks.core.spec import ComponentSpec
from lepton_tasks.serving.package import Package, open_graph
from lepton_tasks.stages import replay

EXPORTED = "exported"
"""Name of the exported graph, the baseline of all comparisons."""

_MAX_SIZE_RATIO, _MAX_LATENCY_RATIO = 0.95, 0.9  # relative to the exported graph: smaller gains are noise
_TIMING_ROUNDS, _TIMING_SECONDS, _BATCH = 7, 0.05, 32  # rounds; seconds per graph and round; rows of a large batch


@dataclasses.dataclass
class Candidate:
    """One graph, its measurements, and the reason if it was rejected."""

    name: str
    spec: ComponentSpec | None = None
    path: Path | None = None
    package: Package | None = None
    reason: str = ""
    figures: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def loaded(self) -> Package:
        """The candidate's package; raises `ArtifactError` with the reason if it failed."""
        if self.package is None:
            raise ArtifactError(f"the graph {self.name} {self.reason}.")
        return self.package

    def report(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {"name": self.name, "reason": self.reason, **self.figures}


@dataclasses.dataclass(frozen=True)
class EvaluationSet:
    """Requests of one split, their rows, and the exported graph's outputs."""

    payloads: Sequence[bytes]
    rows: Rows
    answers: Outputs


def build(spec: ComponentSpec, model: CompressionInput, exported: Package, output: Path) -> Candidate:
    """Compress, load and run once; on failure, a candidate without a package and with the reason."""
    params = ", ".join(f"{key}={value}" for key, value in spec.params.items())
    candidate = Candidate(f"{spec.name} ({params})" if params else spec.name, spec, output)
    with _failure_as_reason(candidate):
        COMPRESSIONS.build(spec.name, spec.params, where="compress.candidates").compress(model, output)
        candidate.figures["bytes"] = output.stat().st_size
        candidate.package = Package(exported.folder, exported.spec, "", open_graph(output, exported.spec))
        if (example := exported.example()) is not None:
            candidate.package.predict(example[0])
    return candidate


@contextlib.contextmanager
def _failure_as_reason(candidate: Candidate) -> Iterator[None]:
    """Record exceptions of the block as the candidate's reason; those of the exported graph propagate.

    Raises:
        StageError: a training was cancelled, or its process was killed.
    """
    try:
        yield
    except StageError:
        raise
    except Exception as error:  # converters and runtimes raise any type
        if candidate.spec is None:
            raise
        candidate.package = None
        candidate.reason = f"failed: {' '.join(str(error).split())[:300] or type(error).__name__}"


def measure_quality(
    candidate: Candidate, task: LearningTask, metric: str, evaluation_sets: Mapping[str, EvaluationSet]
) -> None:
    """Add the candidate's metrics on each split, and their loss against the exported graph; NaN if undefined."""
    if candidate.package is None:
        return
    with _failure_as_reason(candidate):
        for split, evaluation_set in evaluation_sets.items():
            candidate.figures |= _quality(candidate.package, task, metric, split, evaluation_set)


def _quality(
    package: Package, task: LearningTask, metric: str, split: str, evaluation_set: EvaluationSet
) -> dict[str, Any]:
    outputs = replay.outputs_of(package, evaluation_set.payloads)
    metrics, before = (
        task.metrics(answers, evaluation_set.rows.targets) for answers in (outputs, evaluation_set.answers)
    )
    figures = {
        f"{split}_metrics": metrics,
        split: metrics[metric],
        f"{split}_drop": (before[metric] - metrics[metric]) * direction(metric),
        f"{split}_mismatch": replay.label_mismatch(package.output_codec, outputs, evaluation_set.answers),
    }
    if split == "validation":
        whole, parts = (task.details(answers, evaluation_set.rows) for answers in (evaluation_set.answers, outputs))
        figures["parts"] = _part_drops(whole, parts, metric)
    return figures


def _part_drops(before: Mapping[str, Mapping[str, float]], now: Mapping[str, Any], metric: str) -> dict[str, float]:
    """Metric loss of each part of the split: of `metric` if parts have it, else F1, else their first metric."""
    drops: dict[str, float] = {}
    for part, figures in before.items():
        known = [name for name, value in figures.items() if isinstance(value, float)]
        chosen = next((name for name in (metric, "f1", *known) if name in known), None)
        if chosen is not None and chosen in now.get(part, {}):
            drops[part] = (figures[chosen] - now[part][chosen]) * direction(chosen)
    return drops


def measure_latency(candidates: Sequence[Candidate], samples: np.ndarray) -> None:
    """Add ``latency_ms`` of one row and ``rows_per_second`` of a batch, on one thread: medians.

    Candidates take turns, so that other load on the machine affects them equally.
    """
    one, many = samples[:1], np.resize(samples, (_BATCH, *samples.shape[1:]))
    for candidate in candidates:
        if candidate.package is not None:
            with _failure_as_reason(candidate):
                candidate.package.run(many)
    timed = [candidate for candidate in candidates if candidate.package is not None]
    times: dict[tuple[int, bool], list[float]] = {}
    for turn in range(_TIMING_ROUNDS):
        for index, candidate in enumerate(timed):
            for large, batch in ((False, one), (True, many)):
                durations = _durations(candidate.loaded, batch)
                if turn:  # the first warms up
                    times.setdefault((index, large), []).extend(durations)
    for index, candidate in enumerate(timed):
        candidate.figures["latency_ms"] = 1_000 * statistics.median(times[index, False])
        candidate.figures["rows_per_second"] = _BATCH / statistics.median(times[index, True])


def _durations(package: Package, batch: np.ndarray) -> list[float]:
    durations: list[float] = []
    while not durations or sum(durations) < _TIMING_SECONDS:
        started = time.perf_counter()
        package.run(batch)
        durations.append(time.perf_counter() - started)
    return durations


def choose(candidates: Sequence[Candidate], settings: Compress, metric: str) -> Candidate:
    """The smallest (or fastest) candidate within the limits; the first candidate is the exported graph.

    Sets the reason of all rejected candidates.
    """
    exported = candidates[0]
    for candidate in candidates[1:]:
        if not candidate.reason:
            candidate.reason = _rejection_reason(candidate.figures, exported.figures, settings, metric)
    fit = [candidate for candidate in candidates[1:] if not candidate.reason]
    keys = ("bytes", "latency_ms") if settings.prefer == "size" else ("latency_ms", "bytes")
    best = min(fit, key=lambda candidate: [candidate.figures[key] for key in keys], default=exported)
    for candidate in fit:
        if candidate is not best:
            candidate.reason = f"{best.name} is {'smaller' if settings.prefer == 'size' else 'faster'}"
    return best


def _rejection_reason(figures: Mapping[str, Any], exported: Mapping[str, Any], settings: Compress, metric: str) -> str:
    drop, mismatch = figures["validation_drop"], figures["validation_mismatch"]
    slower = figures["latency_ms"] / exported["latency_ms"]
    smaller = figures["bytes"] / exported["bytes"]
    if not drop <= settings.max_metric_drop:  # also rejects NaN
        return f"{metric} is {drop:.4f} worse; {settings.max_metric_drop:g} is allowed"
    if mismatch is not None and mismatch > settings.max_mismatch:
        return f"{mismatch:.1%} of the labels differ; {settings.max_mismatch:.1%} is allowed"
    if slower > settings.max_slowdown:
        return f"it takes {slower:.2f} times as long; {settings.max_slowdown:g} is allowed"
    if smaller > _MAX_SIZE_RATIO and slower > _MAX_LATENCY_RATIO:
        return "it is neither smaller nor faster"
    return ""
