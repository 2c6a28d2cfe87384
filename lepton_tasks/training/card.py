"""Write the model card from measurements."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lepton_tasks.core.energy import ESTIMATED, MEASURED, WATTS_PER_CORE
from lepton_tasks.core.use_case import UseCase
from lepton_tasks.training.energy import energies

_KEPT = {
    "best": "The best epoch was chosen on the validation split.",
    "last": "The last epoch was kept; the validation split chose nothing.",
}


def model_card(
    use_case: UseCase,
    *,
    checkpoint: Mapping[str, Any],
    metrics: Mapping[str, Any],
    data: Mapping[str, Any],
    interval: tuple[float, float] | None,
    tracked: bool = True,
) -> str:
    """A model card in Markdown.

    Args:
        use_case: Source of title, description, task, features and gate.
        checkpoint: Contents of ``checkpoint.json``.
        metrics: Contents of the evaluation's ``metrics.json``.
        data: ``digest`` of the features and ``rows`` by split.
        interval: 95 % confidence interval of the test accuracy, if measured.
        tracked: Whether the training has an MLflow run.

    Source: the headings follow Mitchell et al., "Model cards for model reporting", 2019.
    """
    train, model = checkpoint["train"], checkpoint["model"]
    rows = data["rows"]
    parts = [
        f"# {use_case.title or use_case.name}",
        "## Intended use",
        use_case.description.strip() or "Not stated.",
        "## Data",
        _table(("split", "rows"), [(split, f"{rows[split]:,}") for split in ("train", "validation", "test")]),
        f"Prepared by `{use_case.features.name}` {_inline(use_case.features.params)}. "
        f"Digest of the arrays: `{data['digest']}`.",
        "## Metrics",
        f"{_KEPT[train['keep']]} The baseline is a trivial predictor.",
        _table(
            ("metric", "test", "validation", "baseline"),
            [
                (name, *(f"{metrics[split][name]:.4f}" for split in ("test", "validation", "baseline")))
                for name in metrics["test"]
            ],
        ),
        *_details(metrics["details"]),
        "## Training",
        f"`{model['name']}` {_inline(model['params'])} with {checkpoint['parameters']:,} parameters; "
        f"the {train['keep']} of {checkpoint['epochs']} epochs (epoch {checkpoint['best_epoch']}, counted from 0); "
        f"{checkpoint['seconds']:.0f} s; seed {checkpoint['seed']}. {_energy(checkpoint)}"
        f"{'Its MLflow run has a table of the layers and a plot of the learning rate.' if tracked else ''}".rstrip(),
        _table(("setting", "value"), [(f"`{key}`", f"`{_plain(value)}`") for key, value in train.items()]),
        "## Limits",
        "\n".join(f"- {line}" for line in _limits(rows, metrics["details"], checkpoint["labels"], interval)),
    ]
    return "\n\n".join(parts) + "\n"


def _energy(checkpoint: Mapping[str, Any]) -> str:
    """Training energy and how it was measured; empty if it was not recorded."""
    told = {
        MEASURED: "the hardware's counters",
        ESTIMATED: f"an estimate at {WATTS_PER_CORE} W per busy core",
    }
    return "".join(
        f"Training took {value:.3g} Wh ({told.get(name, f'{name}, without the GPU')}). "
        for name, value in energies(checkpoint).items()
    )


def _limits(
    rows: Mapping[str, int],
    details: Mapping[str, Mapping[str, float]],
    labels: Sequence[str],
    interval: tuple[float, float] | None,
) -> list[str]:
    lines = []
    if labels:
        lines.append(f"It knows the {len(labels)} labels it was trained on and assigns one of them to any input.")
    if interval is not None:
        lines.append(
            f"With {rows['test']:,} test rows, accuracy on data of the same kind is between {interval[0]:.1%} and"
            f" {interval[1]:.1%} (95 % interval)."
        )
    scored = {name: figures for name, figures in details.items() if "f1" in figures}
    if scored:
        weakest = min(scored, key=lambda name: scored[name]["f1"])
        figures = scored[weakest]
        lines.append(f"It is weakest on {weakest!r}: F1 {figures['f1']:.3f} on {figures['rows']} rows.")
    lines.append("It was not tested on data from other sources.")
    return lines


def _details(details: Mapping[str, Mapping[str, float]]) -> list[str]:
    """One table for all parts with the same metrics."""
    tables: dict[tuple[str, ...], list[tuple[str, ...]]] = {}
    for name, figures in details.items():
        tables.setdefault(tuple(figures), []).append((name, *map(_figure, figures.values())))
    made = [_table(("part", *head), rows) for head, rows in tables.items()]
    return ["## Parts of the test split", *made] if made else []


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def _figure(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.4f}"


def _plain(value: Any) -> str:
    if isinstance(value, dict) and set(value) == {"name", "params"}:
        return f"{value['name']} {_inline(value['params'])}".strip()
    if isinstance(value, list):
        return ", ".join(_plain(item) for item in value) or "none"
    return str(value)


def _inline(params: Mapping[str, Any]) -> str:
    return f"({', '.join(f'{key}={value}' for key, value in params.items())})" if params else ""
