"""Output codec of translation: token ids -> text."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lepton_tasks.codecs.text import END, PAD, load_tokenizer


def decode_tokens(tokenizer: str, tokens: Sequence[int] | np.ndarray) -> str:
    """The text of token ids up to ``</s>``, without special tokens.

    Args:
        tokenizer: JSON of a Hugging Face tokenizer.
        tokens: Token ids, int [T].
    """
    ids = [int(token) for token in tokens if token != PAD]
    text: str = load_tokenizer(tokenizer).decode(ids[: ids.index(END)] if END in ids else ids)
    return text.strip()


@dataclasses.dataclass(frozen=True)
class GeneratedTextCodec:
    """Generated text.

    Args:
        tokenizer: JSON of the target language's Hugging Face tokenizer.
    """

    tokenizer: str

    def encode(self, outputs: Mapping[str, np.ndarray], row: int) -> dict[str, Any]:
        """The text, whether it is complete, and the geometric mean of its tokens' probabilities.

        Reads ``tokens`` (int [N, T]) and ``scores`` (mean log-probabilities of the tokens, float [N]).
        """
        tokens = outputs["tokens"][row]
        return {
            "text": decode_tokens(self.tokenizer, tokens),
            "complete": bool((tokens == END).any()),
            "probability": math.exp(float(outputs["scores"][row])),
        }
