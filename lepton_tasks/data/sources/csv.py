"""Source of CSV files."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any

import polars as pl
import pyarrow as pa
import pyarrow.csv as arrow_csv
import pydantic

from lepton_tasks.core.errors import DataError
from lepton_tasks.data.sources.columns import (
    Schema,
    TypeName,
    check_reserved,
    common_schema,
    inferred,
    rejections,
    typed,
)
from lepton_tasks.data.sources.files import FileSource, TableFile
from lepton_tasks.data.sources.lines import (
    Block,
    Range,
    Rejection,
    check_encoding,
    cut,
    decoded,
    head,
    read_blocks,
    records,
    without_first,
    without_mark,
)

_SAMPLE = 1 << 20  # bytes of each file used to infer types
_SNIFFED = 50  # records used to infer the delimiter
_DELIMITERS = ",;\t|"

Sign = Annotated[str, pydantic.Field(min_length=1, max_length=1)]
_QUICK: dict[pl.DataType, pa.DataType] = {pl.Int64(): pa.int64(), pl.Float64(): pa.float64()}
_NO_NUMBER = re.compile(r"In CSV column #(\d+): (?:Row #\d+: )?CSV conversion error")
_RECORD = "__record"  # column with the number of the record in its block


@dataclasses.dataclass(frozen=True)
class Dialect:
    """CSV dialect of a file.

    Attributes:
        delimiter: Field delimiter.
        quote: Quote character; None for no quoting.
        encoding: Encoding of the file.
        names: The columns, in file order.
        header: Whether the first line is a header.
        missing: Texts that represent a missing value.
    """

    delimiter: str
    quote: str | None
    encoding: str
    names: tuple[str, ...]
    header: bool
    missing: tuple[str, ...]


class Csv(FileSource):
    """One row per record. Records with wrong fields or types are rejected by line number.

    Args:
        path: A file, a folder of ``.csv`` and ``.tsv``, a pattern, an archive or an address: see `find_files`.
        data_root: Set by the environment.
        delimiter: Field delimiter; null to infer it from the first records of each file.
        columns: Column names, for files without header.
        types: ``int``, ``float``, ``bool``, ``text``, ``date`` or ``datetime`` of a column. Others are inferred from
            the first megabyte of every file; integers in one file and floats in another give floats.
        missing: Texts that represent a missing value, in addition to the empty text.
        encoding: Encoding of all files.
        quote: Quote character; null for no quoting.
    """

    def __init__(
        self,
        path: str,
        data_root: Path,
        delimiter: Sign | None = None,
        columns: tuple[str, ...] | None = None,
        types: dict[str, TypeName] | None = None,
        missing: tuple[str, ...] = (),
        encoding: str = "utf-8",
        quote: Sign | None = '"',
    ) -> None:
        super().__init__(path, data_root, (".csv", ".tsv"))
        check_encoding(encoding)
        self._delimiter, self._columns, self._types = delimiter, columns, types or {}
        self._missing, self._encoding, self._quote = ("", *missing), encoding, quote

    def schema(self) -> Schema:
        """The columns of all files, with types that fit every sample."""
        return self._schema

    def pieces(self) -> list[CsvPiece]:
        """One per file; several for a large local file."""
        return [
            CsvPiece(file, span, dialect, self._schema, file.address)
            for file, (dialect, _) in zip(self.files, self._heads, strict=True)
            for span in cut(file, quote=self._quote)
        ]

    @functools.cached_property
    def _schema(self) -> Schema:
        samples = [(file.address, schema) for file, (_, schema) in zip(self.files, self._heads, strict=True)]
        return common_schema(samples, self._types)

    @functools.cached_property
    def _heads(self) -> list[tuple[Dialect, Schema]]:
        return [self._head(file) for file in self.files]

    def _head(self, file: TableFile) -> tuple[Dialect, Schema]:
        """Dialect of a file, and the types inferred from its beginning."""
        block = without_mark(head(file, _SAMPLE, quote=self._quote))
        first, rest = without_first(block, self._quote)
        few = itertools.islice(records(block, self._quote), _SNIFFED)
        sniffed = [record.decode(self._encoding, "replace") for _, record in few]
        delimiter = self._delimiter or _sniffed(sniffed, self._quote)
        names = _fields(first.decode(self._encoding, "replace"), delimiter, self._quote)
        if self._columns is not None:
            rest = block
            _check_width(len(names), self._columns, file.address)
            names = list(self._columns)
        else:
            names = [name.strip() for name in names]
            self._check_header(names, delimiter, sniffed, file.address)
        dialect = Dialect(delimiter, self._quote, self._encoding, tuple(names), self._columns is None, self._missing)
        rest, refused = decoded(rest, self._encoding, self._quote)
        texts, reasons = _texts(rest, dialect)
        refused += _located(rest, self._quote, reasons, len(texts) + len(reasons))
        if len(refused) > len(texts):
            raise DataError(
                f"{len(refused):,} of the first {len(refused) + len(texts):,} records are no rows, as "
                f"line {refused[0][0]}: {refused[0][2]}.",
                where=file.address,
                fix="Declare how the file is written: `delimiter`, `encoding` (e.g. latin-1), `quote` in "
                "`data.source.params`.",
            )
        return dialect, {name: inferred(texts[name]) for name in names}

    def _check_header(self, names: list[str], delimiter: str, sniffed: list[str], address: str) -> None:
        if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
            raise DataError(
                f"the header names {twice[0]!r} {names.count(twice[0])} times.",
                where=address,
                fix="Rename the columns in the file.",
            )
        check_reserved(names, address)
        better = _sniffed(sniffed, self._quote)
        fields = _fields(sniffed[0], better, self._quote)
        if len(names) == 1 < len(fields):
            raise DataError(
                f"parted at {delimiter!r}, there is one column, {names[0]!r}; at {better!r} there are {len(fields)}.",
                where=address,
                fix=f"Write `delimiter: {better!r}` in `data.source.params`, or leave it out.",
            )


@dataclasses.dataclass(frozen=True)
class CsvPiece:
    """A file or a part of it."""

    file: TableFile
    span: Range
    dialect: Dialect
    types: Schema
    origin: str
    parquet: str | None = None

    def read(self) -> Iterator[tuple[pl.DataFrame, pl.DataFrame]]:
        """Batches of about 4 MB."""
        given = False
        quick = {name: _QUICK[dtype] for name, dtype in self.types.items() if dtype in _QUICK}
        for block in read_blocks(self.file, self.span, quote=self.dialect.quote):
            if block.line == 1:
                block = without_mark(block)
                if self.dialect.header:
                    block = without_first(block, self.dialect.quote)[1]
            given = True
            block, unreadable = decoded(block, self.dialect.encoding, self.dialect.quote)
            texts, reasons = _fields_of(block, self.dialect, quick)
            total = len(texts) + len(reasons)
            rows, wrong = typed(texts, {name: self.types[name] for name in self.dialect.names})
            reasons |= dict(zip(texts[_RECORD].gather(wrong["index"]), wrong["reason"], strict=True))
            refused = unreadable + _located(block, self.dialect.quote, reasons, total)
            yield rows.select(list(self.types)), rejections(sorted(refused, key=lambda refusal: refusal[0] or 0))
        if not given:
            yield pl.DataFrame(schema=self.types), rejections([])


def _fields_of(block: Block, dialect: Dialect, quick: dict[str, pa.DataType]) -> tuple[pl.DataFrame, dict[int, str]]:
    """Like `_texts`, with the columns in `quick` parsed as numbers; columns that fail are removed from `quick`.

    Arrow parses numbers at a fifth of the cost. Where it would accept more than `parsed` does (0x1F, nan), and where it
    fails, columns are read as text, so that the result is the same.
    """
    hexadecimal = any(sign in block.data and b"0" + sign in block.data for sign in (b"x", b"X"))  # one byte: quick
    while True:
        types = {name: dtype for name, dtype in quick.items() if not (hexadecimal and dtype == pa.int64())}
        try:
            fields, reasons = _texts(block, dialect, types)
        except pa.ArrowInvalid as error:
            found = _NO_NUMBER.search(str(error))
            if found is None or dialect.names[int(found[1])] not in types:
                raise
            del quick[dialect.names[int(found[1])]]
            continue
        odd = [name for name in types if fields[name].dtype == pl.Float64 and not fields[name].is_finite().all()]
        if not odd:
            return fields, reasons
        for name in odd:
            del quick[name]


def _texts(
    block: Block, dialect: Dialect, types: Mapping[str, pa.DataType] = MappingProxyType({})
) -> tuple[pl.DataFrame, dict[int, str]]:
    """Fields as text, or of `types`, with their record number, and rejected records with reasons."""
    if not block.data.strip():
        return pl.DataFrame(schema={_RECORD: pl.Int64} | dict.fromkeys(dialect.names, pl.String)), {}
    ragged: dict[int, str] = {}

    def skip(row: Any) -> str:
        fields = "1 field" if row.actual_columns == 1 else f"{row.actual_columns} fields"
        ragged[row.number - 1] = f"{fields}, not {row.expected_columns}"
        return "skip"

    table = arrow_csv.read_csv(
        pa.BufferReader(block.data),
        arrow_csv.ReadOptions(column_names=dialect.names, use_threads=False, block_size=len(block.data) + 1),
        arrow_csv.ParseOptions(
            delimiter=dialect.delimiter,
            quote_char=dialect.quote or False,
            newlines_in_values=dialect.quote is not None,
            invalid_row_handler=skip,
        ),
        arrow_csv.ConvertOptions(
            column_types={name: types.get(name, pa.string()) for name in dialect.names},
            null_values=dialect.missing,
            strings_can_be_null=True,
            check_utf8=False,  # `decoded` did
        ),
    )
    numbers = pl.int_range(table.num_rows + len(ragged), eager=True)
    kept = numbers.filter(~numbers.is_in(list(ragged))) if ragged else numbers
    texts = pl.DataFrame(pl.from_arrow(table))
    return texts.insert_column(0, kept.alias(_RECORD)), ragged


def _located(block: Block, quote: str | None, reasons: Mapping[int, str], total: int) -> list[Rejection]:
    """Line number and text of rejected records, by record number in the block."""
    if not reasons:
        return []
    found = list(records(block, quote))
    if len(found) != total:  # a quote in an unquoted field: Arrow and `records` disagree on record boundaries
        last = block.line + block.data.count(b"\n")
        lines = f"in lines {block.line:,} to {last:,}"
        return [(None, "", f"{reason} ({lines})") for reason in reasons.values()]
    return [(found[i][0], found[i][1].decode(), reason) for i, reason in reasons.items()]


def _fields(record: str, delimiter: str, quote: str | None) -> list[str]:
    """The fields of one record; sufficient for headers and delimiter inference."""
    parts: list[str] = []
    for part in record.split(delimiter):
        if quote and parts and parts[-1].count(quote) % 2:
            parts[-1] += delimiter + part
        else:
            parts.append(part)
    if quote is None:
        return parts
    return [
        part[1:-1].replace(2 * quote, quote) if part.startswith(quote) and part.endswith(quote) else part
        for part in parts
    ]


def _sniffed(texts: Sequence[str], quote: str | None) -> str:
    """The delimiter with which most records have as many fields as the first, and more than one."""

    def score(delimiter: str) -> tuple[int, int]:
        widths = [len(_fields(text, delimiter, quote)) for text in texts]
        return (widths.count(widths[0]), widths[0]) if widths and widths[0] > 1 else (0, 0)

    return max(_DELIMITERS, key=score)


def _check_width(width: int, columns: Sequence[str], address: str) -> None:
    if width != len(columns):
        raise DataError(
            f"the first record has {width} fields, but {len(columns)} columns are named.",
            where=address,
            fix="Correct `columns` or `delimiter` in `data.source.params`; leave `columns` out if there is a header.",
        )
