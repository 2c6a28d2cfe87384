"""Table and plot of the compression candidates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def comparison_table(rows: Sequence[Mapping[str, Any]], chosen: str, metric: str) -> str:
    """Markdown table of all graphs: size, speed, metric and its loss, and the decision.

    Args:
        rows: One per graph, the exported one first: ``name``, ``reason`` and measurements.
        chosen: Name of the chosen graph.
        metric: Name of the metric.
    """
    head = ["graph", "KB", "ms per row", "rows/s", f"validation {metric}", "loss", "labels changed"]
    head += ["largest loss by part"]
    head += [f"test {metric}", "loss", ""]
    lines = [head, ["---"] * len(head)]
    for row in rows:
        part, drop = max(row.get("parts", {}).items(), key=lambda item: item[1], default=("", None))
        mismatch = row.get("validation_mismatch")
        lines.append(
            [
                row["name"],
                _number(row.get("bytes"), "{:,.1f}", 1 / 1024),
                _number(row.get("latency_ms"), "{:.3f}"),
                _number(row.get("rows_per_second"), "{:,.0f}"),
                _number(row.get("validation"), "{:.4f}"),
                _number(row.get("validation_drop"), "{:+.4f}"),
                _number(mismatch, "{:.1%}"),
                f"{drop:+.4f} ({part})" if drop is not None else "",
                _number(row.get("test"), "{:.4f}"),
                _number(row.get("test_drop"), "{:+.4f}"),
                "**served**" + (f"; {row['reason']}" if row["reason"] else "")
                if row["name"] == chosen
                else row["reason"],
            ]
        )
    table = "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines)
    return (
        f"{table}\n\nOne row and batches of 32, one thread, medians of alternating runs. Graphs are chosen on the "
        "validation split; losses compare with the exported graph on the same requests.\n"
    )


def _number(value: float | None, form: str, scale: float = 1.0) -> str:
    return "" if value is None else form.format(value * scale)


def comparison_plot(path: Path, rows: Sequence[Mapping[str, Any]], chosen: str, metric: str) -> None:
    """Plot size, time and loss relative to the exported graph, as a PNG file."""
    from matplotlib.figure import Figure

    measured = [row for row in rows if "latency_ms" in row]
    first, names = measured[0], [row["name"] for row in measured]
    panels = {
        "size relative to the exported graph": [row["bytes"] / first["bytes"] for row in measured],
        "time per row relative to the exported graph": [row["latency_ms"] / first["latency_ms"] for row in measured],
        f"loss of validation {metric}": [row["validation_drop"] for row in measured],
    }
    figure = Figure(figsize=(11, 1.2 + 0.45 * len(measured)), layout="constrained")
    colours = ["tab:green" if name == chosen else "tab:grey" for name in names]
    for axes, (title, values) in zip(figure.subplots(1, 3, sharey=True), panels.items(), strict=True):
        bars = axes.barh(names, values, color=colours)
        axes.bar_label(bars, fmt="{:.3g}", padding=3)
        axes.set_title(title, fontsize=9)
        axes.margins(x=0.2)
    figure.axes[0].invert_yaxis()
    figure.savefig(path, dpi=110)
