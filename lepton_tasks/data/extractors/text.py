"""Features `text`: token ids."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import polars as pl
import pydantic

from lepton_tasks.codecs.text import load_tokenizer, padded, token_ids
from lepton_tasks.core.context import RunContext
from lepton_tasks.core.errors import ConfigError
from lepton_tasks.core.use_case import Expectation
from lepton_tasks.data.extractors.expectations import TOKENS
from lepton_tasks.data.extractors.vectors import train_vectors
from lepton_tasks.data.extractors.vocabulary import Kind, framed, train_vocabulary
from lepton_tasks.data.requests import json_request, select_rows
from lepton_tasks.data.tables.arrays import ArrayFile
from lepton_tasks.data.tables.rows import TableRows
from lepton_tasks.data.tables.steps.text import Columns, check_text, joined_text

Tokens = tuple[np.ndarray, np.ndarray]
"""Concatenated tokens of texts, and the number of tokens of each."""

Count = Annotated[int, pydantic.Field(ge=1)]


@dataclasses.dataclass(frozen=True)
class Texts:
    """The canonical texts of a split, part by part; can be iterated repeatedly."""

    rows: TableRows
    columns: Sequence[str]
    ctx: RunContext

    def __iter__(self) -> Iterator[list[str]]:
        return self.rows.select(self.columns).map(functools.partial(texts_of, self.columns), self.ctx, unit="texts")


def check_inputs(schema: Mapping[str, pl.DataType], columns: Sequence[str], label: str | None) -> None:
    """Raise `ConfigError` if a column is not text, or is the label."""
    check_text(schema, columns)
    if label in columns:
        raise ConfigError(f"the label {label!r} is among the inputs.", where="columns", fix="Remove it.")


def tokens_of(rows: TableRows, columns: Sequence[str], tokenizer: str, ctx: RunContext) -> Iterator[Tokens]:
    """The tokens of each part's texts."""
    return rows.select(columns).map(functools.partial(_tokens, columns, tokenizer), ctx, unit="texts")


def write_tokens(parts: Iterator[Tokens], folder: Path, width: int, *, name: str, lengths: str) -> dict[str, Any]:
    """Write ``<name>.npy``, int32 [N, width] padded with 0, and ``<lengths>.npy``, int32 [N]."""
    with (
        ArrayFile(folder / f"{name}.npy", np.int32, (width,)) as table,
        ArrayFile(folder / f"{lengths}.npy", np.int32) as counts,
    ):
        for ids, sizes in parts:
            table.append(padded(ids, sizes, width))
            counts.append(sizes)
    return {"rows": table.rows, "bytes": 4 * table.rows * (width + 1)}


def texts_of(columns: Sequence[str], rows: pl.DataFrame) -> list[str]:
    """The canonical text of each row."""
    texts: list[str] = rows.select(joined_text(columns)).to_series().to_list()
    return texts


def text_requests(rows: pl.DataFrame, columns: Sequence[str]) -> list[bytes]:
    """Encode rows as request bodies: plain text for one column, a JSON object for several; null as empty."""
    rows = rows.with_columns(pl.col(columns).fill_null(""))
    if len(columns) == 1:
        return [text.encode() for text in rows[columns[0]]]
    return [json_request(row, columns) for row in rows.iter_rows(named=True)]


def _tokens(columns: Sequence[str], tokenizer: str, rows: pl.DataFrame) -> Tokens:
    return token_ids(load_tokenizer(tokenizer), texts_of(columns, rows))


@dataclasses.dataclass(frozen=True)
class TextFeatures:
    """Texts as token ids of fixed length.

    Args:
        columns: Text columns, joined by spaces.
        tokenizer: ``word``, ``bpe`` or ``wordpiece``: see `train_vocabulary`.
        vocab_size: Maximum size of the vocabulary.
        max_length: Tokens per row; longer texts are truncated.
        lowercase: Whether to ignore case.
        min_count: Minimum count of a word in the training split.
        vectors: Dimension of word vectors to train on the training split; null for none. See `word_vectors`.
    """

    columns: Columns = ("text",)
    tokenizer: Kind = "word"
    vocab_size: Annotated[int, pydantic.Field(ge=16, le=1_000_000)] = 20_000
    max_length: Annotated[int, pydantic.Field(ge=1, le=16_384)] = 128
    lowercase: bool = True
    min_count: Count = 2
    vectors: Annotated[int, pydantic.Field(ge=2, le=1_024)] | None = None

    @staticmethod
    def expectations(stage: Literal["raw", "features"]) -> Sequence[Expectation]:
        """Default expectations of these features."""
        return TOKENS[stage]

    def check(self, schema: Mapping[str, pl.DataType], label: str | None) -> None:
        """Raise `ConfigError` unless the columns are text."""
        check_inputs(schema, self.columns, label)

    def fit(self, rows: TableRows, ctx: RunContext) -> dict[str, Any]:
        """The tokenizer, as JSON, and the word vectors, if they are asked for."""
        vocabulary = train_vocabulary(
            Texts(rows, self.columns, ctx),
            kind=self.tokenizer,
            size=self.vocab_size,
            lowercase=self.lowercase,
            min_count=self.min_count,
        )
        tokenizer = framed(vocabulary, max_length=self.max_length)
        known = load_tokenizer(tokenizer).get_vocab_size()
        fitted = {"tokenizer": tokenizer, "vocabulary": known, "max_length": self.max_length}
        if self.vectors is not None:
            fitted["vectors"] = train_vectors(tokens_of(rows, self.columns, vocabulary, ctx), known, self.vectors)
        return fitted

    def transform(self, rows: TableRows, fitted: Mapping[str, Any], folder: Path, ctx: RunContext) -> dict[str, Any]:
        """Write ``inputs.npy``, int32 [N, max_length] padded with 0, and ``lengths.npy``, int32 [N]."""
        tokens = tokens_of(rows, self.columns, fitted["tokenizer"], ctx)
        return write_tokens(tokens, folder, self.max_length, name="inputs", lengths="lengths")

    def codec(self, fitted: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
        """`TextCodec` with the fitted tokenizer."""
        params = {"tokenizer": fitted["tokenizer"], "max_length": self.max_length, "columns": list(self.columns)}
        return "text", params

    def requests(self, rows: TableRows, numbers: np.ndarray, fitted: Mapping[str, Any]) -> list[bytes]:
        """The texts as they are, or as JSON objects if there are several columns."""
        return text_requests(select_rows(rows.select(self.columns), numbers), self.columns)
