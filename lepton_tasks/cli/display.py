"""Terminal display of a run: one line per stage with state, duration and one key fact."""

from __future__ import annotations

import contextlib
import json
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from lepton_tasks.core.artifacts import ArtifactRef, Fact
from lepton_tasks.core.context import Progress
from lepton_tasks.stages.pipeline import Stage
from lepton_tasks.stages.runner import StageResult

_HEADLINES = {
    "ingest": "{rows:,} rows, {columns} columns, {refused:,} refused",
    "validate_raw": "{expectations} expectations, {failed} failed, {warnings} warnings",
    "clean": "{rows:,} rows kept, {refused:,} refused",
    "split": "{train_rows:,} train, {validation_rows:,} validation, {test_rows:,} test rows",
    "fit_features": "{rows:,} training rows; {filled:,} values filled, {outside:,} out of bounds",
    "transform": "{train_rows:,} training rows, {refused:,} refused, {bytes:,} bytes of shards",
    "validate_cleaned": "{expectations} expectations, {failed} failed, {warnings} warnings",
    "validate_features": "{expectations} expectations, {failed} failed, {warnings} warnings",
    "tune": "best of {trials} trials: validation {metric} {validation:.4f} (own values {own_value:.4f})",
    "train": "validation {metric} {validation:.4f}, kept epoch {kept} of {epochs}",
    "evaluate": "test {metric} {test:.4f} (trivial predictor {baseline:.4f})",
    "gate": "passed; previous champion: {champion}",
    "export": "{onnx_bytes:,} bytes of ONNX",
    "compress": "{chosen}: {size_ratio:.2f} of the size, {latency_ratio:.2f} of the time",
    "verify_package": "largest difference {max_difference:.1e}",
    "register": "{name} version {version}",
    "deploy": "version {version} at {url}",
}
_IMAGE_HEADLINES = {
    "ingest": "{rows:,} rows, {classes} classes",
    "fit_features": "{rows:,} training rows, {classes} classes",
    "transform": "{train_rows:,} training rows, {bytes:,} bytes of shards",
}
_ONE = re.compile(r"(?<![\d.,])1 ((?:training |test )?)(class(?=es)|expectation|row|column|warning|value|trial)e?s\b")
_PLAIN_SECONDS = 1.0  # between lines of progress on a plain stream
_ENDED = ("success", "reused", "failed", "skipped")
_STYLES = {"success": "green", "reused": "cyan", "failed": "bold red", "running": "yellow", "skipped": "dim"}


def headline(stage: str, facts: Mapping[str, Fact]) -> str:
    """The key fact of a stage's result."""
    return singular(_headline(stage, facts))


def singular(text: str) -> str:
    """The text with ``1 row`` in place of ``1 rows``."""
    return _ONE.sub(r"1 \1\2", text)


def _headline(stage: str, facts: Mapping[str, Fact]) -> str:
    measured: dict[str, Fact] = {
        part: facts.get(f"{part}_{facts.get('metric')}") for part in ("validation", "test", "baseline")
    }
    known = {key: "none" if value is None else value for key, value in facts.items()}
    measured["kept"] = int(facts.get("best_epoch") or 0) + 1  # facts count from 0, as MLflow does
    for lines in (_HEADLINES, _IMAGE_HEADLINES):
        with contextlib.suppress(KeyError, ValueError, TypeError):
            return lines[stage].format_map({**known, **measured})
    return ", ".join(f"{key.replace('_', ' ')} {_short(value)}" for key, value in list(facts.items())[:3])


def _short(value: Fact) -> str:
    return f"{value:.4g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)


class RunDisplay:
    """Shows the progress of stages: a live table on a terminal, plain lines elsewhere.

    Args:
        console: Console to write to.
        title: Title of the table.
        stages: Names of the stages, in order.
    """

    def __init__(self, console: Console, title: str, stages: Sequence[str]) -> None:
        self._console, self._title, self._stages = console, title, stages
        self._rows: dict[str, tuple[str, float | None, str]] = {}
        self._held, self._printed = "", -_PLAIN_SECONDS
        self._live = Live(console=console, refresh_per_second=4) if console.is_terminal else None

    def __enter__(self) -> RunDisplay:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._print_held()
        if self._live:
            self._live.stop()

    def started(self, stage: Stage) -> None:
        """Show that a stage started."""
        self.show(stage.name, "running", None, "")

    def progressed(self, progress: Progress) -> None:
        """Show the progress of a stage."""
        text = str(progress).removeprefix(f"{progress.stage}: ")
        if self._live:
            self.show(progress.stage, "running", progress.seconds, text)
            return
        self._held = f"  {progress}"
        if (now := time.monotonic()) - self._printed >= _PLAIN_SECONDS:
            self._printed = now
            self._print_held()

    def _print_held(self) -> None:
        """Print the last progress unless it is printed already."""
        if self._held:
            self._console.print(self._held, highlight=False, soft_wrap=True)
        self._held = ""

    def ended(self, result: StageResult) -> None:
        """Show the result of a stage."""
        self._print_held()
        state = "reused" if result.cached else result.state
        self.show(result.stage, state, result.seconds, _outcome(result))

    def show(self, stage: str, state: str, seconds: float | None, fact: str) -> None:
        """Update a stage's line; without a terminal, print it once, when the stage has ended."""
        known = self._rows.get(stage)
        self._rows[stage] = (state, seconds, fact)
        if self._live:
            self._live.update(self._table())
        elif state in _ENDED and (known is None or known[0] != state):
            duration = "" if seconds is None else f"{seconds:7.1f} s"
            self._console.print(f"  {stage:<18}{state:<9}{duration:>9}  {fact}", highlight=False, soft_wrap=True)

    def _table(self) -> Table:
        table = Table(title=self._title, title_justify="left", box=None, padding=(0, 1))
        for name, justify in (("stage", "left"), ("state", "left"), ("seconds", "right"), ("", "left")):
            table.add_column(name, justify=justify)  # type: ignore[arg-type]  # a literal, lost by the tuple
        for stage in self._stages:
            state, seconds, fact = self._rows.get(stage, ("", None, ""))
            style = _STYLES.get(state, "dim")
            table.add_row(stage, f"[{style}]{state}[/]", "" if seconds is None else f"{seconds:.1f}", fact)
        return table


def _outcome(result: StageResult) -> str:
    if result.error is not None:
        return str(result.error)
    return headline(result.stage, result.ref.facts) if result.ref else ""


def summary(run_id: str, stages: Mapping[str, Mapping[str, Any]], refs: Mapping[str, ArtifactRef]) -> dict[str, Any]:
    """The JSON object that `lepton run --json` prints."""
    version, endpoint = refs.get("model_version"), refs.get("endpoint")
    facts = refs["evaluation"].facts if "evaluation" in refs else {}
    return {
        "run_id": run_id,
        "ok": all(stage["state"] != "failed" for stage in stages.values()),
        "stages": stages,
        "metrics": {k: v for k, v in facts.items() if isinstance(v, int | float)},
        "model_version": version.facts.get("version") if version else None,
        "endpoint": endpoint.facts.get("url") if endpoint else None,
    }


def answer_line(answer: Mapping[str, Any]) -> str:
    """One answer of a model on one line: label and probability, or the whole answer."""
    if "label" in answer and "probability" in answer:
        return f"{answer['label']}  probability {answer['probability']:.4f}"
    return json.dumps(answer, ensure_ascii=False)
