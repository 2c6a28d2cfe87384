"""Shared code of sequence-to-sequence models: teacher forcing and beam search.

Networks implement `forward` (training), `logits`, and `begin` and `step` (generation, one token at a time).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch._higher_order_ops.while_loop import while_loop

from lepton_tasks.codecs.text import BEGIN, END, PAD, UNKNOWN
from lepton_tasks.models.tokens import trimmed

State = tuple[torch.Tensor, ...]
"""Tensors whose first axis is the batch."""

_NEVER = -1e9  # a log-probability below any that adds up; infinities would give NaN when multiplied by 0
_ROWS_AT_ONCE = 64  # of logits; 1.5 MB for a vocabulary of 6,000
_TOKENS_AT_ONCE = 4_096  # whose logits are in memory together outside training: 100 MB for a vocabulary of 6,000


class Seq2Seq(nn.Module):
    """Protocol of a network that generates a text from another."""

    target_vocabulary: int

    def forward(self, source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """The state after each token of the target: float [N, T, width] of tokens int [N, S] and int [N, T].

        The state at a position does not depend on later tokens.
        """
        raise NotImplementedError

    def logits(self, known: torch.Tensor) -> torch.Tensor:
        """Next-token logits float [..., V] of states float [..., width]."""
        raise NotImplementedError

    def begin(self, source: torch.Tensor, length: int) -> tuple[State, State]:
        """Context for `step` from source tokens int [N, S], and the initial state for `length` tokens."""
        raise NotImplementedError

    def step(self, token: torch.Tensor, at: torch.Tensor, context: State, state: State) -> tuple[torch.Tensor, State]:
        """Logits float [N, V] of the token after `token`, int [N], at position `at` (int scalar)."""
        raise NotImplementedError

    def attention(self, source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Attention weights of source positions for the token after each target token: float [N, T, S]."""
        raise NotImplementedError


