"""Learning task `tabular_classification`: one label per table row."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from lepton_tasks.core.errors import ConfigError
from lepton_tasks.core.protocols import Outputs, Rows
from lepton_tasks.core.registry import did_you_mean
from lepton_tasks.data.feature_tables import table_columns
from lepton_tasks.learning.classification import PROBABILITIES, Classification
from lepton_tasks.learning.curves import auc, calibration_error
from lepton_tasks.learning.tabular import Tabular

if TYPE_CHECKING:
    from torch import nn


class TabularClassification(Tabular, Classification):
    """Label probabilities per row; of two labels, the second is the positive one.

    Args:
        fitted: Of the extractor ``table``.
        labels: Class names.
        groups: Categorical columns by whose values the model card reports metrics, e.g. ``sex``.
    """

    metric: ClassVar[str] = "auc"

    def __init__(self, fitted: Mapping[str, Any], labels: Sequence[str], *, groups: Sequence[str] = ()) -> None:
        super().__init__(fitted, labels)
        self.groups = tuple(groups)

    @property
    def width(self) -> int:
        """One logit per label."""
        return len(self.labels)

    def answer(self) -> nn.Module:
        """Softmax of the logits."""
        from torch import nn

        return nn.Softmax(dim=1)

    def score(self, metrics: Mapping[str, float]) -> tuple[float, ...]:
        """AUC; ties are broken by the lower loss."""
        return metrics["auc"], -metrics["loss"]

    def metrics(self, outputs: Outputs, targets: np.ndarray) -> dict[str, float]:
        """Metrics of `Classification`, AUC, and the calibration error.

        The AUC is that of the positive label, or with more than two labels the mean over them; 0.5 if all rows have
        one label.
        """
        probabilities = outputs[PROBABILITIES]
        areas = [auc(probabilities[:, label], targets == label) for label in self._judged]
        known = [area for area in areas if np.isfinite(area)]
        return {
            "auc": float(np.mean(known)) if known else 0.5,
            **super().metrics(outputs, targets),
            "calibration_error": float(
                np.mean([calibration_error(probabilities[:, label], targets == label) for label in self._judged])
            ),
        }

    def details(self, outputs: Outputs, rows: Rows) -> dict[str, dict[str, float]]:
        """Metrics of each label, and of each value of `groups`.

        Per group: row count, accuracy and, with two labels, the share of positive rows, the share predicted positive
        (selection rate), and the true and false positive rates.
        """
        found = super().details(outputs, rows)
        said = outputs[PROBABILITIES].argmax(axis=1)
        for name, mine in self._grouped(rows.inputs):
            true, answered = rows.targets[mine], said[mine]
            figures = {"rows": int(mine.sum()), "accuracy": float((true == answered).mean())}
            if len(self.labels) == 2:
                figures |= {
                    "positive_share": float((true == 1).mean()),
                    "selection_rate": float((answered == 1).mean()),
                    "true_positive_rate": _share(answered[true == 1] == 1),
                    "false_positive_rate": _share(answered[true == 0] == 1),
                }
            found[name] = figures
        return found

    def plots(self, folder: Path, rows: Rows, outputs: Outputs, *, worst: int) -> list[Path]:
        """``confusion_matrix.png``, ``roc.png`` and ``calibration.png``."""
        from lepton_tasks.learning.probability_plots import calibration_plot, roc_plot

        curves = {self.labels[label]: outputs[PROBABILITIES][:, label] for label in self._judged}
        positive = {self.labels[label]: rows.targets == label for label in self._judged}
        return [
            *super().plots(folder, rows, outputs, worst=worst),
            roc_plot(folder / "roc.png", curves, positive),
            calibration_plot(folder / "calibration.png", curves, positive),
        ]

    @property
    def _judged(self) -> list[int]:
        """Labels to evaluate: with two, only the positive one."""
        return [1] if len(self.labels) == 2 else list(range(len(self.labels)))

    def _grouped(self, inputs: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
        """Each non-empty group value, with its rows, bool [N]."""
        numbers, codes = table_columns(self.fitted)
        values = {f["name"]: f["values"] for f in self.fitted["features"] if f["kind"] == "category"}
        for group in self.groups:
            if group not in values:
                raise ConfigError(
                    f"{group!r} is no column of categories among the features.",
                    where="task.params.groups",
                    fix=did_you_mean(group, values),
                )
            column = inputs[:, len(numbers) + codes.index(group)]
            for code, value in enumerate(["(unknown)", "(missing)", *values[group]]):
                mine = column == code
                if mine.any():
                    yield f"{group}: {value}", mine


def _share(chosen: np.ndarray) -> float:
    return float(chosen.mean()) if len(chosen) else 0.0
