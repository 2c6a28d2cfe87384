"""Features `text_pair`: source and target text -> token ids."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import polars as pl
import pydantic

from lepton_tasks.codecs.text import load_tokenizer
from lepton_tasks.core.context import RunContext
from lepton_tasks.core.errors import ConfigError
from lepton_tasks.core.use_case import Expectation
from lepton_tasks.data.extractors.expectations import TOKENS
from lepton_tasks.data.extractors.text import Count, Texts, text_requests, tokens_of, write_tokens
from lepton_tasks.data.extractors.vocabulary import Kind, framed, train_vocabulary
from lepton_tasks.data.requests import select_rows
from lepton_tasks.data.tables.rows import TableRows
from lepton_tasks.data.tables.steps.text import check_text


@dataclasses.dataclass(frozen=True)
class TextPairFeatures:
    """Source and target texts as token ids.

    Args:
        source: Source text column.
        target: Target text column.
        tokenizer: ``word``, ``bpe`` or ``wordpiece``: see `train_vocabulary`.
        vocabulary: ``joint`` for both sides, suitable for languages with a common script; or ``separate``.
        vocab_size: Maximum size of a vocabulary.
        max_length: Tokens per row, including ``<s>`` and ``</s>``; longer texts are truncated.
        lowercase: Whether to ignore case.
        min_count: Minimum count of a word, or a pair to merge, in the training split.
    """

    source: str
    target: str
    tokenizer: Kind = "bpe"
    vocabulary: Literal["joint", "separate"] = "joint"
    vocab_size: Annotated[int, pydantic.Field(ge=16, le=1_000_000)] = 8_000
    max_length: Annotated[int, pydantic.Field(ge=3, le=16_384)] = 64
    lowercase: bool = False
    min_count: Count = 2

    @staticmethod
    def expectations(stage: Literal["raw", "features"]) -> Sequence[Expectation]:
        """Default expectations of these features."""
        return TOKENS[stage]

    def check(self, schema: Mapping[str, pl.DataType], label: str | None) -> None:
        """Raise `ConfigError` unless both columns are text and there is no label."""
        check_text(schema, [self.source, self.target], where="source, target")
        if label is not None:
            raise ConfigError(
                f"the features `text_pair` learn the column {self.target!r}, not a label.",
                where="data.label",
                fix="Set `label: null`.",
            )

    def fit(self, rows: TableRows, ctx: RunContext) -> dict[str, Any]:
        """Both tokenizers as JSON, with the same vocabulary if it is joint."""
        sides = [self.source, self.target]
        groups = [sides] if self.vocabulary == "joint" else [[side] for side in sides]
        learned = [self._vocabulary(rows, columns, ctx) for columns in groups]
        source = framed(learned[0], max_length=self.max_length, end=True)
        target = framed(learned[-1], max_length=self.max_length, begin=True, end=True)
        return {
            "tokenizer": source,
            "target_tokenizer": target,
            "vocabulary": load_tokenizer(source).get_vocab_size(),
            "target_vocabulary": load_tokenizer(target).get_vocab_size(),
            "max_length": self.max_length,
        }

    def _vocabulary(self, rows: TableRows, columns: list[str], ctx: RunContext) -> str:
        return train_vocabulary(
            Texts(rows, columns, ctx),
            kind=self.tokenizer,
            size=self.vocab_size,
            lowercase=self.lowercase,
            min_count=self.min_count,
        )

    def transform(self, rows: TableRows, fitted: Mapping[str, Any], folder: Path, ctx: RunContext) -> dict[str, Any]:
        """Write one split as arrays.

        ``inputs.npy``, int32 [N, max_length]: the source's tokens and ``</s>``, then 0; ``targets.npy``, of the same
        shape: ``<s>``, the target's tokens, ``</s>``, then 0; ``lengths.npy`` and ``target_lengths.npy``, int32 [N].
        """
        source = tokens_of(rows, [self.source], fitted["tokenizer"], ctx)
        target = tokens_of(rows, [self.target], fitted["target_tokenizer"], ctx)
        facts = write_tokens(source, folder, self.max_length, name="inputs", lengths="lengths")
        more = write_tokens(target, folder, self.max_length, name="targets", lengths="target_lengths")
        return {"rows": facts["rows"], "bytes": facts["bytes"] + more["bytes"]}

    def codec(self, fitted: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
        """`TextCodec` of the source text."""
        params = {"tokenizer": fitted["tokenizer"], "max_length": self.max_length, "columns": [self.source]}
        return "text", params

    def requests(self, rows: TableRows, numbers: np.ndarray, fitted: Mapping[str, Any]) -> list[bytes]:
        """The source texts."""
        return text_requests(select_rows(rows.select([self.source]), numbers), [self.source])
