"""Sequence-to-sequence model with GRUs and attention."""

from __future__ import annotations

import torch
from torch import nn

from lepton_tasks.models.dropout import Dropout
from lepton_tasks.models.rnn import Reader
from lepton_tasks.models.seq2seq import Seq2Seq, State
from lepton_tasks.models.tokens import real

_HIDDEN = -1e4  # below any score; finite in half precision too


class Seq2SeqGRU(Seq2Seq):
    """Bidirectional GRU encoder, and a GRU decoder with attention.

    With the defaults and a joint vocabulary of 6,000 it has 3 million parameters.

    Args:
        source_vocabulary: Source vocabulary size.
        target_vocabulary: Target vocabulary size.
        joint_vocabulary: Whether both share one vocabulary and its embeddings.
        width: Length of a token's embedding and of the state at each position; even.
        dropout: Dropout rate.

    Source: Bahdanau et al., "Neural machine translation by jointly learning to align and translate", 2015; the order of
    recurrence and attention by Luong et al., "Effective approaches to attention-based neural machine translation",
    2015.
    """

    def __init__(
        self,
        source_vocabulary: int,
        target_vocabulary: int,
        joint_vocabulary: bool,
        *,
        width: int = 256,
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        self.target_vocabulary = target_vocabulary
        self.target_embedding = nn.Embedding(target_vocabulary, width)
        self.source_embedding = self.target_embedding if joint_vocabulary else nn.Embedding(source_vocabulary, width)
        for table in dict.fromkeys((self.source_embedding, self.target_embedding)):
            nn.init.normal_(table.weight, std=width**-0.5)
        self.reader = Reader(width, cell="gru", width=width // 2)
        self.writer = nn.GRU(width, width, batch_first=True)
        self.start, self.question = nn.Linear(width, width), nn.Linear(width, width)
        self.key = nn.Linear(width, width, bias=False)  # a common bias of all keys cancels in the softmax
        self.mix = nn.Linear(2 * width, width)
        self.scale = nn.Parameter(torch.tensor(float(width) ** 0.5))
        self.dropout = Dropout(dropout)

    def forward(self, source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """See `Seq2Seq.forward`."""
        (memory, keys, seen), (state,) = self.begin(source, target.shape[1])
        return self._known(self._written(target, state), memory, keys, seen)[0]

    def logits(self, known: torch.Tensor) -> torch.Tensor:
        """See `Seq2Seq.logits`."""
        return nn.functional.linear(known * self.scale, self.target_embedding.weight)

    def begin(self, source: torch.Tensor, length: int) -> tuple[State, State]:
        """Encoder states, their keys and the padding mask; and the decoder's state, float [N, width]."""
        seen = real(source)
        read = self.dropout(self.reader(self._vectors(self.source_embedding, source), seen))
        shares = (seen / seen.sum(dim=1, keepdim=True)).to(read.dtype)
        mean = (shares.unsqueeze(1) @ read).squeeze(1)
        return (read, self.key(read), seen), (torch.tanh(self.start(mean)),)

    def step(self, token: torch.Tensor, at: torch.Tensor, context: State, state: State) -> tuple[torch.Tensor, State]:
        """See `Seq2Seq.step`."""
        weights = list(self.writer.parameters())  # its own forward may move them, which a loop in the graph forbids
        written = torch.gru_cell(self._vectors(self.target_embedding, token), state[0], *weights)
        known, _ = self._known(written.unsqueeze(1), *context)
        return self.logits(known.squeeze(1)), (written,)

    def attention(self, source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """See `Seq2Seq.attention`."""
        (memory, keys, seen), (state,) = self.begin(source, target.shape[1])
        return self._known(self._written(target, state), memory, keys, seen)[1]

    def _vectors(self, table: nn.Embedding, tokens: torch.Tensor) -> torch.Tensor:
        vectors: torch.Tensor = self.dropout(table(tokens) * self.scale)
        return vectors

    def _written(self, target: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
        """Decoder states float [N, T, width] after each token."""
        written: torch.Tensor = self.writer(self._vectors(self.target_embedding, target), state.unsqueeze(0))[0]
        return written

    def _known(
        self, written: torch.Tensor, memory: torch.Tensor, keys: torch.Tensor, seen: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """State after each token, float [N, T, width], and its attention to the source, float [N, T, S]."""
        scores = self.question(written) @ keys.transpose(1, 2) / keys.shape[2] ** 0.5
        weights = torch.softmax(scores.masked_fill(~seen.unsqueeze(1), _HIDDEN), dim=2)
        known = torch.tanh(self.mix(torch.cat([written, weights @ memory], dim=2)))
        return self.dropout(known), weights
