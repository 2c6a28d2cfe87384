"""Write predictions to a Parquet file."""

from __future__ import annotations

import contextlib
import json
import os
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from lepton_tasks.core.errors import DataError

_MAX_COLUMNS = 100  # per mapping; larger ones, e.g. the probabilities of many labels, become one JSON text
_GROUP_ROWS = 16_384

_LEADING = [pa.field("origin", pa.string()), pa.field("row", pa.int64())]
_TRAILING = [
    pa.field("error", pa.string()),
    pa.field("model", pa.dictionary(pa.int32(), pa.string())),
    pa.field("version", pa.dictionary(pa.int32(), pa.string())),
]
RESERVED = {field.name for field in (*_LEADING, *_TRAILING)}


def flatten(answer: Mapping[str, Any]) -> dict[str, Any]:
    """A prediction as columns.

    Texts, numbers, booleans and lists of floats are kept; mappings of up to 100 scalars become ``<key>.<name>``; other
    values, such as boxes, become JSON.
    """
    found: dict[str, Any] = {}
    for key, value in answer.items():
        name = f"answer.{key}" if key in RESERVED else key
        if isinstance(value, bool | int | float | str) or _numbers(value):
            found[name] = value
        elif isinstance(value, Mapping) and 0 < len(value) <= _MAX_COLUMNS and all(map(_scalar, value.values())):
            found |= {f"{name}.{inner}": item for inner, item in value.items()}
        else:
            found[name] = json.dumps(value, ensure_ascii=False)
    return found


def _scalar(value: Any) -> bool:
    return isinstance(value, bool | int | float | str)


def _numbers(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, float) for item in value)


def schema_of(answer: Mapping[str, Any], about: Mapping[str, str]) -> pa.Schema:
    """The schema of the file.

    Args:
        answer: Any prediction of the model.
        about: Metadata of the file.
    """
    columns = [pa.field(name, _type(value)) for name, value in flatten(answer).items()]
    return pa.schema(
        [*_LEADING, *columns, *_TRAILING], metadata={f"lepton.{key}": value for key, value in about.items()}
    )


def _type(value: Any) -> pa.DataType:
    if isinstance(value, list):
        return pa.list_(pa.float64())
    kinds = ((bool, pa.bool_()), (int, pa.int64()), (float, pa.float64()))
    return next((arrow_type for kind, arrow_type in kinds if isinstance(value, kind)), pa.string())


class ResultWriter:
    """Writes result rows in groups.

    Args:
        writer: The open Parquet file.
        model: Name, added to every row.
        version: Added to every row.
    """

    def __init__(self, writer: pq.ParquetWriter, *, model: str, version: str) -> None:
        self._writer, self._constant = writer, {"model": model, "version": version}
        self._rows: list[dict[str, Any]] = []

    def add(self, rows: Sequence[dict[str, Any]]) -> None:
        """Append rows with ``origin``, ``row``, and either the columns of a prediction or ``error``."""
        self._rows += [row | self._constant for row in rows]
        if len(self._rows) >= _GROUP_ROWS:
            self.flush()

    def flush(self) -> None:
        """Write the buffered rows."""
        if self._rows:
            self._writer.write_table(pa.Table.from_pylist(self._rows, schema=self._writer.schema))
            self._rows = []


@contextlib.contextmanager
def open_results(path: Path, schema: pa.Schema, *, model: str, version: str) -> Iterator[ResultWriter]:
    """Open a file that is published atomically when the block ends without an error.

    Raises:
        DataError: it cannot be written.
    """
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with pq.ParquetWriter(part, schema, compression="zstd") as writer:
            results = ResultWriter(writer, model=model, version=version)
            yield results
            results.flush()
        os.replace(part, path)
    except OSError as error:
        if isinstance(error, DataError) or error.filename is None:
            raise
        raise DataError(f"cannot be written: {error.strerror}.", where=str(path)) from error
    finally:
        part.unlink(missing_ok=True)
