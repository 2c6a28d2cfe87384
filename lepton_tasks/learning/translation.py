"""Learning task `translation`: text to text, also for summaries or spelling correction."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import numpy as np
import pydantic

from lepton_tasks.codecs.generated_text import decode_tokens
from lepton_tasks.codecs.text import BEGIN, PAD, load_tokenizer
from lepton_tasks.core.protocols import Outputs, Rows, Validation
from lepton_tasks.data.feature_arrays import check_texts, open_split
from lepton_tasks.learning.task import Task

if TYPE_CHECKING:
    import torch
    from torch import nn

TOKENS, SCORES = "tokens", "scores"
_DRAWN = 4  # sentences in the attention plot
_BANDS = (10, 20)  # source tokens: short, medium and long texts are evaluated separately


class Translation(Task):
    """Predict each target token from the source and the preceding target tokens.

    Stored rows are int32 [N, W]: the source with ``</s>``, and the target between ``<s>`` and ``</s>``. BLEU and chrF
    are computed on texts, hence comparable across vocabularies; without case if the vocabulary is lower case.

    Args:
        fitted: Of the extractor ``text_pair``.
        labels: Not used.
        beams: Number of beams in the search; 1 is greedy decoding.
        penalty: Length penalty: beams are ranked by log-probability / length**penalty; 0 favours short texts.
        length: Maximum number of generated tokens; default the width of stored targets.
    """

    metric: ClassVar[str] = "bleu"
    features: ClassVar[tuple[str, ...]] = ("text_pair",)
    outputs: ClassVar[tuple[str, ...]] = (TOKENS, SCORES)
    network_parameters: ClassVar[tuple[str, ...]] = ("source_vocabulary", "target_vocabulary", "joint_vocabulary")
    smooths: ClassVar[bool] = True

    def __init__(
        self,
        fitted: Mapping[str, Any],
        labels: Sequence[str],
        *,
        beams: Annotated[int, pydantic.Field(ge=1, le=32)] = 4,
        penalty: Annotated[float, pydantic.Field(ge=0, le=2)] = 1.0,
        length: Annotated[int, pydantic.Field(ge=2)] | None = None,
    ) -> None:
        super().__init__(fitted, labels)
        self.beams, self.penalty, self.length = beams, penalty, length or int(fitted["max_length"])

    def network_arguments(self) -> dict[str, Any]:
        """Vocabulary sizes, and whether source and target share one vocabulary."""
        source, target = (json.loads(self.fitted[side])["model"] for side in ("tokenizer", "target_tokenizer"))
        return {
            "source_vocabulary": self.fitted["vocabulary"],
            "target_vocabulary": self.fitted["target_vocabulary"],
            "joint_vocabulary": source == target,
        }

    def training_rows(self, features: Path) -> Rows:
        """Pairs int32 [N, 2 W], source beside target, sorted by both lengths; the targets repeat the target half."""
        check_texts(features, framed=1)  # its end
        return _pairs(features, "train")

    def validation(self, network: nn.Module, features: Path) -> Validation:
        """Next-token metrics with teacher forcing: generating whole texts takes far longer."""
        from lepton_tasks.models.seq2seq import Scored

        return Validation(_pairs(features, "validation"), Scored(network), ("log_likelihood", "right"), _going_on)

    def targets(self, stored: torch.Tensor, label_smoothing: float) -> torch.Tensor:
        """Weights of the target token and of all tokens, float [2]; the tokens are part of the inputs."""
        return stored.new_tensor([1 - label_smoothing, label_smoothing], dtype=stored.float().dtype)

    def trainable(self, network: nn.Module) -> nn.Module:
        """The network with teacher forcing."""
        from lepton_tasks.models.seq2seq import TeacherForced

        return TeacherForced(network)

    def deployable(self, network: nn.Module) -> nn.Module:
        """Serving graph: source tokens -> generated tokens, and their mean log-probability."""
        from lepton_tasks.models.seq2seq import BeamSearch

        return BeamSearch(network, beams=self.beams, length=self.length, penalty=self.penalty)

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Mean cross-entropy (nats per token) of log-probabilities [M, 2], weighted by `targets`.

        Source: label smoothing by Szegedy et al., "Rethinking the Inception architecture", 2016.
        """
        return -(outputs * targets).sum(dim=1).mean()

    def score(self, metrics: Mapping[str, float]) -> tuple[float, ...]:
        """Negated perplexity, or BLEU if whole texts were generated."""
        return (-metrics["perplexity"],) if "perplexity" in metrics else (metrics["bleu"],)

    def metrics(self, outputs: Outputs, targets: np.ndarray) -> dict[str, float]:
        """BLEU and chrF, from 0 to 100, and the share of exact matches.

        Source: Papineni et al., 2002; Popović, 2015; both as sacrebleu computes them (Post, "A call for clarity in
        reporting BLEU scores", 2018): BLEU with the tokeniser 13a and exponential smoothing, chrF of 6 characters.
        """
        return _compared(self._made(outputs[TOKENS]), self._made(targets))

    def details(self, outputs: Outputs, rows: Rows) -> dict[str, dict[str, float]]:
        """The same metrics for short, medium and long sources."""
        lengths = (np.asarray(rows.inputs) != PAD).sum(axis=1) - 1
        figures: dict[str, dict[str, float]] = {}
        for low, high in itertools.pairwise((0, *_BANDS, rows.inputs.shape[1])):
            some = (lengths > low) & (lengths <= high)
            if some.any():
                own = self.metrics({TOKENS: outputs[TOKENS][some]}, rows.targets[some])
                figures[f"{low + 1} to {high} tokens"] = {"rows": int(some.sum()), **own}
        return figures

    def confidence(self, outputs: Outputs) -> np.ndarray:
        """Geometric mean of the token probabilities, float [N]."""
        return np.exp(outputs[SCORES])

    def baseline(self, rows: Rows) -> dict[str, float]:
        """Metrics of copying the source."""
        source = [decode_tokens(self.fitted["tokenizer"], tokens) for tokens in rows.inputs]
        return _compared(source, self._made(rows.targets))

    def plots(self, folder: Path, rows: Rows, outputs: Outputs, *, worst: int) -> list[Path]:
        """The `worst` texts by chrF beside their references, and text lengths."""
        from lepton_tasks.learning.translation_plots import length_plot, worst_plot

        source = [decode_tokens(self.fitted["tokenizer"], tokens) for tokens in rows.inputs]
        made, wanted = self._made(outputs[TOKENS]), self._made(rows.targets)
        return [
            worst_plot(folder / "worst.png", source, made, wanted, count=worst),
            length_plot(folder / "lengths.png", made, wanted),
        ]

    def network_plots(self, folder: Path, network: nn.Module, rows: Rows) -> list[Path]:
        """``attention.png``: attention to the source for some generated texts."""
        import torch

        from lepton_tasks.learning.text_plots import pieces
        from lepton_tasks.learning.translation_plots import attention_plot
        from lepton_tasks.models.inference import predict
        from lepton_tasks.models.tokens import trimmed

        source = np.array(rows.inputs[:_DRAWN])
        made = predict(self.deployable(network), source, self.outputs)[TOKENS]
        shown, tables = trimmed(torch.from_numpy(source)), []
        before = torch.from_numpy(np.pad(made, ((0, 0), (1, 0)), constant_values=BEGIN)[:, :-1])
        with torch.inference_mode():
            looks = network.attention(shown, before).numpy()  # type: ignore[operator]  # a `Seq2Seq`
        tokenizers = [load_tokenizer(self.fitted[side]) for side in ("tokenizer", "target_tokenizer")]
        for row, weights in enumerate(looks):
            words = [
                pieces(tokenizer, tokens[row]) for tokenizer, tokens in zip(tokenizers, (source, made), strict=True)
            ]
            tables.append((words[0], words[1], weights[: len(words[1]), : len(words[0])]))
        return [attention_plot(folder / "attention.png", tables)]

    def output_codec(self) -> tuple[str, dict[str, Any]]:
        """Codec that decodes tokens to text."""
        return "text_made", {"tokenizer": self.fitted["target_tokenizer"]}

    def _made(self, tokens: np.ndarray) -> list[str]:
        return [decode_tokens(self.fitted["target_tokenizer"], row) for row in tokens]


