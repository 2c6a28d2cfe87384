"""Source of JSON lines files."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.json as arrow_json

from lepton_tasks.core.errors import DataError
from lepton_tasks.data.sources.columns import TYPES, Schema, TypeName, common_schema, rejections
from lepton_tasks.data.sources.files import FileSource, TableFile
from lepton_tasks.data.sources.lines import (
    Range,
    Rejection,
    check_encoding,
    cut,
    decoded,
    head,
    read_blocks,
    records,
    without_mark,
)

_SAMPLE = 1 << 20  # bytes of each file used to infer types

Record = tuple[int, bytes]


class JsonLines(FileSource):
    """One row per line. Lines that are not objects, or have wrong types or unknown keys, are rejected by number.

    Missing keys are null. Nested objects and lists are kept.

    Args:
        path: A file, a folder of ``.jsonl`` and ``.ndjson``, a pattern, an archive or an address: see `find_files`.
        data_root: Set by the environment.
        types: ``int``, ``float``, ``bool``, ``text``, ``date`` or ``datetime`` of a column. Others are inferred from
            the first megabyte of every file; texts that are all ISO 8601 times become times.
        encoding: Encoding of all files.
    """

    def __init__(
        self, path: str, data_root: Path, types: dict[str, TypeName] | None = None, encoding: str = "utf-8"
    ) -> None:
        super().__init__(path, data_root, (".jsonl", ".ndjson"))
        check_encoding(encoding)
        self._types, self._encoding = types or {}, encoding

    def schema(self) -> Schema:
        """The keys of all samples, in order of occurrence."""
        return self._schema

    def pieces(self) -> list[JsonPiece]:
        """One per file; several for a large local file."""
        return [
            JsonPiece(file, span, self._encoding, self._schema, file.address)
            for file in self.files
            for span in cut(file)
        ]

    @functools.cached_property
    def _schema(self) -> Schema:
        return common_schema(((file.address, self._sample(file)) for file in self.files), self._types, optional=True)

    def _sample(self, file: TableFile) -> Schema:
        """The types in the first part of a file."""
        block, _ = decoded(without_mark(head(file, _SAMPLE)), self._encoding)
        found = list(records(block, None))
        if found and found[0][1].lstrip().startswith(b"["):
            raise DataError(
                "is one JSON array; expected one object per line.",
                where=file.address,
                fix="Convert it first: jq -c '.[]'.",
            )
        declared = pa.schema([(name, _arrow_type(TYPES[kind])) for name, kind in self._types.items()])
        tables, refused = _parsed(found, declared, others=True)
        if len(refused) > len(found) // 2:
            line, _, reason = refused[0]
            raise DataError(
                f"{len(refused):,} of the first {len(found):,} lines are no JSON objects, as line {line}: {reason}.",
                where=file.address,
                fix="The file must hold one object a line.",
            )
        # Separate tables arise where lines have different types for the same key.
        schemas = [_polars_types(table.schema) for table in tables]
        named = zip([file.address, *[f"{file.address} (other lines)"] * len(schemas)], schemas, strict=False)
        try:
            return common_schema(named, {}, optional=True)
        except RecursionError as error:
            raise DataError(
                "contains lists or objects nested hundreds deep.", where=file.address, fix="Flatten them first."
            ) from error


@dataclasses.dataclass(frozen=True)
class JsonPiece:
    """A file or a part of it."""

    file: TableFile
    span: Range
    encoding: str
    types: Schema
    origin: str
    parquet: str | None = None

    def read(self) -> Iterator[tuple[pl.DataFrame, pl.DataFrame]]:
        """Batches of about 4 MB."""
        empty = pl.DataFrame(schema=self.types)
        schema = pa.schema([(name, _arrow_type(dtype)) for name, dtype in self.types.items()])
        given = False
        for block in read_blocks(self.file, self.span):
            block, unreadable = decoded(without_mark(block), self.encoding)
            tables, refused = _parsed(list(records(block, None)), schema)
            rows = [pl.DataFrame(pl.from_arrow(table)) for table in tables]
            given = True
            lines = sorted(unreadable + refused, key=lambda refusal: refusal[0] or 0)
            yield pl.concat([empty, *rows]), rejections(lines)
        if not given:
            yield empty, rejections([])


def _parsed(
    lines: Sequence[Record], schema: pa.Schema, *, others: bool = False
) -> tuple[list[pa.Table], list[Rejection]]:
    """Parse lines; invalid ones are located by bisection, which is cheap for a few of them.

    Args:
        lines: Non-empty lines.
        schema: Columns with required types.
        others: Whether to allow other columns, of any type.
    """
    if not lines:
        return [], []
    data = b"\n".join(line for _, line in lines)
    try:
        table = arrow_json.read_json(
            pa.BufferReader(data),
            arrow_json.ReadOptions(use_threads=False, block_size=len(data) + 1),
            arrow_json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="infer" if others else "error"),
        )
    except pa.ArrowInvalid as error:
        if len(lines) == 1:
            reason = str(error).removeprefix("JSON parse error: ").removesuffix(" in row 0").rstrip(".")
            return [], [(lines[0][0], data.decode(), reason)]
        middle = len(lines) // 2
        (first, refused), (last, more) = (
            _parsed(half, schema, others=others) for half in (lines[:middle], lines[middle:])
        )
        return first + last, refused + more
    return [table], []


def _polars_types(schema: pa.Schema) -> Schema:
    """Polars types, with times in microseconds, since later ones may have fractions of a second."""
    types = dict(pl.DataFrame(pl.from_arrow(schema.empty_table())).schema)
    return {name: pl.Datetime("us") if dtype == pl.Datetime else dtype for name, dtype in types.items()}


def _arrow_type(dtype: pl.DataType) -> pa.DataType:
    """The Arrow type, restricted to those that its JSON reader supports."""
    if isinstance(dtype, pl.List):
        return pa.list_(_arrow_type(dtype.inner))  # type: ignore[arg-type]  # Polars allows a class for an instance
    if isinstance(dtype, pl.Struct):
        return pa.struct([(field.name, _arrow_type(field.dtype)) for field in dtype.fields])  # type: ignore[arg-type]
    if dtype == pl.String:
        return pa.string()
    return pl.Series(dtype=dtype).to_arrow().type
