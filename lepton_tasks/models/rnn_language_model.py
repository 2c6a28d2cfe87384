"""Recurrent language model."""

from __future__ import annotations

import torch
from torch import nn

from lepton_tasks.codecs.text import PAD
from lepton_tasks.models.rnn import CELLS, Cell
from lepton_tasks.models.tokens import TokenEmbedding

State = list[torch.Tensor | tuple[torch.Tensor, torch.Tensor]]


class RNNLanguageModel(nn.Module):
    """Recurrent next-token predictor.

    Its layers have no bias, and padding is read as zeros: left padding keeps every state at zero, so that texts of
    different lengths can be right-aligned.

    Args:
        vocabulary: Number of tokens.
        begin: Start token.
        cell: ``elman``, ``gru`` or ``lstm``.
        width: Length of a token's embedding and of a state; input and output embeddings are tied.
        layers: Number of layers.
        dropout: Dropout rate of token embeddings, between layers, and before the prediction.

    Source: Mikolov et al., "Recurrent neural network based language model", 2010; Zaremba et al., "Recurrent neural
    network regularization", 2014; tied embeddings by Press and Wolf, "Using the output embedding to improve
    language models", 2017.
    """

    def __init__(
        self,
        vocabulary: int,
        begin: int,
        *,
        cell: Cell = "lstm",
        width: int = 256,
        layers: int = 1,
        dropout: float = 0.4,
    ) -> None:
        super().__init__()
        self.begin = begin
        self.embedding = TokenEmbedding(vocabulary, width, dropout=dropout)
        self.layers = nn.ModuleList(CELLS[cell](width, width, batch_first=True, bias=False) for _ in range(layers))
        self.dropout = nn.Dropout1d(dropout)
        self.bias = nn.Parameter(torch.zeros(vocabulary))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Logits float [N, T + 1, vocabulary] of each token int [N, T], and of the one after the last."""
        return self.scores(self.read(nn.functional.pad(tokens, (1, 0), value=self.begin))[0])

    def read(self, tokens: torch.Tensor, state: State | None = None) -> tuple[torch.Tensor, State]:
        """State after each of the tokens int [N, T], float [N, T, width], and the state to continue from.

        Args:
            tokens: A text starts with `begin`.
            state: State after the preceding part of the text; None at the start.
        """
        # The padding embedding is not zero: never being a target, it learns to be unlikely.
        known, after = self.embedding(tokens) * (tokens != PAD).unsqueeze(2), []
        for index, layer in enumerate(self.layers):
            known, last = layer(known, state[index] if state else None)
            known = self.dropout(known.transpose(1, 2)).transpose(1, 2)
            after.append(last)
        return known, after

    def scores(self, known: torch.Tensor) -> torch.Tensor:
        """Logits float [..., vocabulary] of states float [..., width]."""
        return nn.functional.linear(known, self.embedding.vectors.weight, self.bias)