def _pairs(features: Path, split: str) -> Rows:
    """Source beside target, int32 [N, 2 W], and the targets; sorted by source length, then target length."""
    rows = open_split(features, split)
    lengths = [(np.asarray(side) != PAD).sum(axis=1) for side in (rows.inputs, rows.targets)]
    both = lengths[0] * (rows.targets.shape[1] + 1) + lengths[1]
    return Rows(np.concatenate([rows.inputs, rows.targets], axis=1), rows.targets, both)


def _going_on(outputs: Outputs, targets: np.ndarray) -> dict[str, float]:
    """Perplexity, mean loss (nats per token) and next-token accuracy on the true targets, ``</s>`` included."""
    count = int((np.asarray(targets[:, 1:]) != PAD).sum())
    loss = -float(outputs["log_likelihood"].sum(dtype=np.float64)) / count
    return {"perplexity": float(np.exp(loss)), "loss": loss, "accuracy": float(outputs["right"].sum()) / count}


def _compared(made: Sequence[str], wanted: Sequence[str]) -> dict[str, float]:
    from sacrebleu.metrics.bleu import BLEU
    from sacrebleu.metrics.chrf import CHRF

    return {
        "bleu": BLEU().corpus_score(made, [wanted]).score,
        "chrf": CHRF().corpus_score(made, [wanted]).score,
        "exact": sum(map(str.__eq__, made, wanted)) / len(wanted),
    }
