"""Inputs for batch scoring: image files, table rows or text lines, one sample each."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import datetime as dt
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from lepton_tasks.codecs.fields import Field, fields_of
from lepton_tasks.codecs.series import SeriesCodec
from lepton_tasks.core.errors import DataError
from lepton_tasks.core.protocols import Codec
from lepton_tasks.core.registry import did_you_mean

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
LINES = (".jsonl", ".ndjson")
_TABLES = {".csv": "csv", ".tsv": "csv", ".parquet": "parquet"}
_PACKED = (".gz", ".bz2", ".xz")

_OF_USE_CASES = "data.source.params"
_READABLE = "Write it as UTF-8 CSV with a header, comma-separated, fields with commas quoted; or as Parquet."

_PICTURES_A_CHUNK, _ROWS_A_CHUNK = 32, 512


@dataclasses.dataclass(frozen=True)
class Sample:
    """One sample, read where it is scored.

    Attributes:
        origin: The file it comes from.
        row: Its number in the file, from 0; None of a file that is one sample.
        form: What `value` is: the bytes of a request, a line of JSON, a mapping of a row, the path of a file that holds
            the bytes, or the reason for which there is no sample.
        value: See `form`.
    """

    origin: str
    row: int | None
    form: Literal["bytes", "json", "row", "file", "fault"]
    value: Any

    def payload(self, codec: Codec) -> bytes:
        """The bytes that the endpoint would be sent; raises `DataError` with the reason if there are none."""
        if self.form == "fault":
            raise DataError(self.value)
        if self.form == "file":
            try:
                return Path(self.value).read_bytes()
            except OSError as error:
                raise DataError(f"cannot be read: {error.strerror}.") from error
        if self.form == "bytes":
            return bytes(self.value)
        if self.form == "row":
            return codec.payload({name: _plain(value) for name, value in self.value.items()})
        try:
            return codec.payload(json.loads(self.value))
        except ValueError as error:
            if isinstance(error, DataError):
                raise
            raise DataError(f"not JSON: {error}.") from error


@dataclasses.dataclass
class Inputs:
    """The samples of some files.

    Attributes:
        chunks: Lists of samples, in the order of the files.
        total: How many samples there are; None if only reading tells.
        files: How many files.
        notes: What a person should know of them.
    """

    chunks: Iterator[list[Sample]]
    total: int | None
    files: int
    notes: list[str] = dataclasses.field(default_factory=list)


def open_inputs(path: str, codec: Codec, root: Path) -> Inputs:
    """The samples at a path.

    Args:
        path: A file, a folder, a pattern such as ``days/*.csv``, an archive or an address (``s3://``); pictures, CSV,
            Parquet, JSON lines (a request each) or texts (a line each). Files of one kind.
        codec: The model's.
        root: What a relative path starts from.

    Raises:
        DataError: there is nothing, or nothing that this model takes.
    """
    with _way_out(_READABLE):
        found = _opened(path, codec, root)
    return dataclasses.replace(found, chunks=_read(found.chunks))


def _read(chunks: Iterator[list[Sample]]) -> Iterator[list[Sample]]:
    with _way_out(_READABLE):
        yield from chunks


@contextlib.contextmanager
def _way_out(fix: str) -> Iterator[None]:
    """Give errors of the sources of data a way out that is none of a use case, which who scores a file has not."""
    try:
        yield
    except DataError as error:
        if _OF_USE_CASES not in error.fix:
            raise
        raise DataError(error.what, where=error.where, fix=fix) from error


def _opened(path: str, codec: Codec, root: Path) -> Inputs:
    from lepton_tasks.data.sources.files import find_files

    pictures = codec.media_type.startswith("image/")
    texts = (".txt",) if codec.media_type.startswith("text/") and len(fields_of(codec)) == 1 else ()
    known = (*(PICTURES if pictures else ()), *texts, *LINES, *_TABLES)
    with _way_out("Give a file, a folder, a pattern such as 'days/*.csv', an archive, or an address (s3://...)."):
        files = find_files(path, root, known)
    kinds = {_suffix(file.address) for file in files}
    if kinds <= set(PICTURES) and pictures:
        return _pictures([(file.address, file) for file in files])
    if len(kinds) == 1 and (kind := kinds.pop()) in known:
        if kind in _TABLES:
            return _table(path, _TABLES[kind], codec, root)
        return Inputs(_chunked(_lines(files, as_json=kind in LINES), _ROWS_A_CHUNK), None, len(files))
    found = ", ".join(sorted(_suffixes(files)))
    what = "unsupported file type" if len(kinds) < 2 else "files of several types cannot be scored together"
    raise DataError(
        f"{what}: {found}.",
        where=path,
        fix=f"Give files of one type: {', '.join(known)}. Select them with a pattern such as '*.csv'.",
    )


def _suffixes(files: Sequence[Any]) -> set[str]:
    return {_suffix(file.address) or file.address.rpartition("/")[2] for file in files[:100]}


def _suffix(address: str) -> str:
    low = address.lower()
    for ending in _PACKED:
        low = low.removesuffix(ending)
    return Path(low).suffix


def _pictures(files: Sequence[tuple[str, Any]]) -> Inputs:
    def samples() -> Iterator[Sample]:
        for address, file in files:
            if file.path is not None and not file.packed:
                yield Sample(address, None, "file", str(file.path))
                continue
            with file.open() as stream:
                parts = []
                while part := stream.read(1 << 20):
                    parts.append(part)
            yield Sample(address, None, "bytes", b"".join(parts))

    return Inputs(_chunked(samples(), _PICTURES_A_CHUNK), len(files), len(files))


def _lines(files: Sequence[Any], *, as_json: bool) -> Iterator[Sample]:
    """A sample a line; of texts, empty lines too, so that there are as many answers as lines."""
    from lepton_tasks.data.sources.lines import read_blocks, without_mark

    for file in files:
        for block in map(without_mark, read_blocks(file)):
            for number, line in enumerate(block.data.removesuffix(b"\n").split(b"\n"), block.line - 1):
                if as_json and line.strip():
                    yield Sample(file.address, number, "json", line)
                elif not as_json:
                    yield Sample(file.address, number, "bytes", line.removesuffix(b"\r"))


def _table(path: str, kind: str, codec: Codec, root: Path) -> Inputs:
    from lepton_tasks.core.catalogue import TABLE_SOURCES

    params: dict[str, Any] = {"path": path}
    source: Any = TABLE_SOURCES.build(kind, params, data_root=root)
    fields = fields_of(codec)[0].columns if isinstance(codec, SeriesCodec) else tuple(fields_of(codec))
    schema = source.schema()
    notes = _compared(fields, list(schema), path)
    if kind == "csv" and (types := _types(fields, schema)):
        source = TABLE_SOURCES.build(kind, {**params, "types": types}, data_root=root)
    names = [field.name for field in fields if field.name in schema] or list(schema)
    if isinstance(codec, SeriesCodec):
        return Inputs(_chunked(_series(source, names, codec), 1), len(source.files), len(source.files), notes)
    total = _parquet_rows(source) if kind == "parquet" else None
    return Inputs(_chunked(_rows(source, names), _ROWS_A_CHUNK), total, len(source.files), notes)


def _compared(fields: Sequence[Field], columns: Sequence[str], path: str) -> list[str]:
    """What to say of columns that are missing or left over; raises `DataError` if one is needed."""
    lacking = [field for field in fields if field.name not in columns]
    for field in lacking:
        if field.required:
            raise DataError(f"no column {field.name!r}.", where=path, fix=did_you_mean(field.name, columns))
    if fields and len(lacking) == len(fields):
        wanted = ", ".join(field.name for field in fields)
        raise DataError(f"none of the model's columns: {wanted}.", where=path, fix=f"Known: {', '.join(columns)}.")
    left = [name for name in columns if name not in {field.name for field in fields}] if fields else []
    notes = [f"taken as missing: {', '.join(field.name for field in lacking)}"] if lacking else []
    return [*notes, f"ignored: {', '.join(left)}"] if left else notes


def _types(fields: Sequence[Field], schema: Mapping[str, Any]) -> dict[str, str]:
    """Types of CSV columns where the ones told by their first rows would change what the model is asked."""
    types = {}
    for field in fields:
        found = schema.get(field.name)
        if found is None:
            continue
        if field.type in ("text", "time", "picture"):
            types[field.name] = "text"
        elif field.type == "bool":
            types[field.name] = "bool"
        elif field.type in ("int", "float") and not found.is_numeric():
            types[field.name] = field.type
    return types


def _rows(source: Any, names: Sequence[str]) -> Iterator[Sample]:
    numbers: dict[str, int] = {}
    for piece in source.pieces():
        for rows, refused in piece.read():
            first = numbers.get(piece.origin, 0)
            for number, row in enumerate(rows.select(names).iter_rows(named=True), first):
                yield Sample(piece.origin, number, "row", row)
            for line, _, reason in refused.iter_rows():
                yield Sample(piece.origin, None, "fault", reason if line is None else f"line {line}: {reason}")
            numbers[piece.origin] = first + len(rows)


def _series(source: Any, names: Sequence[str], codec: SeriesCodec) -> Iterator[Sample]:
    """A sample a file: the last of its rows."""
    needed = codec.window + codec.history
    last: dict[str, list[dict[str, Any]]] = {}
    faults: dict[str, str] = {}
    for piece in source.pieces():
        kept = last.setdefault(piece.origin, [])
        for rows, refused in piece.read():
            kept += rows.select(names).tail(needed).iter_rows(named=True)
            for line, _, reason in refused.iter_rows():
                faults[piece.origin] = f"line {line}: {reason}"
    for origin, rows in last.items():
        if origin in faults:
            yield Sample(origin, None, "fault", f"{faults[origin]}; a series has no gaps")
        else:
            yield Sample(origin, None, "row", {"rows": rows[-needed:]})


def _parquet_rows(source: Any) -> int:
    import pyarrow.parquet as pq

    rows = 0
    for file in source.files:
        with file.seekable() as stream:
            rows += pq.ParquetFile(stream).metadata.num_rows
    return rows


def _chunked(samples: Iterator[Sample], size: int) -> Iterator[list[Sample]]:
    chunk: list[Sample] = []
    for sample in samples:
        chunk.append(sample)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _plain(value: Any) -> Any:
    """A value of a table as JSON has it: times as ISO 8601, bytes in base64, null for what is not a number."""
    if value is None or isinstance(value, str | int):  # most are
        return value
    if isinstance(value, dt.date | dt.datetime | dt.time):
        return value.isoformat()
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