def pair_of(pairs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Split concatenated rows int [N, 2 W] into source and target, without all-padding columns."""
    source, target = pairs.chunk(2, dim=1)
    return trimmed(source), trimmed(target)


class TeacherForced(nn.Module):
    """Log-probability of each target token given the preceding ones.

    Args:
        network: The `Seq2Seq` to train.
    """

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def forward(self, pairs: torch.Tensor) -> torch.Tensor:
        """Two log-probabilities, float32 [M, 2], for each of the M target tokens of pairs int [N, 2 W].

        The first is that of the target token, the second the mean over the vocabulary, for label smoothing.
        """
        source, target = pair_of(pairs)
        wanted = target[:, 1:].long()
        real = wanted != PAD
        logits = self.network.logits(self.network(source, target[:, :-1])[real])
        likely: torch.Tensor = _Likelihood.apply(logits, wanted[real])  # type: ignore[no-untyped-call]  # torch's
        return likely


class _Likelihood(torch.autograd.Function):
    """Log-probability of one token each, int64 [M], and the mean over all; float32 [M, 2] of logits float [M, V].

    Processes a few rows at a time, which fit the cache: with torch's functions on whole arrays, this is a quarter of a
    training step on a CPU.
    """

    @staticmethod
    def forward(ctx: Any, logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        levels = torch.cat([some.float().logsumexp(dim=1) for some in logits.split(_rows_at_once(logits))])
        ctx.save_for_backward(logits, tokens, levels)
        chosen = logits.gather(1, tokens.unsqueeze(1)).squeeze(1).float()
        return torch.stack([chosen - levels, logits.mean(dim=1, dtype=torch.float32) - levels], dim=1)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        logits, tokens, levels = ctx.saved_tensors
        chosen, mean = gradients[0].unbind(dim=1)
        result = torch.empty_like(logits)
        for start in range(0, len(logits), _rows_at_once(logits)):
            rows = slice(start, start + _rows_at_once(logits))
            part = logits[rows].to(torch.float32, copy=True).sub_(levels[rows].unsqueeze(1)).exp_()
            part.mul_(-(chosen + mean)[rows].unsqueeze(1)).add_((mean[rows] / logits.shape[1]).unsqueeze(1))
            part.scatter_add_(1, tokens[rows].unsqueeze(1), chosen[rows].unsqueeze(1))
            result[rows] = part
        return result, None


def _rows_at_once(logits: torch.Tensor) -> int:
    return _ROWS_AT_ONCE if logits.device.type == "cpu" else max(1, len(logits))  # small calls would stall a GPU


class Scored(nn.Module):
    """Teacher-forced likelihood and accuracy of given targets.

    Args:
        network: The `Seq2Seq` to evaluate.
    """

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def forward(self, pairs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Per row of pairs int [N, 2 W], the sum of log-probabilities and the number of correct tokens.

        Both are float32 [N].
        """
        source, target = pair_of(pairs)
        known, wanted = self.network(source, target[:, :-1]), target[:, 1:].long()
        real = wanted != PAD
        chosen, right = [], []
        for some, tokens in zip(known[real].split(_TOKENS_AT_ONCE), wanted[real].split(_TOKENS_AT_ONCE), strict=True):
            logits = self.network.logits(some).float()
            chosen.append(torch.log_softmax(logits, dim=1).gather(1, tokens.unsqueeze(1)).squeeze(1))
            right.append((logits.argmax(dim=1) == tokens).float())
        table = torch.zeros((2, *wanted.shape), device=pairs.device)
        table[0][real], table[1][real] = torch.cat(chosen), torch.cat(right)
        return table[0].sum(dim=1), table[1].sum(dim=1)


class BeamSearch(nn.Module):
    """Beam search for the most likely text; greedy with one beam.

    The graph is a loop that stops when all beams of all rows have ended, so short texts are fast.

    Args:
        network: The `Seq2Seq` to decode with.
        beams: Number of beams per text.
        length: Maximum number of tokens, ``</s>`` included.
        penalty: Length penalty: beams are ranked by log-probability / length**penalty; 0 favours short ones.

    Source: Sutskever et al., "Sequence to sequence learning with neural networks", 2014; the power of the length by Wu
    et al., "Google's neural machine translation system", 2016, simplified.
    """

    def __init__(self, network: Any, *, beams: int = 4, length: int = 64, penalty: float = 1.0) -> None:
        super().__init__()
        self.network = network
        self.beams, self.length, self.penalty = beams, length, penalty
        self.most_rows = max(1, 256 // beams)  # keeps the state of all beams below 100 MB

    def forward(self, source: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Generated tokens for source tokens int32 [N, S], and their mean log-probability.

        The first is int32 [N, length], with 0 after ``</s>``; the second float32 [N].
        """
        rows, beams, length = source.shape[0], self.beams, self.length
        context, state = self.network.begin(source, length)
        context, state = (tuple(_each(part, beams) for part in parts) for parts in (context, state))
        after_end = torch.where(torch.arange(beams, device=source.device) == 0, 0.0, _NEVER)
        score = after_end.expand(rows, beams).clone()  # all beams start equal: expand only one
        token = source.new_full((rows * beams,), BEGIN, dtype=torch.int64)
        text = source.new_full((rows * beams, length), PAD, dtype=torch.int64)
        ended = torch.zeros_like(token, dtype=torch.bool)
        at = torch.zeros((), dtype=torch.int64, device=source.device)
        offsets = torch.arange(rows, device=source.device).unsqueeze(1) * beams
        places = torch.arange(length, device=source.device)
        tokens = torch.arange(self.network.target_vocabulary, device=source.device)
        barred = (tokens == PAD) | (tokens == UNKNOWN) | (tokens == BEGIN)

        def go_on(
            at: torch.Tensor, token: torch.Tensor, text: torch.Tensor, ended: torch.Tensor, *_: torch.Tensor
        ) -> torch.Tensor:
            return (at < length) & ~ended.all()

        def write(
            at: torch.Tensor,
            token: torch.Tensor,
            text: torch.Tensor,
            ended: torch.Tensor,
            score: torch.Tensor,
            *state: torch.Tensor,
        ) -> tuple[torch.Tensor, ...]:
            logits, state = self.network.step(token, at, context, state)
            logits = logits.float().masked_fill(barred, _NEVER)
            found, tokens = logits.topk(beams, dim=1)
            # A finished beam has one continuation, at no cost.
            likely = torch.where(ended.unsqueeze(1), after_end, found - logits.logsumexp(dim=1, keepdim=True))
            tokens = tokens.masked_fill(ended.unsqueeze(1), PAD)
            total = (score.unsqueeze(2) + likely.unflatten(0, (-1, beams))).flatten(1)
            score, best = total.topk(beams, dim=1)
            draft = (offsets + best // beams).view(-1)
            token = tokens.unflatten(0, (-1, beams)).flatten(1).gather(1, best).view(-1)
            text = torch.where((places == at).unsqueeze(0), token.unsqueeze(1), text[draft])
            ended = ended[draft] | (token == END)
            return (at + 1, token, text, ended, score, *(part[draft] for part in state))

        drafts: tuple[torch.Tensor, ...] = (at, token, text, ended, score, *state)
        if torch.compiler.is_exporting():
            drafts = while_loop(go_on, write, drafts)
        else:  # equivalent, without the compiler that `while_loop` invokes
            while go_on(*drafts):
                drafts = write(*drafts)
        text, score = drafts[2], drafts[4]
        text = text.view(rows, beams, length)
        lengths = (text != PAD).sum(dim=2).clamp_min(1).float()
        best = (score / lengths**self.penalty).argmax(dim=1, keepdim=True)
        chosen = text.gather(1, best.unsqueeze(2).expand(rows, 1, length)).squeeze(1)
        return chosen.int(), (score / lengths).gather(1, best).squeeze(1)


def _each(part: torch.Tensor, times: int) -> torch.Tensor:
    """Repeat each row `times` times, consecutively."""
    return part.repeat_interleave(times, dim=0) if times > 1 else part
