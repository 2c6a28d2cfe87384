"""Segments of the request log: a live JSON Lines file and sealed Parquet files.

``python -m lepton_tasks.serving.observing.segments FILE...`` seals files, at the lowest priority.
"""

from __future__ import annotations

import heapq
import itertools
import math
import operator
import os
import re
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

import orjson

if TYPE_CHECKING:
    import pyarrow as pa

LIVE, SEALED = ".jsonl", ".parquet"
_NAME = re.compile(r"[0-9]+-[0-9]+(-[0-9a-f]+)?")  # start time in ns - process number [- server]
GATHERED = ".gathered"  # epoch seconds up to which copies of other servers' files are complete
REST = "more"
Kind = Literal["time", "int", "float", "text"]
COLUMNS: dict[str, Kind] = {
    "time": "time",
    "version": "text",
    "api": "text",
    "id": "text",
    "trace": "text",
    "caller": "text",
    "probe": "text",
    "status": "int",
    "seconds": "float",
    "error": "text",
    "bytes": "int",
    "rows": "int",
    "mean": "float",
    "std": "float",
    "label": "text",
    "probability": "float",
    "values": "text",
    REST: "text",
}
"""Columns of a sealed file. Request values and additional record fields are JSON strings in ``values`` and ``more``;
a non-string label is a JSON string here, with the original in ``more``."""

_TYPES: dict[Kind, Any] = {"time": (int, float), "int": (int,), "float": (int, float), "text": (str,)}
_ROWS = 2_000  # in memory at a time
_LEAST_PRIORITY = 19
_CLOCKS_APART = 600.0  # maximum clock skew between servers, in seconds


def as_row(record: Mapping[str, Any]) -> dict[str, Any]:
    """Convert a record to a row of `COLUMNS`; the time in whole microseconds."""
    row: dict[str, Any] = {}
    rest: dict[str, Any] = {}
    for key, value in record.items():
        kind = COLUMNS.get(key)
        if value is None:
            continue
        if key == "values":
            row[key] = orjson.dumps(value).decode()
        elif kind is not None and key != REST and isinstance(value, _TYPES[kind]) and not isinstance(value, bool):
            row[key] = round(value * 1e6) if kind == "time" else value
        else:
            rest[key] = value
    if (label := rest.get("label")) is not None:
        row["label"] = orjson.dumps(label).decode()
    if rest:
        row[REST] = orjson.dumps(rest).decode()
    return row


def as_record(row: Mapping[str, Any]) -> dict[str, Any]:
    """Convert a row to a record without nulls; the time in seconds."""
    record = {name: value for name, value in row.items() if value is not None}
    record["time"] /= 1e6
    if "values" in record:
        record["values"] = orjson.loads(record["values"])
    rest = record.pop(REST, None)
    return record if rest is None else record | orjson.loads(rest)


def seal(path: Path) -> Path:
    """Replace a live file with Parquet; a line truncated by a crash is skipped.

    Returns:
        The sealed file, complete before the live one is removed.
    """
    sealed = path.with_suffix(SEALED)
    part = path.with_name(f".{sealed.name}")
    try:
        handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(handle, "wb") as stream:
            write_parquet(stream, _lines(path))
            stream.flush()
            os.fsync(handle)
        part.replace(sealed)
    except (OSError, ValueError):
        part.unlink(missing_ok=True)
        raise
    path.unlink(missing_ok=True)
    return sealed


def unsealed(folder: Path, member: int, members: int) -> list[Path]:
    """Files of all models below `folder` that an earlier run left for this server process to seal.

    The first process also takes those of processes that no longer exist.
    """
    live = folder.rglob(f"*{LIVE}")
    found = ((int(writer_of(path)), path) for path in live if _NAME.fullmatch(path.stem) and not is_copy(path))
    return sorted(path for by, path in found if by == member or (member == 0 and by >= members))


def prune(folder: Path, *, most_bytes: int, most_files: int) -> None:
    """Remove the server's own oldest files until the limits are met; the latest always stays."""
    kept = 0
    for i, path in enumerate(sorted(own_files(folder), key=begun_at, reverse=True)):
        try:
            kept += path.stat().st_size
        except FileNotFoundError:  # sealed meanwhile
            continue
        if i and (kept > most_bytes or i >= most_files):
            path.unlink(missing_ok=True)


