"""Text classifier on a bag of words and n-grams."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from lepton_tasks.codecs.text import PAD
from lepton_tasks.models.tokens import Pool, Pooling, TokenEmbedding, real

_PRIME = 1_000_003  # hashes n-grams into buckets
_RESERVED = 2  # PAD and UNKNOWN, for n-grams as for words


class NGrams(nn.Module):
    """Pooled vectors of words and n-grams; fast, and strong with little text.

    Args:
        vocabulary: Number of tokens.
        num_classes: Number of classes.
        embedding: Length of a vector.
        longest: Tokens of the longest n-gram.
        buckets: Vectors shared by all n-grams of one length, assigned by a hash.
        pooling: How all vectors are combined; see `Pooling`.
        hidden: Width of a layer between the pooled vector and the output layer; 0 for none.
        dropout: Dropout rate of the vectors and before the output layer.
        word_dropout: Share of words and n-grams replaced by the unknown token in training.

    Source: Joulin et al., "Bag of tricks for efficient text classification", 2017 (fastText).
    """

    def __init__(
        self,
        vocabulary: int,
        num_classes: int,
        *,
        embedding: int = 128,
        longest: int = 2,
        buckets: int = 16_384,
        pooling: Sequence[Pool] = ("attention", "max"),
        hidden: int = 0,
        dropout: float = 0.4,
        word_dropout: float = 0.2,
    ) -> None:
        super().__init__()
        self.embedding = TokenEmbedding(vocabulary, embedding, dropout=dropout, word_dropout=word_dropout)
        self.groups = nn.ModuleList(
            TokenEmbedding(buckets, embedding, dropout=dropout, word_dropout=word_dropout) for _ in range(1, longest)
        )
        self.buckets = buckets
        self.pooling = Pooling(embedding, pooling)
        between = [nn.Linear(self.pooling.width, hidden), nn.ReLU(), nn.Dropout(dropout)] if hidden else []
        self.decide = nn.Sequential(nn.Dropout(dropout), *between, nn.Linear(hidden or self.pooling.width, num_classes))

    def forward(self, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits float [N, num_classes] of tokens int [N, T], and the weight of each position, float [N, T].

        The weight of an n-gram is added to its first token's.
        """
        tokens = tokens.long()
        length = tokens.shape[1]
        places, masks = [self.embedding(tokens)], [real(tokens)]
        key = tokens
        for index, group in enumerate(self.groups, start=1):
            follower = nn.functional.pad(tokens[:, index:], (0, min(index, length)), value=PAD)
            key = torch.remainder(key * _PRIME + follower, 2**31 - 1)
            whole = follower != PAD
            bucket = torch.remainder(key, self.buckets - _RESERVED) + _RESERVED
            places.append(group(torch.where(whole, bucket, torch.full_like(bucket, PAD))))
            masks.append(whole)
        pooled, weights = self.pooling(torch.cat(places, dim=1), torch.cat(masks, dim=1))
        logits: torch.Tensor = self.decide(pooled)
        return logits, weights.unflatten(1, (-1, length)).sum(dim=1)
