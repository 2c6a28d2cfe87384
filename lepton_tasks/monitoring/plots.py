"""Pictures of what monitors measured, over the checks."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_tasks.monitoring.distribution import Shift

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LINES = 8  # columns of which the course is drawn
_BARS = 4  # columns of which the bins are drawn
_LONGEST = 18  # letters of a bin's name
_WARNED, _BAD = "#e8a33d", "#c8403a"


def plot_drift(
    path: Path, history: Sequence[Mapping[str, Any]], shifts: Sequence[Shift], *, moderate: float, large: float
) -> None:
    """Draw the index of the worst columns over the checks, and below how their values are distributed.

    Args:
        path: The PNG file.
        history: Of each check, oldest first: ``time``, ``psi`` by column.
        shifts: Of the latest check, the largest first.
        moderate: Index from which drift is a warning.
        large: Index from which it is critical.
    """
    from matplotlib.figure import Figure

    shown = shifts[:_BARS]
    figure = Figure(figsize=(11, 7), layout="constrained")
    above, below = figure.subfigures(2, 1, squeeze=False, height_ratios=(1, 1.2))[:, 0]
    axes = above.subplots()
    times = _times(history)
    for shift in shifts[:_LINES]:
        axes.plot(times, [check["psi"].get(shift.column, np.nan) for check in history], marker="o", label=shift.column)
    axes.axhline(moderate, color=_WARNED, linestyle=":", label="warning")
    axes.axhline(large, color=_BAD, linestyle=":", label="critical")
    axes.set(ylabel="PSI", title="Drift from the training and test data, by column")
    _from_zero(axes)
    _over_time(axes)
    for one, shift in zip(np.atleast_1d(below.subplots(1, len(shown))), shown, strict=True):
        names, places = [name[:_LONGEST] for name in shift.bins.names], np.arange(len(shift.counts))
        for offset, counts, label in ((0.2, shift.bins.counts, "reference"), (-0.2, shift.counts, "now")):
            one.barh(places - offset, np.array(counts) / max(1, sum(counts)) * 100, height=0.4, label=label)
        one.set_yticks(places, names, fontsize=7)
        one.invert_yaxis()
        one.set_title(f"{shift.column} (PSI {shift.index:.2f})", fontsize=9)
        one.set_xlabel("% of the samples", fontsize=8)
        one.legend(fontsize=7, loc="lower right")
    figure.savefig(path, dpi=110)


def plot_performance(
    path: Path, history: Sequence[Mapping[str, Any]], limits: Mapping[str, Mapping[str, float]]
) -> None:
    """Draw each live metric with its 95 % interval over the checks, and the times to answer.

    Args:
        path: The PNG file.
        history: Of each check, oldest first: ``time``, ``quality`` (by metric its value, low and high end) and
            ``latency_ms`` by percentile; either may be absent.
        limits: Lines by metric: value by name, such as that of the test split.
    """
    from matplotlib.figure import Figure

    metrics = list(dict.fromkeys(name for check in history for name in check.get("quality", ())))
    figure = Figure(figsize=(11, 3 + 3 * len(metrics)), layout="constrained")
    parts = np.atleast_1d(figure.subplots(1 + len(metrics), 1))
    for axes, metric in zip(parts, metrics, strict=False):
        judged = [check for check in history if metric in check.get("quality", ())]
        value, low, high = np.array([check["quality"][metric] for check in judged]).T
        ends = np.maximum(0, [value - low, high - value])  # an interval may end a rounding error short of the value
        axes.errorbar(_times(judged), value, ends, marker="o", capsize=3, label="live, 95 %")
        for (name, limit), colour in zip(limits.get(metric, {}).items(), ("grey", _BAD), strict=False):
            axes.axhline(limit, color=colour, linestyle=":", label=f"{name}: {limit:.4g}")
        axes.set(ylabel=metric, title=f"{metric} by feedback")
        _over_time(axes)
    timed = [check for check in history if check.get("latency_ms")]
    for name in ("p50", "p99"):
        parts[-1].plot(
            _times(timed), [check["latency_ms"].get(name, np.nan) for check in timed], marker="o", label=name
        )
    parts[-1].set(ylabel="ms", title="Time to answer")
    _from_zero(parts[-1])
    _over_time(parts[-1])
    figure.savefig(path, dpi=110)


def plot_course(path: Path, history: Sequence[Mapping[str, Any]], lines: Mapping[str, str]) -> None:
    """Draw figures over the checks, each in a part of its own.

    Args:
        path: The PNG file.
        history: Of each check, oldest first: ``time`` and the figures.
        lines: What each figure is called, with its unit, by its key.
    """
    from matplotlib.figure import Figure

    known = {key: title for key, title in lines.items() if any(check.get(key) is not None for check in history)}
    if not known:
        return
    figure = Figure(figsize=(11, 1 + 1.8 * len(known)), layout="constrained")
    for axes, (key, title) in zip(
        np.atleast_1d(figure.subplots(len(known), 1, sharex=True)), known.items(), strict=True
    ):
        there = [check for check in history if check.get(key) is not None]
        axes.plot(_times(there), [check[key] for check in there], marker="o")
        axes.set(title=title)
        _from_zero(axes)
        _over_time(axes)
    figure.savefig(path, dpi=110)


def _times(history: Sequence[Mapping[str, Any]]) -> list[dt.datetime]:
    return [dt.datetime.fromtimestamp(check["time"], dt.UTC) for check in history]


def _from_zero(axes: Axes) -> None:
    """Let the axis of values begin at 0, with some room above the highest one."""
    values = np.concatenate([np.asarray(line.get_ydata(), np.float64) for line in axes.get_lines()] or [np.zeros(1)])
    highest = float(np.max(values, initial=0.0, where=np.isfinite(values)))
    axes.set_ylim(0, 1.1 * highest if highest > 0 else 1)


def _over_time(axes: Axes) -> None:
    """Times in UTC below, a grid, and the names of the lines beside them."""
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

    locator = AutoDateLocator()  # type: ignore[no-untyped-call]  # matplotlib's stubs are partial
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))  # type: ignore[no-untyped-call]
    axes.grid(alpha=0.3)
    axes.set_xlabel("UTC", fontsize=8)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="upper left", bbox_to_anchor=(1, 1), fontsize=8)
