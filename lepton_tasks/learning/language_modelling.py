"""Learning task `language_modelling`: next-token prediction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import numpy as np
import pydantic

from lepton_tasks.codecs.text import BEGIN, END, PAD
from lepton_tasks.core.protocols import Outputs, Rows
from lepton_tasks.data.feature_arrays import check_texts, open_inputs
from lepton_tasks.learning.task import Task

if TYPE_CHECKING:
    import torch
    from torch import nn

SURPRISE, HIT = "surprise", "hit"

Choices = Annotated[int, pydantic.Field(ge=1, le=16)]  # the smallest vocabulary has 16 tokens
Steps = Annotated[int, pydantic.Field(ge=1, le=64)]  # unrolled in the graph


class LanguageModelling(Task):
    """Predict each token and the end of text from the preceding ones; rows are token ids int32 [N, T].

    Args:
        fitted: Of the extractor ``text``.
        labels: Not used.
        choices: Number of next tokens returned.
        steps: Length of the returned continuation, in tokens.
    """

    metric: ClassVar[str] = "perplexity"
    features: ClassVar[tuple[str, ...]] = ("text",)
    outputs: ClassVar[tuple[str, ...]] = (SURPRISE, HIT, "next", "probabilities", "continuation")
    network_parameters: ClassVar[tuple[str, ...]] = ("vocabulary", "begin")

    def __init__(
        self, fitted: Mapping[str, Any], labels: Sequence[str], *, choices: Choices = 5, steps: Steps = 8
    ) -> None:
        super().__init__(fitted, labels)
        self.choices, self.steps = choices, steps

    def network_arguments(self) -> dict[str, Any]:
        """``vocabulary`` and ``begin``, the start token."""
        return {"vocabulary": self.fitted["vocabulary"], "begin": BEGIN}

    def training_rows(self, features: Path) -> Rows:
        """Texts of the training split; the targets are the inputs."""
        check_texts(features)
        return self.evaluation_rows(features, "train")

    def evaluation_rows(self, features: Path, split: str) -> Rows:
        """Texts of the split; the targets are the inputs."""
        inputs, lengths = open_inputs(features, split)
        return Rows(inputs, inputs, lengths)

    def inputs(self, stored: torch.Tensor) -> torch.Tensor:
        """Tokens int32 [N, T], trimmed to the longest text."""
        from lepton_tasks.models.tokens import trimmed

        return trimmed(stored)

    def targets(self, stored: torch.Tensor, label_smoothing: float) -> torch.Tensor:
        """Token at each position and after the last, int64 [N, T + 1]; no label smoothing."""
        from lepton_tasks.models.language import followers

        return followers(stored)[:, : self.inputs(stored).shape[1] + 1]

    def deployable(self, network: nn.Module) -> nn.Module:
        """Serving graph: tokens -> their surprisal, and the next tokens."""
        from lepton_tasks.models.language import LanguageModel

        return LanguageModel(network, choices=self.choices, steps=self.steps)

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Cross-entropy (nats per token) of targets int64 [N, T] by logits [N, T, V], without padding."""
        from torch.nn import functional

        return functional.cross_entropy(outputs.flatten(0, 1), targets.flatten(), ignore_index=PAD)

    def metrics(self, outputs: Outputs, targets: np.ndarray) -> dict[str, float]:
        """Perplexity, cross-entropy (``loss``, nats per token), and next-token accuracy.

        The end of a text counts as a token unless the text was truncated. Perplexities of different tokenizers are not
        comparable.
        """
        count = _counted(targets)
        loss = float(outputs[SURPRISE].sum(dtype=np.float64) / count)
        return {"perplexity": float(np.exp(loss)), "loss": loss, "accuracy": float(outputs[HIT].sum() / count)}

    def baseline(self, rows: Rows) -> dict[str, float]:
        """Metrics of always predicting the token frequencies."""
        tokens = np.array(rows.targets)
        counts = np.bincount(tokens[tokens != PAD], minlength=END + 1)
        counts[END] += int((tokens[:, -1] == PAD).sum())
        share = counts[counts > 0] / counts.sum()
        loss = float(-(share * np.log(share)).sum())
        return {"perplexity": float(np.exp(loss)), "loss": loss, "accuracy": float(share.max())}

    def plots(self, folder: Path, rows: Rows, outputs: Outputs, *, worst: int) -> list[Path]:
        """Perplexity by position, and some texts with surprising tokens highlighted."""
        from lepton_tasks.codecs.text import load_tokenizer
        from lepton_tasks.learning.text_plots import place_plot, surprise_plot

        tokenizer = load_tokenizer(self.fitted["tokenizer"])
        return [
            place_plot(folder / "surprise_by_place.png", rows, outputs[SURPRISE]),
            surprise_plot(folder / "surprise.png", tokenizer, rows, outputs[SURPRISE]),
        ]

    def output_codec(self) -> tuple[str, dict[str, Any]]:
        """Codec that decodes tokens to text."""
        return "continuation", {"tokenizer": self.fitted["tokenizer"]}


def _counted(tokens: np.ndarray) -> int:
    """Number of predictions for tokens int [N, T]: non-padding tokens, and the ends of texts not truncated."""
    return int((np.asarray(tokens) != PAD).sum() + (np.asarray(tokens[:, -1]) == PAD).sum())
