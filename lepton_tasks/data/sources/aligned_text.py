"""Source of line-aligned text files, e.g. sentences and their translations."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import polars as pl
import pydantic

from lepton_tasks.core.errors import DataError
from lepton_tasks.core.store import digest_of
from lepton_tasks.data.sources.columns import REJECTED_LINES, Schema
from lepton_tasks.data.sources.files import TableFile, find_files
from lepton_tasks.data.sources.lines import check_encoding, read_blocks, without_mark

_BATCH_ROWS = 50_000


class AlignedText:
    """One row per line number, with one text column per file.

    Args:
        columns: A file or pattern per column; with patterns, files are aligned in order. See `find_files`.
        data_root: Set by the environment.
        encoding: Encoding of all files. Rows with undecodable lines are rejected.
    """

    def __init__(
        self,
        columns: Annotated[dict[str, str], pydantic.Field(min_length=1)],
        data_root: Path,
        encoding: str = "utf-8",
    ) -> None:
        check_encoding(encoding)
        self._columns, self._data_root, self._encoding = columns, data_root, encoding

    def state(self) -> dict[str, Any]:
        """Changes with any file's name, size or modification time."""
        stamps = [[(file.address, file.stamp) for file in files.values()] for files in self._groups]
        return {"columns": list(self._columns), "files": digest_of(stamps)}

    def schema(self) -> Schema:
        """Text in all columns."""
        return dict.fromkeys(self._columns, pl.String())

    def pieces(self) -> list[AlignedPiece]:
        """One per group of aligned files."""
        return [
            AlignedPiece(files, self._encoding, " + ".join(file.address for file in files.values()))
            for files in self._groups
        ]

    def describe(self) -> dict[str, Any]:
        """The files of each column."""
        return {"files": {name: [files[name].address for files in self._groups] for name in self._columns}}

    @functools.cached_property
    def _groups(self) -> list[dict[str, TableFile]]:
        """Groups of aligned files, by column."""
        found = {name: find_files(path, self._data_root, (".txt",)) for name, path in self._columns.items()}
        (first, files), *others = found.items()
        for name, more in others:
            if len(more) != len(files):
                raise DataError(
                    f"{len(files)} files of {first!r}, but {len(more)} of {name!r}.",
                    where=f"data.source.params.columns.{name}",
                    fix="Each file of one column needs its counterpart in all others.",
                )
        return [dict(zip(found, group, strict=True)) for group in zip(*found.values(), strict=True)]


@dataclasses.dataclass(frozen=True)
class AlignedPiece:
    """Aligned files."""

    files: dict[str, TableFile]
    encoding: str
    origin: str
    parquet: str | None = None

    def read(self) -> Iterator[tuple[pl.DataFrame, pl.DataFrame]]:
        """Batches of about 50,000 rows.

        Raises:
            DataError: the files differ in their number of lines.
        """
        names, counts = list(self.files), [0] * len(self.files)
        with contextlib.ExitStack() as stack:
            sides = [stack.enter_context(contextlib.closing(_lines(file))) for file in self.files.values()]
            numbered = enumerate(itertools.zip_longest(*sides), 1)
            while True:
                batch = list(itertools.islice(numbered, _BATCH_ROWS))
                counts = [n + sum(row[i] is not None for _, row in batch) for i, n in enumerate(counts)]
                if len(set(counts)) > 1:
                    self._uneven(counts, sides)
                rows = [self._decoded(row) for _, row in batch]
                refused = [
                    (line, b" | ".join(row).decode(self.encoding, "backslashreplace"), reason)
                    for (line, row), reason in zip(batch, rows, strict=True)
                    if isinstance(reason, str)
                ]
                kept = [row for row in rows if not isinstance(row, str)]
                yield (
                    pl.DataFrame(kept, schema=dict.fromkeys(names, pl.String), orient="row"),
                    pl.DataFrame(refused, schema=REJECTED_LINES, orient="row"),
                )
                if len(batch) < _BATCH_ROWS:
                    return

    def _decoded(self, row: tuple[bytes, ...]) -> list[str] | str:
        """The texts, or the reason for rejection."""
        try:
            return [line.decode(self.encoding) for line in row]
        except UnicodeDecodeError as error:
            return f"byte 0x{error.object[error.start]:02x} at {error.start} is not {self.encoding}"

    def _uneven(self, counts: list[int], sides: Sequence[Iterator[bytes]]) -> None:
        totals = [count + sum(1 for _ in side) for count, side in zip(counts, sides, strict=True)]
        lines = ", ".join(
            f"{total:,} in {file.address}" for total, file in zip(totals, self.files.values(), strict=True)
        )
        raise DataError(
            f"the files differ in the number of lines: {lines}.",
            where=self.origin,
            fix="Files are aligned by line number: take them from one release.",
        )


def _lines(file: TableFile) -> Generator[bytes, None, None]:
    for block in read_blocks(file):
        data = without_mark(block).data
        lines = data.split(b"\n")
        yield from (line.removesuffix(b"\r") for line in (lines[:-1] if data.endswith(b"\n") else lines))
