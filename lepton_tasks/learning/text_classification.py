"""Learning task `text_classification`: one label per text."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from lepton_tasks.core.protocols import Outputs, Rows
from lepton_tasks.data.feature_arrays import check_texts
from lepton_tasks.learning.classification import PROBABILITIES, Classification

if TYPE_CHECKING:
    from torch import nn

ATTENTION = "attention"


class TextClassification(Classification):
    """One label per text (sentiment, topic, language, ...); rows are token ids int32 [N, T].

    Networks also return the attention weight of each token, float32 [N, T].
    """

    features: ClassVar[tuple[str, ...]] = ("text",)
    outputs: ClassVar[tuple[str, ...]] = (PROBABILITIES, ATTENTION)
    network_parameters: ClassVar[tuple[str, ...]] = ("vocabulary", "num_classes")

    def network_arguments(self) -> dict[str, Any]:
        """``vocabulary`` and ``num_classes``."""
        return {"vocabulary": self.fitted["vocabulary"], "num_classes": len(self.labels)}

    def initialise(self, network: nn.Module) -> None:
        """Load the word vectors, if any, into the network's `embedding`."""
        import torch

        from lepton_tasks.data.extractors.vectors import word_vectors
        from lepton_tasks.models.tokens import TokenEmbedding

        vectors = word_vectors(self.fitted)
        if vectors is not None and isinstance(network.embedding, TokenEmbedding):
            network.embedding.begin_with(torch.from_numpy(vectors))

    def training_rows(self, features: Path) -> Rows:
        """The training split; batches are trimmed to their longest text."""
        check_texts(features)
        return super().training_rows(features)._replace(cut=True)

    def trainable(self, network: nn.Module) -> nn.Module:
        """The network's first output, the logits."""
        from lepton_tasks.models.texts import Logits

        return Logits(network)

    def deployable(self, network: nn.Module) -> nn.Module:
        """Serving graph: tokens -> probabilities float32 [N, K] and attention float32 [N, T]."""
        from lepton_tasks.models.texts import TextClassifier

        return TextClassifier(network)

    def plots(self, folder: Path, rows: Rows, outputs: Outputs, *, worst: int) -> list[Path]:
        """``confusion_matrix.png``, the `worst` mistakes as ``worst.png``, and the attention for some texts."""
        from lepton_tasks.codecs.text import load_tokenizer
        from lepton_tasks.learning.text_plots import attention_plot, worst_texts_plot

        tokenizer = load_tokenizer(self.fitted["tokenizer"])
        return [
            *super().plots(folder, rows, outputs, worst=worst),
            worst_texts_plot(folder / "worst.png", tokenizer, rows, outputs[PROBABILITIES], self.labels, count=worst),
            attention_plot(folder / "attention.png", tokenizer, rows, outputs, self.labels),
        ]
