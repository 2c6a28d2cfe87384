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
Steps = Annotated[int, pydantic.Field(ge=1, le=64)]  # each is a part of the graph


class LanguageModelling(Task):
    """Predict each token, and the end, from the preceding ones; rows are token ids int32 [N, T].

    Args:
        fitted: Of the extractor ``text``.
        labels: Not used.
        choices: How many next words the answer names.
        steps: Tokens of the continuation in the answer.
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
        """``vocabulary`` and ``begin``, the token before every text."""
        return {"vocabulary": self.fitted["vocabulary"], "begin": BEGIN}

    def training_rows(self, features: Path) -> Rows:
        """The texts of the training split, which are their own targets."""
        check_texts(features)
        return self.evaluation_rows(features, "train")

    def evaluation_rows(self, features: Path, split: str) -> Rows:
        """The texts of the split, which are their own targets."""
        inputs, lengths = open_inputs(features, split)
        return Rows(inputs, inputs, lengths)

    def inputs(self, stored: torch.Tensor) -> torch.Tensor:
        """The tokens int32 [N, T], as wide as the longest text."""
        from lepton_tasks.models.tokens import trimmed

        return trimmed(stored)

    def targets(self, stored: torch.Tensor, label_smoothing: float) -> torch.Tensor:
        """What comes at each place and after the last, int64 [N, T + 1]; labels are not smoothed."""
        from lepton_tasks.models.language import followers

        return followers(stored)[:, : self.inputs(stored).shape[1] + 1]

    def deployable(self, network: nn.Module) -> nn.Module:
        """Serving graph: tokens -> how surprising they are, and what comes next."""
        from lepton_tasks.models.language import LanguageModel

        return LanguageModel(network, choices=self.choices, steps=self.steps)

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Mean surprise (nats a token) of targets int64 [N, T] by logits [N, T, V]; padding does not count."""
        from torch.nn import functional

        return functional.cross_entropy(outputs.flatten(0, 1), targets.flatten(), ignore_index=PAD)

    def metrics(self, outputs: Outputs, targets: np.ndarray) -> dict[str, float]:
        """Perplexity, mean surprise (``loss``, nats a token), and how often the likeliest token comes.

        The end of a text counts as a token, where the text was not cut. Perplexities of different tokenizers do not
        compare.
        """
        count = _counted(targets)
        loss = float(outputs[SURPRISE].sum(dtype=np.float64) / count)
        return {"perplexity": float(np.exp(loss)), "loss": loss, "accuracy": float(outputs[HIT].sum() / count)}

    def baseline(self, rows: Rows) -> dict[str, float]:
        """The metrics of answering with the share of each token, whatever comes before."""
        tokens = np.array(rows.targets)
        counts = np.bincount(tokens[tokens != PAD], minlength=END + 1)
        counts[END] += int((tokens[:, -1] == PAD).sum())
        share = counts[counts > 0] / counts.sum()
        loss = float(-(share * np.log(share)).sum())
        return {"perplexity": float(np.exp(loss)), "loss": loss, "accuracy": float(share.max())}

    def plots(self, folder: Path, rows: Rows, outputs: Outputs, *, worst: int) -> list[Path]:
        """Surprise by place in the text, and some texts with their surprising words marked."""
        from lepton_tasks.codecs.text import load_tokenizer
        from lepton_tasks.learning.text_plots import place_plot, surprise_plot

        tokenizer = load_tokenizer(self.fitted["tokenizer"])
        return [
            place_plot(folder / "surprise_by_place.png", rows, outputs[SURPRISE]),
            surprise_plot(folder / "surprise.png", tokenizer, rows, outputs[SURPRISE]),
        ]

    def output_codec(self) -> tuple[str, dict[str, Any]]:
        """The codec that writes tokens as text."""
        return "continuation", {"tokenizer": self.fitted["tokenizer"]}


def _counted(tokens: np.ndarray) -> int:
    """Tokens int [N, T] that are predicted: those that are no padding, and the ends of texts that were not cut."""
    return int((np.asarray(tokens) != PAD).sum() + (np.asarray(tokens[:, -1]) == PAD).sum())
