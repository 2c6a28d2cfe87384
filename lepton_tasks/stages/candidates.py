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
"""What the graph is called that all others are compared with."""

_SMALLER, _FASTER = 0.95, 0.9  # of the exported graph's: less is noise, and not worth answering otherwise
_ROUNDS, _SECONDS, _BATCH = 7, 0.05, 32  # of measuring, for each graph and round; rows of a large batch


@dataclasses.dataclass
class Candidate:
    """One graph, what was measured of it, and why it is not taken."""

    name: str
    spec: ComponentSpec | None = None
    path: Path | None = None
    package: Package | None = None
    reason: str = ""
    figures: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def opened(self) -> Package:
        """Its package; raises `ArtifactError` with the reason if it has none."""
        if self.package is None:
            raise ArtifactError(f"the graph {self.name} {self.reason}.")
        return self.package

    def report(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {"name": self.name, "reason": self.reason, **self.figures}


@dataclasses.dataclass(frozen=True)
class Exam:
    """Requests made of one split, their rows, and what the exported graph answers."""

    payloads: Sequence[bytes]
    rows: Rows
    answers: Outputs


def build(spec: ComponentSpec, model: CompressionInput, exported: Package, made: Path) -> Candidate:
    """The graph that a compression makes, opened and asked once; without a package and with the reason if it fails."""
    params = ", ".join(f"{key}={value}" for key, value in spec.params.items())
    candidate = Candidate(f"{spec.name} ({params})" if params else spec.name, spec, made)
    with _or_reason(candidate):
        COMPRESSIONS.build(spec.name, spec.params, where="compress.candidates").compress(model, made)
        candidate.figures["bytes"] = made.stat().st_size
        candidate.package = Package(exported.folder, exported.spec, "", open_graph(made, exported.spec))
        if (example := exported.example()) is not None:
            candidate.package.predict(example[0])
    return candidate


@contextlib.contextmanager
def _or_reason(candidate: Candidate) -> Iterator[None]:
    """Whatever the block raises is the reason why there is no such candidate; the exported graph must not fail.

    Raises:
        StageError: a training was told to stop, or its process was killed.
    """
    try:
        yield
    except StageError:
        raise
    except Exception as error:  # converters and runtimes raise what they like
        if candidate.spec is None:
            raise
        candidate.package = None
        candidate.reason = f"failed: {' '.join(str(error).split())[:300] or type(error).__name__}"


def judge(candidate: Candidate, task: LearningTask, metric: str, exams: Mapping[str, Exam]) -> None:
    """Add what the candidate's answers are worth on each split, beside the exported graph's; NaN where one is none."""
    if candidate.package is None:
        return
    with _or_reason(candidate):
        for split, exam in exams.items():
            candidate.figures |= _figures(candidate.package, task, metric, split, exam)


def _figures(package: Package, task: LearningTask, metric: str, split: str, exam: Exam) -> dict[str, Any]:
    outputs = replay.outputs_of(package, exam.payloads)
    metrics, before = (task.metrics(answers, exam.rows.targets) for answers in (outputs, exam.answers))
    figures = {
        f"{split}_metrics": metrics,
        split: metrics[metric],
        f"{split}_drop": (before[metric] - metrics[metric]) * direction(metric),
        f"{split}_mismatch": replay.label_mismatch(package.output_codec, outputs, exam.answers),
    }
    if split == "validation":
        whole, parts = (task.details(answers, exam.rows) for answers in (exam.answers, outputs))
        figures["parts"] = _drops(whole, parts, metric)
    return figures


def _drops(before: Mapping[str, Mapping[str, float]], now: Mapping[str, Any], metric: str) -> dict[str, float]:
    """How much worse each part of the split is answered: by the metric where parts have it, or F1, or their first."""
    drops: dict[str, float] = {}
    for part, figures in before.items():
        known = [name for name, value in figures.items() if isinstance(value, float)]
        chosen = next((name for name in (metric, "f1", *known) if name in known), None)
        if chosen is not None and chosen in now.get(part, {}):
            drops[part] = (figures[chosen] - now[part][chosen]) * direction(chosen)
    return drops


def clock(candidates: Sequence[Candidate], samples: np.ndarray) -> None:
    """Add ``latency_ms`` of one row and ``rows_per_second`` of a batch, on one thread: medians, taken in turn.

    In turn, so that whatever else the machine does falls on all of them.
    """
    one, many = samples[:1], np.resize(samples, (_BATCH, *samples.shape[1:]))
    for candidate in candidates:
        if candidate.package is not None:
            with _or_reason(candidate):
                candidate.package.run(many)
    timed = [candidate for candidate in candidates if candidate.package is not None]
    times: dict[tuple[int, bool], list[float]] = {}
    for turn in range(_ROUNDS):
        for index, candidate in enumerate(timed):
            for large, batch in ((False, one), (True, many)):
                taken = _times(candidate.opened, batch)
                if turn:  # the first warms up
                    times.setdefault((index, large), []).extend(taken)
    for index, candidate in enumerate(timed):
        candidate.figures["latency_ms"] = 1_000 * statistics.median(times[index, False])
        candidate.figures["rows_per_second"] = _BATCH / statistics.median(times[index, True])


def _times(package: Package, batch: np.ndarray) -> list[float]:
    taken: list[float] = []
    while not taken or sum(taken) < _SECONDS:
        began = time.perf_counter()
        package.run(batch)
        taken.append(time.perf_counter() - began)
    return taken


def choose(candidates: Sequence[Candidate], settings: Compress, metric: str) -> Candidate:
    """The smallest (or the fastest) that keeps to the limits; the first candidate is the exported graph.

    The others are told why they are not taken.
    """
    exported = candidates[0]
    for candidate in candidates[1:]:
        if not candidate.reason:
            candidate.reason = _refusal(candidate.figures, exported.figures, settings, metric)
    fit = [candidate for candidate in candidates[1:] if not candidate.reason]
    keys = ("bytes", "latency_ms") if settings.prefer == "size" else ("latency_ms", "bytes")
    best = min(fit, key=lambda candidate: [candidate.figures[key] for key in keys], default=exported)
    for candidate in fit:
        if candidate is not best:
            candidate.reason = f"{best.name} is {'smaller' if settings.prefer == 'size' else 'faster'}"
    return best


def _refusal(figures: Mapping[str, Any], exported: Mapping[str, Any], settings: Compress, metric: str) -> str:
    drop, mismatch = figures["validation_drop"], figures["validation_mismatch"]
    slower = figures["latency_ms"] / exported["latency_ms"]
    smaller = figures["bytes"] / exported["bytes"]
    if not drop <= settings.max_metric_drop:  # so that a NaN is refused
        return f"{metric} is {drop:.4f} worse; {settings.max_metric_drop:g} is allowed"
    if mismatch is not None and mismatch > settings.max_mismatch:
        return f"{mismatch:.1%} of the labels differ; {settings.max_mismatch:.1%} is allowed"
    if slower > settings.max_slowdown:
        return f"it takes {slower:.2f} times as long; {settings.max_slowdown:g} is allowed"
    if smaller > _SMALLER and slower > _FASTER:
        return "it is neither smaller nor faster"
    return ""
