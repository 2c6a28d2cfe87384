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
    """Remove whole channels from the network; the output layers and attention are kept.

    Then it is trained by the same course, with the network before as teacher, which takes epochs of a training. For
    convolutional and dense networks, transformers of texts and many networks of timm and torchvision.

    Args:
        share: Of the channels of each layer that go, above 0 and below 1.
        epochs: Passes over the training split; a quarter of the use case's if nothing is said.
        rate: Of the use case's learning rate.
        teacher: How much the answers of the network before count beside the targets, in [0, 1].
        temperature: How far its probabilities are evened out.
        then: A compression of the pruned graph.

    Source: Fang et al., "DepGraph: towards any structural pruning", 2023.
    """

    prunes = True  # `lepton validate` asks whether the network can be

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
