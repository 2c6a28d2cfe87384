"""Wrap language models for training and serving."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from lepton_tasks.codecs.text import BEGIN, END, PAD, UNKNOWN
from lepton_tasks.models.tokens import real

_NEVER = -1e4  # logit of tokens that must not be generated
_SCORED = 8  # positions whose logits are in memory together


def followers(tokens: torch.Tensor) -> torch.Tensor:
    """Target at each position and after the last, int64 [N, T + 1]: the tokens, the end, then padding.

    A text that fills its row may have been truncated: its end is unknown and replaced by `PAD`.
    """
    padded = nn.functional.pad(tokens.long(), (0, 1), value=PAD)
    length = (tokens != PAD).sum(dim=1, keepdim=True)
    at = torch.arange(padded.shape[1], device=tokens.device)
    return torch.where((at == length) & (length < tokens.shape[1]), torch.full_like(padded, END), padded)


class LanguageModel(nn.Module):
    """Serving graph of a language model.

    Args:
        network: With `read` and `scores`, such as `RNNLanguageModel`.
        choices: Number of next tokens returned.
        steps: Length of the greedy continuation, in tokens.
    """

    def __init__(self, network: Any, *, choices: int, steps: int) -> None:
        super().__init__()
        self.network, self.choices, self.steps = network, choices, steps

    def forward(
        self, tokens: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Five outputs for tokens int32 [N, T].

        Returns:
            Surprisal of each token and the end (nats, float32 [N, T + 1]; 0 for padding); whether it was the most
            likely (int32 of the same shape); the most likely next tokens (int32 [N, choices]) and their probabilities
            (float32); and the continuation (int32 [N, steps]).
        """
        width = tokens.shape[1]
        length = real(tokens).sum(dim=1, keepdim=True)
        # Right-aligned, so that the last state of every row is the one to continue from.
        at = torch.arange(width + 1, device=tokens.device)
        begun = nn.functional.pad(tokens.long(), (1, 0), value=BEGIN)
        source = at - (width - length)
        moved = torch.where(source >= 0, torch.gather(begun, 1, source.clamp_min(0)), torch.full_like(begun, PAD))
        known, state = self.network.read(moved)
        place = (at + (width - length)).clamp_max(width)  # new position of each token's predecessor
        ordered = torch.gather(known, 1, place.unsqueeze(2).expand(-1, -1, known.shape[2]))
        surprise, hit = self._judged(ordered, followers(tokens))
        scores = self._allowed(self.network.scores(known[:, -1]).float())
        probabilities, likeliest = torch.topk(torch.softmax(scores, dim=1), self.choices, dim=1)
        continuation: list[torch.Tensor] = []
        for step in range(self.steps):
            if step:
                found, state = self.network.read(continuation[-1], state)
                scores = self._allowed(self.network.scores(found[:, -1]).float())
            continuation.append(scores.argmax(dim=1, keepdim=True))
        return surprise, hit, likeliest.int(), probabilities, torch.cat(continuation, dim=1).int()

    def _judged(self, known: torch.Tensor, wanted: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        surprises, hits = [], []
        for start in range(0, known.shape[1], _SCORED):
            scores = self.network.scores(known[:, start : start + _SCORED]).float()
            token = wanted[:, start : start + _SCORED].unsqueeze(2)
            own = torch.gather(scores, 2, token).squeeze(2)
            surprises.append(torch.logsumexp(scores, dim=2) - own)
            hits.append(own >= scores.amax(dim=2))
        counts = wanted != PAD
        return torch.cat(surprises, dim=1) * counts, (torch.cat(hits, dim=1) & counts).int()

    @staticmethod
    def _allowed(scores: torch.Tensor) -> torch.Tensor:
        token = torch.arange(scores.shape[1], device=scores.device)
        barred = (token == PAD) | (token == UNKNOWN) | (token == BEGIN)
        return torch.where(barred, torch.full_like(scores, _NEVER), scores)
