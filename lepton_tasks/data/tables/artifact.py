"""``table.json``: how table artifacts refer to each other so that rows are stored once."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lepton_tasks.core.artifacts import ArtifactRef, parse_ref
from lepton_tasks.core.context import RunContext
from lepton_tasks.core.errors import DataError
from lepton_tasks.core.store import write_json
from lepton_tasks.data.split import SPLITS
from lepton_tasks.data.tables.rows import Part, TableRows

TABLE_FILE = "table.json"
REFUSED_FILE = "refused.npy"
"""File of a cleaned table: uint8 [rows], 0 for a kept row, else 1 + the index of the step that rejected it."""
SPLITS_FILE = "splits.npy"
"""File of a split table: uint8 [rows], index into `SPLITS`, or `NO_SPLIT`."""


def write_table(folder: Path, **entries: Any) -> None:
    """Write ``table.json``; artifact references are converted to JSON."""
    write_json(
        folder / TABLE_FILE, {k: v.model_dump() if isinstance(v, ArtifactRef) else v for k, v in entries.items()}
    )


def parts_entry(parts: Sequence[Part], folder: Path) -> list[dict[str, Any]]:
    """Parts as JSON values; files inside `folder` by relative name, others by path, size and modification time."""
    entries = []
    for part in parts:
        entry = dataclasses.asdict(dataclasses.replace(part, changed=None))
        path = Path(part.path)
        if path.is_relative_to(folder):
            entry["path"] = str(path.relative_to(folder))
        else:
            entry["stamp"] = _stamp(path)
        entries.append(entry)
    return entries


def open_raw(ctx: RunContext, ref: ArtifactRef) -> TableRows:
    """All rows as ingested.

    Raises:
        DataError: a file that is used in place was changed or removed after ingestion.
    """
    folder = ctx.open(ref)
    return _rows_in(folder, _read(folder)["parts"])


def open_cleaned(ctx: RunContext, ref: ArtifactRef) -> TableRows:
    """The kept rows, with the changes of the cleaning steps."""
    folder = ctx.open(ref)
    table = _read(folder)
    rows = _rows_in(folder, table["parts"]) if "parts" in table else open_raw(ctx, parse_ref(table["raw"]))
    changed = [name and str(folder / name) for name in table["changed"]]
    parts = tuple(dataclasses.replace(part, changed=path) for part, path in zip(rows.parts, changed, strict=True))
    return dataclasses.replace(rows, parts=parts, height=table["rows"], codes=str(folder / REFUSED_FILE))


def open_splits(ctx: RunContext, ref: ArtifactRef) -> dict[str, TableRows]:
    """The rows of each split."""
    folder = ctx.open(ref)
    table = _read(folder)
    rows = open_cleaned(ctx, parse_ref(table["cleaned"]))
    codes = str(folder / SPLITS_FILE)
    return {
        name: dataclasses.replace(rows, codes=codes, selected_codes=(code,), height=table["rows"][name])
        for code, name in enumerate(SPLITS)
    }


def _read(folder: Path) -> dict[str, Any]:
    table: dict[str, Any] = json.loads((folder / TABLE_FILE).read_text())
    return table


def _rows_in(folder: Path, entries: Sequence[Mapping[str, Any]]) -> TableRows:
    for path, stamp in {entry["path"]: entry["stamp"] for entry in entries if "stamp" in entry}.items():
        if not Path(path).is_file() or _stamp(Path(path)) != stamp:
            raise DataError("changed or was removed after ingestion.", where=path, fix="Run again from `ingest`.")
    fields = [field.name for field in dataclasses.fields(Part)]
    parts = [Part(**{name: e[name] for name in fields} | {"path": str(folder / e["path"])}) for e in entries]
    return TableRows(tuple(parts), height=sum(map(len, parts)))


def _stamp(path: Path) -> list[int]:
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns]
