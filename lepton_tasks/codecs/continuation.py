"""Output codec of language models: token probabilities -> words."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from lepton_tasks.codecs.text import END, load_tokenizer


@dataclasses.dataclass(frozen=True)
class ContinuationCodec:
    """Next words, a continuation and perplexity.

    Args:
        tokenizer: JSON of a Hugging Face tokenizer.
    """

    tokenizer: str

    def encode(self, outputs: Mapping[str, np.ndarray], row: int) -> dict[str, Any]:
        """The next words with their probabilities, a continuation, and the text's perplexity including its end token.

        ``end`` marks the end token among the next words; a continuation stops there.
        """
        tokens = [int(token) for token in outputs["continuation"][row]]
        surprise = outputs["surprise"][row]
        counted = surprise[surprise > 0]
        return {
            "next": [
                {"text": self._text([int(token)]), "end": int(token) == END, "probability": float(probability)}
                for token, probability in zip(outputs["next"][row], outputs["probabilities"][row], strict=True)
            ],
            "continuation": self._text(tokens[: tokens.index(END)] if END in tokens else tokens),
            "complete": END in tokens,
            "perplexity": float(np.exp(counted.mean(dtype=np.float64))) if len(counted) else 1.0,
        }

    def _text(self, tokens: list[int]) -> str:
        text: str = load_tokenizer(self.tokenizer).decode(tokens, skip_special_tokens=True)
        return text
