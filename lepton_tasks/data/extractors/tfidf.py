"""Features `tfidf`: text -> TF-IDF weights."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import polars as pl
import pydantic

from lepton_tasks.codecs.text import SPECIAL, TfidfCodec, load_tokenizer
from lepton_tasks.core.context import RunContext
from lepton_tasks.core.use_case import Expectation
from lepton_tasks.data.extractors.expectations import SPARSE
from lepton_tasks.data.extractors.text import Count, Texts, check_inputs, text_requests, texts_of, tokens_of
from lepton_tasks.data.extractors.vocabulary import Kind, train_vocabulary
from lepton_tasks.data.requests import select_rows
from lepton_tasks.data.tables.arrays import ArrayFile
from lepton_tasks.data.tables.rows import TableRows
from lepton_tasks.data.tables.steps.text import Columns


@dataclasses.dataclass(frozen=True)
class TfidfFeatures:
    """Texts as TF-IDF weights, for linear models.

    Args:
        columns: Text columns, joined by spaces.
        tokenizer: ``word``, ``bpe`` or ``wordpiece``: see `train_vocabulary`.
        vocab_size: Maximum size of the vocabulary.
        lowercase: Whether to ignore case.
        min_count: Minimum count of a word in the training split.
        max_share: Words in a larger fraction of the texts get weight 0.
    """

    columns: Columns = ("text",)
    tokenizer: Kind = "word"
    vocab_size: Annotated[int, pydantic.Field(ge=16, le=1_000_000)] = 20_000
    lowercase: bool = True
    min_count: Count = 2
    max_share: Annotated[float, pydantic.Field(gt=0, le=1)] = 1.0

    @staticmethod
    def expectations(stage: Literal["raw", "features"]) -> Sequence[Expectation]:
        """Default expectations of these features."""
        return SPARSE[stage]

    def check(self, schema: Mapping[str, pl.DataType], label: str | None) -> None:
        """Raise `ConfigError` unless the columns are text."""
        check_inputs(schema, self.columns, label)

    def fit(self, rows: TableRows, ctx: RunContext) -> dict[str, Any]:
        """The tokenizer as JSON, and the idf of each token, ln((1 + N) / (1 + texts with it)) + 1."""
        tokenizer = train_vocabulary(
            Texts(rows, self.columns, ctx),
            kind=self.tokenizer,
            size=self.vocab_size,
            lowercase=self.lowercase,
            min_count=self.min_count,
        )
        known = load_tokenizer(tokenizer).get_vocab_size()
        count, occurs = 0, np.zeros(known, np.int64)
        for ids, lengths in tokens_of(rows, self.columns, tokenizer, ctx):
            cells = np.unique(np.repeat(np.arange(len(lengths), dtype=np.int64), lengths) * known + ids)
            occurs += np.bincount(cells % known, minlength=known)
            count += len(lengths)
        idf = np.log((1 + count) / (1 + occurs)) + 1
        idf[occurs > self.max_share * count] = 0
        idf[: len(SPECIAL)] = 0
        return {"tokenizer": tokenizer, "vocabulary": known, "idf": idf.tolist()}

    def transform(self, rows: TableRows, fitted: Mapping[str, Any], folder: Path, ctx: RunContext) -> dict[str, Any]:
        """Write one split as a CSR matrix with rows of unit length.

        The weights of row ``i`` are ``inputs_values.npy[a:b]`` (float32) in the columns ``inputs_columns.npy[a:b]``
        (int32), with ``a, b = inputs_offsets.npy[i : i + 2]`` (int64 [N + 1]).
        """
        codec = TfidfCodec(**self.codec(fitted)[1])
        encode = functools.partial(_weights, codec, self.columns)
        kinds = {"values": np.float32, "columns": np.int32, "offsets": np.int64}
        with contextlib.ExitStack() as stack:
            files = {
                name: stack.enter_context(ArrayFile(folder / f"inputs_{name}.npy", kind))
                for name, kind in kinds.items()
            }
            files["offsets"].append(np.zeros(1, np.int64))
            for values, columns, sizes in rows.select(self.columns).map(encode, ctx, unit="texts"):
                files["offsets"].append(files["values"].rows + np.cumsum(sizes))
                files["values"].append(values)
                files["columns"].append(columns)
        rows_written, cells = files["offsets"].rows - 1, files["values"].rows
        return {"rows": rows_written, "bytes": 8 * (rows_written + 1) + 8 * cells}

    def codec(self, fitted: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
        """`TfidfCodec` with the fitted weights."""
        return "tfidf", {"tokenizer": fitted["tokenizer"], "idf": fitted["idf"], "columns": list(self.columns)}

    def requests(self, rows: TableRows, numbers: np.ndarray, fitted: Mapping[str, Any]) -> list[bytes]:
        """The texts, or JSON objects for several columns."""
        return text_requests(select_rows(rows.select(self.columns), numbers), self.columns)


def _weights(codec: TfidfCodec, columns: Sequence[str], rows: pl.DataFrame) -> tuple[np.ndarray, ...]:
    return codec.encode(texts_of(columns, rows))
