"""Source of Parquet files."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from lepton_tasks.core.errors import DataError
from lepton_tasks.data.sources.columns import Schema, common_schema, inferred, parsed, rejections
from lepton_tasks.data.sources.files import FileSource, TableFile

_BATCH_ROWS = 65_536


class Parquet(FileSource):
    """Rows of Parquet files, used in place if they are local and share a schema.

    Hive partition folders (``date=2026-01-01/part-0.parquet``) give columns, which take precedence over columns of the
    same name in the files. Integers in one file and floats in another give floats.

    Args:
        path: A file, a folder of ``.parquet``, a pattern, an archive or an address: see `find_files`.
        data_root: Set by the environment.
    """

    def __init__(self, path: str, data_root: Path) -> None:
        super().__init__(path, data_root, (".parquet",))

    def schema(self) -> Schema:
        """The columns of all files."""
        return self._schema

    def pieces(self) -> list[ParquetPiece]:
        """One per file."""
        return [
            ParquetPiece(file, self._schema, named, file.address, self._usable_in_place(file, found))
            for file, found, named in zip(self.files, self._found, self._named, strict=True)
        ]

    def _usable_in_place(self, file: TableFile, found: Schema) -> str | None:
        same = list(found.items()) == list(self._schema.items())
        return str(file.path) if same and file.path is not None and not file.packed else None

    @functools.cached_property
    def _schema(self) -> Schema:
        texts = {name: pl.Series([named[name] for named in self._named], dtype=pl.String) for name in self._named[0]}
        folders = {name: inferred(values) for name, values in texts.items()}
        samples = [(file.address, found | folders) for file, found in zip(self.files, self._found, strict=True)]
        return common_schema(samples, {}, fix="Give all files the same form, e.g. {column} as {name}.")

    @functools.cached_property
    def _found(self) -> list[Schema]:
        return [_schema_of(file) for file in self.files]

    @functools.cached_property
    def _named(self) -> list[dict[str, str | None]]:
        """Partition columns of each file; None for those of other files."""
        found = [
            dict(part.split("=", 1) for part in file.address.split("/")[:-1] if "=" in part) for file in self.files
        ]
        names = dict.fromkeys(name for named in found for name in named)
        return [{name: named.get(name) for name in names} for named in found]


@dataclasses.dataclass(frozen=True)
class ParquetPiece:
    """A file."""

    file: TableFile
    types: Schema
    named: dict[str, str | None]
    origin: str
    parquet: str | None

    def read(self) -> Iterator[tuple[pl.DataFrame, pl.DataFrame]]:
        """Batches of about 65,000 rows, in the common types."""
        folders = [parsed(name, self.types[name]) for name in self.named]
        yield pl.DataFrame(schema=self.types), rejections([])
        with _opened(self.file) as content:
            for batch in content.iter_batches(_BATCH_ROWS):
                rows = pl.DataFrame(pl.from_arrow(batch)).with_columns(
                    pl.lit(v, pl.String).alias(k) for k, v in self.named.items()
                )
                yield self._typed(rows.with_columns(folders)), rejections([])

    def _typed(self, rows: pl.DataFrame) -> pl.DataFrame:
        try:
            return rows.select(pl.col(k).cast(t) for k, t in self.types.items())
        except pl.exceptions.InvalidOperationError as error:
            raise DataError(
                f"a value is not of the type that all files share: {str(error).splitlines()[0]}.",
                where=self.file.address,
                fix="Give all files the same form, or remove the odd one.",
            ) from error


def _schema_of(file: TableFile) -> Schema:
    with _opened(file) as content:
        empty = pa.Table.from_batches([], content.schema_arrow)  # `empty_table` would import pandas, for 0.4 s
        return dict(pl.DataFrame(pl.from_arrow(empty)).schema)


@contextlib.contextmanager
def _opened(file: TableFile) -> Iterator[pq.ParquetFile]:
    with file.seekable() as stream:
        try:
            yield pq.ParquetFile(stream)
        except (pa.ArrowInvalid, OSError) as error:
            raise DataError(
                f"is not a complete Parquet file: {str(error).rstrip('.')}.",
                where=file.address,
                fix="It is truncated or of another type: download or write it again, or remove it.",
            ) from error
