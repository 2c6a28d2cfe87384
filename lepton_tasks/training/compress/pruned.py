"""Compression `pruned`: remove the least important channels, then fine-tune."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pydantic

from lepton_tasks.core.catalogue import COMPRESSIONS
from lepton_tasks.core.errors import ConfigError
from lepton_tasks.core.release_protocols import CompressionInput
from lepton_tasks.core.spec import ComponentSpec


class Pruned:
    """Remove whole channels from the network, except in output layers and attention.

    The network is then fine-tuned with the unpruned one as teacher. For convolutional and dense networks, text
    transformers and many networks of timm and torchvision.

    Args:
        share: Fraction of each layer's channels to remove, above 0 and below 1.
        epochs: Fine-tuning epochs; a quarter of the use case's by default.
        rate: Factor of the use case's learning rate.
        teacher: Weight of the distillation loss in the total, in [0, 1].
        temperature: Softmax temperature of the teacher's probabilities.
        then: A compression of the pruned graph.

    Source: Fang et al., "DepGraph: towards any structural pruning", 2023.
    """

    prunes = True  # `lepton validate` checks that the network is prunable

    def __init__(
        self,
        *,
        share: float = 0.5,
        epochs: pydantic.PositiveInt | None = None,
        rate: pydantic.PositiveFloat = 0.3,
        teacher: float = 0.5,
        temperature: pydantic.PositiveFloat = 2.0,
        then: ComponentSpec | None = None,
    ) -> None:
        if not 0 < share < 1 or not 0 <= teacher <= 1:
            raise ConfigError("`share` is above 0 and below 1, and `teacher` from 0 to 1.", where="pruned")
        self.share, self.epochs, self.rate, self.then = share, epochs, rate, then
        self.teacher, self.temperature = teacher, temperature

    def compress(self, model: CompressionInput, output: Path) -> None:
        """Write `output`."""
        how = {"share": self.teacher, "temperature": self.temperature, "epochs": self.epochs}
        how |= {"prune": self.share, "rate": self.rate}
        if self.then is None:
            model.teach(None, output, **how)
            return
        with tempfile.TemporaryDirectory() as folder:
            graph = Path(folder) / "pruned.onnx"
            model.teach(None, graph, **how)
            COMPRESSIONS.build(self.then.name, self.then.params, where="pruned.then").compress(
                model._replace(graph=graph), output
            )
