"""Compression `distilled`: a smaller network trained to imitate the exported one."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pydantic

from lepton_tasks.core.catalogue import COMPRESSIONS
from lepton_tasks.core.errors import ConfigError
from lepton_tasks.core.release_protocols import CompressionInput
from lepton_tasks.core.spec import ComponentSpec


class Distilled:
    """Train a smaller network with the exported one as teacher; takes as long as a training.

    Args:
        student: A network of the catalogue that suits the learning task.
        share: Weight of the distillation loss in the total, in [0, 1].
        temperature: Softmax temperature of the teacher's probabilities.
        epochs: Training epochs; the use case's by default.
        then: A compression of the student's graph.
    """

    def __init__(
        self,
        *,
        student: ComponentSpec,
        share: float = 0.5,
        temperature: float = 2.0,
        epochs: pydantic.PositiveInt | None = None,
        then: ComponentSpec | None = None,
    ) -> None:
        if not 0 <= share <= 1 or temperature <= 0:
            raise ConfigError("`share` is from 0 to 1, and `temperature` above 0.", where="distilled")
        self.student, self.share, self.temperature = student, share, temperature
        self.epochs, self.then = epochs, then

    def compress(self, model: CompressionInput, output: Path) -> None:
        """Write `output`."""
        how = {"share": self.share, "temperature": self.temperature, "epochs": self.epochs}
        if self.then is None:
            model.teach(self.student, output, **how)
            return
        with tempfile.TemporaryDirectory() as folder:
            graph = Path(folder) / "student.onnx"
            model.teach(self.student, graph, **how)
            then = COMPRESSIONS.build(self.then.name, self.then.params, where="distilled.then")
            then.compress(model._replace(graph=graph), output)
