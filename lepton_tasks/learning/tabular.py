"""Shared code of the learning tasks on tables."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from lepton_tasks.core.protocols import Rows
from lepton_tasks.data.feature_tables import open_table, table_columns
from lepton_tasks.learning.task import Task

if TYPE_CHECKING:
    from torch import nn


class Tabular(Task):
    """Stored rows are float32 [N, numbers + codes]; requests are raw table rows.

    Subclasses define `width`, the network's output size, and `answer`, the output transformation.
    """

    features: ClassVar[tuple[str, ...]] = ("table",)
    network_parameters: ClassVar[tuple[str, ...]] = ("numbers", "codes", "outputs")

    @property
    def width(self) -> int:
        """Length of the network's output."""
        raise NotImplementedError

    def answer(self) -> nn.Module:
        """Module that maps the network's outputs [N, width] to the task's."""
        raise NotImplementedError

    def network_arguments(self) -> dict[str, Any]:
        """``numbers`` (columns), ``codes`` (sizes of the columns), ``outputs``."""
        numbers, codes = table_columns(self.fitted)
        sizes = {feature["name"]: feature["size"] for feature in self.fitted["features"] if "size" in feature}
        return {"numbers": len(numbers), "codes": [sizes[name] for name in codes], "outputs": self.width}

    def training_rows(self, features: Path) -> Rows:
        """The stored rows of the training split, in memory."""
        return open_table(features, "train", self.fitted)

    def evaluation_rows(self, features: Path, split: str) -> Rows:
        """The stored rows of the split, in memory."""
        return open_table(features, split, self.fitted)

    def trainable(self, network: nn.Module) -> nn.Module:
        """Stored rows -> raw network outputs."""
        from torch import nn

        from lepton_tasks.models.tables import StoredTable

        return StoredTable(network, self._numbers, nn.Identity())

    def evaluable(self, network: nn.Module) -> nn.Module:
        """Stored rows -> predictions."""
        from lepton_tasks.models.tables import StoredTable

        return StoredTable(network, self._numbers, self.answer())

    def deployable(self, network: nn.Module) -> nn.Module:
        """Rows float64 [N, columns] of `TabularCodec` -> predictions; feature extraction is in the graph."""
        from lepton_tasks.models.tables import ServedTable

        return ServedTable(network, self.fitted, self.answer())

    @property
    def _numbers(self) -> int:
        return len(table_columns(self.fitted)[0])