def read_segments(folder: Path, since: float, columns: Collection[str] | None = None) -> Iterator[dict[str, Any]]:
    """Records of a folder after `since`, approximately oldest first.

    Reads only `columns` and the time from sealed files; by default all columns. Records of other servers that are
    newer than the last complete gathering wait for the next one, as servers are polled at different moments.
    """
    writers: dict[str, list[Path]] = {}
    for path in sorted(log_files(folder), key=begun_at):
        writers.setdefault(writer_of(path), []).append(path)
    complete = _gathered(folder)
    untils = (complete if is_copy(files[0]) else math.inf for files in writers.values())
    yield from heapq.merge(
        *(_records(files, since, until, columns) for files, until in zip(writers.values(), untils, strict=True)),
        key=operator.itemgetter("time"),
    )


def _gathered(folder: Path) -> float:
    try:
        return float((folder / GATHERED).read_text())
    except FileNotFoundError:
        return math.inf


def own_files(folder: Path) -> list[Path]:
    """Files of a folder written by this state folder's server."""
    return [path for path in log_files(folder) if not is_copy(path)]


def log_files(folder: Path) -> list[Path]:
    """Own and copied files of a folder; if a crash left a live file beside its sealed one, only the latter."""
    found: dict[str, Path] = {}
    for path in [*folder.glob(f"*{LIVE}"), *folder.glob(f"*{SEALED}")]:
        if _NAME.fullmatch(path.stem):  # ignore foreign files
            found[path.stem] = path
    return list(found.values())


def begun_at(path: Path) -> int:
    """Start time of a file, in ns since the epoch."""
    return int(path.stem.partition("-")[0])


def writer_of(path: Path) -> str:
    """Writer of a file: process number, plus the log id of another server."""
    return path.stem.partition("-")[2]


def is_copy(path: Path) -> bool:
    """Whether a file is a copy from another server."""
    return "-" in writer_of(path)


def _records(
    files: Sequence[Path], since: float, until: float, columns: Collection[str] | None
) -> Iterator[dict[str, Any]]:
    """Records of one writer in ``(since, until]``."""
    for path, following in itertools.zip_longest(files, files[1:]):
        if following is not None and begun_at(following) / 1e9 < since:
            continue  # all records are older
        if is_copy(path) and _changed_at(path) + _CLOCKS_APART < since:
            continue  # the last file of a removed server
        for record in _rows(path, columns):
            if since < record["time"] <= until:
                yield record


def _changed_at(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:  # sealed meanwhile
        return math.inf


def _rows(path: Path, columns: Collection[str] | None) -> Iterator[dict[str, Any]]:
    """Records of a file; tolerates concurrent sealing or pruning."""
    if path.suffix == LIVE:
        try:
            yield from _lines(path)
            return
        except FileNotFoundError:
            path = path.with_suffix(SEALED)
    if not path.exists():
        return
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        names = [name for name in COLUMNS if columns is None or name == "time" or name in columns]
        for batch in file.iter_batches(_ROWS, columns=names):
            table = batch.set_column(0, "time", batch.column("time").cast("int64"))
            yield from map(as_record, table.to_pylist())


def write_parquet(where: Path | BinaryIO, records: Iterable[Mapping[str, Any]], *, group: int = _ROWS) -> int:
    """Write records as rows of `COLUMNS`, `group` per row group; return their count."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    types = {"time": pa.timestamp("us", tz="UTC"), "int": pa.int64(), "float": pa.float64(), "text": pa.string()}
    schema = pa.schema({name: types[kind] for name, kind in COLUMNS.items()})
    rows, count = map(as_row, records), 0
    with pq.ParquetWriter(where, schema, compression="zstd") as writer:
        while some := list(itertools.islice(rows, group)):
            writer.write_table(_table(some, schema))
            count += len(some)
    return count


def _table(rows: Sequence[Mapping[str, Any]], schema: pa.Schema) -> pa.Table:
    """Build a table from rows via JSON: from Python values, Arrow would import pandas (38 MB)."""
    import pyarrow as pa
    import pyarrow.json as pj

    text = b"\n".join(map(orjson.dumps, rows))
    whole = pa.schema([field.with_type(pa.int64()) if field.name == "time" else field for field in schema])
    reading = pj.ReadOptions(use_threads=False, block_size=len(text) + 1)
    table = pj.read_json(pa.BufferReader(text), reading, pj.ParseOptions(explicit_schema=whole))
    return table.select(schema.names).cast(schema)


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    with path.open("rb") as stream:
        for line in stream:
            if line.endswith(b"\n"):
                yield orjson.loads(line)


def main() -> int:
    """Seal the files given as arguments."""
    os.nice(_LEAST_PRIORITY)
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")  # 9 MB less than Arrow's default
    failed = 0
    for name in sys.argv[1:]:
        try:
            seal(Path(name))
        except FileNotFoundError:  # pruned meanwhile
            continue
        except (OSError, ValueError) as error:
            sys.stderr.write(f"{name} is not sealed: {error}\n")
            failed = 1
    return failed


if __name__ == "__main__":
    sys.exit(main())
