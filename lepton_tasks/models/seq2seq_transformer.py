"""Sequence-to-sequence transformer."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional

from lepton_tasks.models.dropout import Dropout
from lepton_tasks.models.seq2seq import Seq2Seq, State
from lepton_tasks.models.tokens import real

_HIDDEN = -1e4  # below any score; finite in half precision too


class Seq2SeqTransformer(Seq2Seq):
    """Transformer encoder and decoder; the output layer shares the embedding weights.

    With the defaults and a joint vocabulary of 6,000 it has 7 million parameters.

    Args:
        source_vocabulary: Source vocabulary size.
        target_vocabulary: Target vocabulary size.
        joint_vocabulary: Whether both share one vocabulary and its embeddings.
        width: Model width; even, and a multiple of `heads`.
        heads: Number of attention heads.
        layers: Number of encoder layers, and of decoder layers.
        expansion: Width factor of the feed-forward layers.
        dropout: Dropout rate.

    Source: Vaswani et al., "Attention is all you need", 2017; pre-normalisation by Xiong et al., "On layer
    normalization in the transformer architecture", 2020; shared embeddings by Press and Wolf, 2017.
    """

    def __init__(
        self,
        source_vocabulary: int,
        target_vocabulary: int,
        joint_vocabulary: bool,
        *,
        width: int = 256,
        heads: int = 4,
        layers: int = 3,
        expansion: int = 4,
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        self.target_vocabulary = target_vocabulary
        self.target_embedding = _embedding(target_vocabulary, width)
        self.source_embedding = self.target_embedding if joint_vocabulary else _embedding(source_vocabulary, width)
        self.encoder = nn.ModuleList(_Encoder(width, heads, expansion, dropout) for _ in range(layers))
        self.decoder = nn.ModuleList(_Decoder(width, heads, expansion, dropout) for _ in range(layers))
        self.read_norm, self.write_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.dropout = Dropout(dropout)
        self.width, self.heads, self.layers = width, heads, layers

    def forward(self, source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """See `Seq2Seq.forward`."""
        memory, seen = self._read(source)
        places = self._placed(self.target_embedding(target), torch.arange(target.shape[1], device=target.device))
        for layer in self.decoder:
            places = layer(places, memory, seen)
        known: torch.Tensor = self.write_norm(places)
        return known

    def logits(self, known: torch.Tensor) -> torch.Tensor:
        """See `Seq2Seq.logits`."""
        return functional.linear(known, self.target_embedding.weight)

    def begin(self, source: torch.Tensor, length: int) -> tuple[State, State]:
        """Each decoder layer's source keys and values, and zeroed keys and values for `length` tokens."""
        memory, seen = self._read(source)
        context = [part for layer in self._writers() for part in layer.source.memory(memory)]
        empty = memory.new_zeros((memory.shape[0], self.heads, length, self.width // self.heads))
        return (seen, *context), tuple(empty.clone() for _ in range(2 * self.layers))

    def step(self, token: torch.Tensor, at: torch.Tensor, context: State, state: State) -> tuple[torch.Tensor, State]:
        """See `Seq2Seq.step`."""
        place = self._placed(self.target_embedding(token.unsqueeze(1)), at.unsqueeze(0))
        seen, memories = context[0], context[1:]
        after: list[torch.Tensor] = []
        for index, layer in enumerate(self._writers()):
            both = slice(2 * index, 2 * index + 2)
            place, *kept = layer.step(place, at, state[both], memories[both], seen)
            after += kept
        return self.logits(self.write_norm(place).squeeze(1)), tuple(after)

    def attention(self, source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Last layer, averaged over its heads; see `Seq2Seq.attention`."""
        memory, seen = self._read(source)
        places = self._placed(self.target_embedding(target), torch.arange(target.shape[1], device=target.device))
        *layers, last = self._writers()
        for layer in layers:
            places = layer(places, memory, seen)
        return last.weights(places, memory, seen)

    def _writers(self) -> list[_Decoder]:
        return list(self.decoder)  # type: ignore[arg-type]  # `ModuleList` has no element type

    def _read(self, source: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Encoded source float [N, S, width], and its padding mask, bool [N, 1, 1, S]."""
        seen = real(source)[:, None, None, :]
        places = self._placed(self.source_embedding(source), torch.arange(source.shape[1], device=source.device))
        for layer in self.encoder:
            places = layer(places, seen)
        return self.read_norm(places), seen

    def _placed(self, vectors: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
        """Vectors float [N, T, width] plus encodings of the positions `at`, int [T]."""
        rates = torch.exp(torch.arange(0, self.width, 2, device=at.device) * (-math.log(10_000.0) / self.width))
        angles = at.unsqueeze(1).float() * rates
        placed: torch.Tensor = self.dropout(
            vectors * math.sqrt(self.width) + torch.cat([angles.sin(), angles.cos()], 1)
        )
        return placed


class _Encoder(nn.Module):
    """Self-attention and a feed-forward layer."""

    def __init__(self, width: int, heads: int, expansion: int, dropout: float) -> None:
        super().__init__()
        self.own = _Attention(width, heads)
        self.think = _thought(width, expansion)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.dropout = Dropout(dropout)

    def forward(self, places: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
        x = self.norms[0](places)
        places = places + self.dropout(self.own(x, *self.own.memory(x), seen))
        thought: torch.Tensor = places + self.dropout(self.think(self.norms[1](places)))
        return thought


class _Decoder(nn.Module):
    """Causal self-attention, attention to the source, and a feed-forward layer."""

    def __init__(self, width: int, heads: int, expansion: int, dropout: float) -> None:
        super().__init__()
        self.own, self.source = _Attention(width, heads), _Attention(width, heads)
        self.think = _thought(width, expansion)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.dropout = Dropout(dropout)

    def forward(self, places: torch.Tensor, memory: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
        places = self._look_back(places)
        return self._rest(places, self.source.memory(memory), seen)

    def step(
        self, place: torch.Tensor, at: torch.Tensor, before: State, memory: State, seen: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Output float [N, 1, width], and updated keys and values float [N, heads, T, width / heads]."""
        x = self.norms[0](place)
        numbers = torch.arange(before[0].shape[2], device=place.device)
        here = (numbers == at)[:, None]
        keys, values = (torch.where(here, new, old) for new, old in zip(self.own.memory(x), before, strict=True))
        place = place + self.own(x, keys, values, (numbers <= at)[None, None, None, :])
        return self._rest(place, memory, seen), keys, values

    def weights(self, places: torch.Tensor, memory: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
        """Attention weights of source positions for target positions, float [N, T, S]."""
        x = self.norms[1](self._look_back(places))
        return self.source.weights(x, self.source.memory(memory)[0], seen)

    def _look_back(self, places: torch.Tensor) -> torch.Tensor:
        x = self.norms[0](places)
        numbers = torch.arange(places.shape[1], device=places.device)
        before = numbers[:, None] >= numbers
        looked: torch.Tensor = places + self.dropout(self.own(x, *self.own.memory(x), before))
        return looked

    def _rest(self, places: torch.Tensor, memory: State, seen: torch.Tensor) -> torch.Tensor:
        places = places + self.dropout(self.source(self.norms[1](places), *memory, seen))
        thought: torch.Tensor = places + self.dropout(self.think(self.norms[2](places)))
        return thought


class _Attention(nn.Module):
    """Multi-head attention."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.out, self.kept = nn.Linear(width, width), nn.Linear(width, width), nn.Linear(width, 2 * width)
        for layer in (self.query, self.out, self.kept):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def memory(self, places: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values, float [N, heads, S, width / heads], of [N, S, width]."""
        keys, values = self.kept(places).chunk(2, dim=2)
        return self._split(keys), self._split(values)

    def forward(
        self, places: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: torch.Tensor
    ) -> torch.Tensor:
        """Attention output float [N, T, width]."""
        # Not torch's fused attention: for texts of 20 tokens its backward pass takes a third of a step on a CPU.
        found = torch.softmax(self._scores(places, keys, mask), dim=3) @ values
        answers: torch.Tensor = self.out(found.transpose(1, 2).flatten(2))
        return answers

    def weights(self, places: torch.Tensor, keys: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Attention weights averaged over the heads: float [N, T, S]."""
        return torch.softmax(self._scores(places, keys, mask), dim=3).mean(dim=1)

    def _scores(self, places: torch.Tensor, keys: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        asked = self._split(self.query(places) / math.sqrt(self.query.out_features / self.heads))
        scores: torch.Tensor = asked @ keys.transpose(2, 3)
        return scores.masked_fill(~mask, _HIDDEN)

    def _split(self, places: torch.Tensor) -> torch.Tensor:
        apart: torch.Tensor = places.unflatten(2, (self.heads, -1)).transpose(1, 2)
        return apart


def _thought(width: int, expansion: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, expansion * width), nn.ReLU(), nn.Linear(expansion * width, width))


def _embedding(tokens: int, width: int) -> nn.Embedding:
    """Token embeddings at the scale of the output layer; `_placed` scales them up."""
    table = nn.Embedding(tokens, width)
    nn.init.normal_(table.weight, std=width**-0.5)
    return table
