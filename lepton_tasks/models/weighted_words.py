"""Text classifier on TF-IDF-weighted word vectors."""

from __future__ import annotations

import torch
from torch import nn

from lepton_tasks.codecs.text import UNKNOWN
from lepton_tasks.models.tokens import TokenEmbedding, real


class WeightedWords(nn.Module):
    """TF-IDF-weighted sum of word vectors and one layer; strong with little text.

    Document frequencies are counted during training, like the statistics of batch normalisation.

    Args:
        vocabulary: Number of tokens.
        num_classes: Number of classes.
        width: Length of a word's vector, the input of the layer.
        dropout: Dropout rate before the output layer.
        word_dropout: Share of words dropped in training.

    Source: the weights by Manning, Raghavan, Schütze, "Introduction to Information Retrieval", 2008, chapter 6.4; a
    layer over a sum of vectors by Iyyer et al., "Deep unordered composition rivals syntactic methods for text
    classification", 2015.
    """

    texts: torch.Tensor
    texts_with: torch.Tensor

    def __init__(
        self,
        vocabulary: int,
        num_classes: int,
        *,
        width: int = 128,
        dropout: float = 0.3,
        word_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.embedding = TokenEmbedding(vocabulary, width)
        self.word_dropout = word_dropout
        self.bias = nn.Parameter(torch.zeros(width))
        self.decide = nn.Sequential(nn.ReLU(), nn.Dropout(dropout), nn.Linear(width, num_classes))
        self.register_buffer("texts", torch.zeros(()))
        self.register_buffer("texts_with", torch.zeros(vocabulary))

    def forward(self, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits float [N, num_classes] of tokens int [N, T], and the weight of each position, float [N, T]."""
        tokens, mask = tokens.long(), real(tokens)
        if self.training and self.word_dropout > 0:
            dropped = torch.rand(tokens.shape, device=tokens.device) < self.word_dropout
            tokens = torch.where(dropped & mask, torch.full_like(tokens, UNKNOWN), tokens)
        known = mask & (tokens > UNKNOWN)
        first = torch.arange(tokens.shape[1], device=tokens.device) == 0
        known = known | (first & ~known.any(dim=1, keepdim=True))  # so that no row is empty
        counts = (tokens.unsqueeze(2) == tokens.unsqueeze(1)).sum(dim=2).float()
        if self.training:
            self._count(tokens[known], counts[known], len(tokens))
        rarity = torch.log((1 + self.texts) / (1 + self.texts_with)) + 1
        word = (1 + torch.log(counts)) * rarity[tokens] * known  # per word, at each of its positions
        length = (word.square() / counts).sum(dim=1, keepdim=True).sqrt()
        share = word / (counts * length)
        vectors = self.embedding(tokens)
        summed = torch.bmm(share.to(vectors.dtype).unsqueeze(1), vectors).squeeze(1)
        logits: torch.Tensor = self.decide(summed + self.bias)
        return logits, share / share.sum(dim=1, keepdim=True)

    def _count(self, tokens: torch.Tensor, counts: torch.Tensor, texts: int) -> None:
        """Update document frequencies with words int [M] and their counts per text, float [M]."""
        self.texts += texts
        self.texts_with.index_add_(0, tokens, 1 / counts)
