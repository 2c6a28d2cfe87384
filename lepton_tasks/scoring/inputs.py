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
_COMPRESSED = (".gz", ".bz2", ".xz")

_USE_CASE_FIX = "data.source.params"
_FORMAT_FIX = "Write it as UTF-8 CSV with a header, comma-separated, fields with commas quoted; or as Parquet."

_IMAGES_PER_CHUNK, _ROWS_PER_CHUNK = 32, 512


@dataclasses.dataclass(frozen=True)
class Sample:
    """One sample, which may be read only by the worker that scores it.

    Attributes:
        origin: Source file.
        row: Row in the file, from 0; None if the file is one sample.
        form: Type of `value`: bytes of a request, a line of JSON, a row as a mapping, the path of a file with the
            bytes, or the reason why the sample is invalid (``fault``).
        value: See `form`.
    """

    origin: str
    row: int | None
    form: Literal["bytes", "json", "row", "file", "fault"]
    value: Any

    def payload(self, codec: Codec) -> bytes:
        """The bytes of the equivalent request; raises `DataError` if the sample is invalid or unreadable."""
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
            return codec.payload({name: _to_json(value) for name, value in self.value.items()})
        try:
            return codec.payload(json.loads(self.value))
        except ValueError as error:
            if isinstance(error, DataError):
                raise
            raise DataError(f"not JSON: {error}.") from error


@dataclasses.dataclass
class Inputs:
    """The samples of one or more files.

    Attributes:
        chunks: Lists of samples, in the order of the files.
        total: Number of samples; None if unknown before reading.
        files: Number of files.
        notes: Messages for the user, e.g. about missing columns.
    """

    chunks: Iterator[list[Sample]]
    total: int | None
    files: int
    notes: list[str] = dataclasses.field(default_factory=list)


def open_inputs(path: str, codec: Codec, root: Path) -> Inputs:
    """The samples at a path.

    Args:
        path: A file, a folder, a pattern such as ``days/*.csv``, an archive or a URL (``s3://``); images, CSV, Parquet,
            JSON lines (a request each) or texts (a line each). All files must have the same type.
        codec: The model's input codec.
        root: Base folder of relative paths.

    Raises:
        DataError: there are no files, or none that this model accepts.
    """
    with _replace_fix(_FORMAT_FIX):
        found = _open(path, codec, root)
    return dataclasses.replace(found, chunks=_read(found.chunks))


def _read(chunks: Iterator[list[Sample]]) -> Iterator[list[Sample]]:
    with _replace_fix(_FORMAT_FIX):
        yield from chunks


@contextlib.contextmanager
def _replace_fix(fix: str) -> Iterator[None]:
    """Replace hints of data sources that refer to a use case: there is none in batch scoring."""
    try:
        yield
    except DataError as error:
        if _USE_CASE_FIX not in error.fix:
            raise
        raise DataError(error.what, where=error.where, fix=fix) from error


def _open(path: str, codec: Codec, root: Path) -> Inputs:
    from lepton_tasks.data.sources.files import find_files

    pictures = codec.media_type.startswith("image/")
    texts = (".txt",) if codec.media_type.startswith("text/") and len(fields_of(codec)) == 1 else ()
    known = (*(PICTURES if pictures else ()), *texts, *LINES, *_TABLES)
    with _replace_fix("Give a file, a folder, a pattern such as 'days/*.csv', an archive, or an address (s3://...)."):
        files = find_files(path, root, known)
    kinds = {_suffix(file.address) for file in files}
    if kinds <= set(PICTURES) and pictures:
        return _pictures([(file.address, file) for file in files])
    if len(kinds) == 1 and (kind := kinds.pop()) in known:
        if kind in _TABLES:
            return _table(path, _TABLES[kind], codec, root)
        return Inputs(_chunked(_lines(files, as_json=kind in LINES), _ROWS_PER_CHUNK), None, len(files))
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
    for ending in _COMPRESSED:
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

    return Inputs(_chunked(samples(), _IMAGES_PER_CHUNK), len(files), len(files))


def _lines(files: Sequence[Any], *, as_json: bool) -> Iterator[Sample]:
    """One sample per line; empty lines of texts are included, so that rows and lines correspond."""
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
    notes = _check_columns(fields, list(schema), path)
    if kind == "csv" and (types := _csv_types(fields, schema)):
        source = TABLE_SOURCES.build(kind, {**params, "types": types}, data_root=root)
    names = [field.name for field in fields if field.name in schema] or list(schema)
    if isinstance(codec, SeriesCodec):
        return Inputs(_chunked(_series(source, names, codec), 1), len(source.files), len(source.files), notes)
    total = _parquet_rows(source) if kind == "parquet" else None
    return Inputs(_chunked(_rows(source, names), _ROWS_PER_CHUNK), total, len(source.files), notes)


def _check_columns(fields: Sequence[Field], columns: Sequence[str], path: str) -> list[str]:
    """Notes on missing and extra columns; raises `DataError` if a required column is missing."""
    missing = [field for field in fields if field.name not in columns]
    for field in missing:
        if field.required:
            raise DataError(f"no column {field.name!r}.", where=path, fix=did_you_mean(field.name, columns))
    if fields and len(missing) == len(fields):
        wanted = ", ".join(field.name for field in fields)
        raise DataError(f"none of the model's columns: {wanted}.", where=path, fix=f"Known: {', '.join(columns)}.")
    extra = [name for name in columns if name not in {field.name for field in fields}] if fields else []
    notes = [f"taken as missing: {', '.join(field.name for field in missing)}"] if missing else []
    return [*notes, f"ignored: {', '.join(extra)}"] if extra else notes


def _csv_types(fields: Sequence[Field], schema: Mapping[str, Any]) -> dict[str, str]:
    """Types of CSV columns for which the inferred type would change the values of a request."""
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
    """One sample per file: its last rows."""
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


def _to_json(value: Any) -> Any:
    """Convert a table value to JSON: times as ISO 8601, bytes as base64, NaN and infinity as null."""
    if value is None or isinstance(value, str | int):  # the common case
        return value
    if isinstance(value, dt.date | dt.datetime | dt.time):
        return value.isoformat()
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, list):
        return [_to_json(item) for item in value]
    if isinstance(value, dict):
        return {name: _to_json(item) for name, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
