"""Convert answers to Parquet columns."""

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

_MOST_COLUMNS = 100  # that one mapping may become: the probabilities of more labels than that are one JSON text
_GROUP_ROWS = 16_384

_FIRST = [pa.field("origin", pa.string()), pa.field("row", pa.int64())]
_LAST = [
    pa.field("error", pa.string()),
    pa.field("model", pa.dictionary(pa.int32(), pa.string())),
    pa.field("version", pa.dictionary(pa.int32(), pa.string())),
]
RESERVED = {field.name for field in (*_FIRST, *_LAST)}


def flat(answer: Mapping[str, Any]) -> dict[str, Any]:
    """An answer by columns.

    Texts, numbers and booleans stay, lists of numbers too; a mapping of up to 100 of them becomes ``<key>.<name>``;
    the rest, such as boxes, becomes JSON.
    """
    found: dict[str, Any] = {}
    for key, value in answer.items():
        name = f"answer.{key}" if key in RESERVED else key
        if isinstance(value, bool | int | float | str) or _numbers(value):
            found[name] = value
        elif isinstance(value, Mapping) and 0 < len(value) <= _MOST_COLUMNS and all(map(_scalar, value.values())):
            found |= {f"{name}.{inner}": item for inner, item in value.items()}
        else:
            found[name] = json.dumps(value, ensure_ascii=False)
    return found


def _scalar(value: Any) -> bool:
    return isinstance(value, bool | int | float | str)


def _numbers(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, float) for item in value)


def schema_of(answer: Mapping[str, Any], about: Mapping[str, str]) -> pa.Schema:
    """The columns of a file of answers like this one.

    Args:
        answer: Any answer of the model.
        about: What the file's metadata say.
    """
    columns = [pa.field(name, _type(value)) for name, value in flat(answer).items()]
    return pa.schema([*_FIRST, *columns, *_LAST], metadata={f"lepton.{key}": value for key, value in about.items()})


def _type(value: Any) -> pa.DataType:
    if isinstance(value, list):
        return pa.list_(pa.float64())
    kinds = ((bool, pa.bool_()), (int, pa.int64()), (float, pa.float64()))
    return next((made for kind, made in kinds if isinstance(value, kind)), pa.string())


class Answers:
    """A file that is being written.

    Args:
        writer: Of the file.
        model: Name, for every row.
        version: Likewise.
    """

    def __init__(self, writer: pq.ParquetWriter, *, model: str, version: str) -> None:
        self._writer, self._same = writer, {"model": model, "version": version}
        self._waiting: list[dict[str, Any]] = []

    def add(self, rows: Sequence[dict[str, Any]]) -> None:
        """Append rows with ``origin``, ``row``, and either the columns of an answer or ``error``."""
        self._waiting += [row | self._same for row in rows]
        if len(self._waiting) >= _GROUP_ROWS:
            self.flush()

    def flush(self) -> None:
        """Write what waits."""
        if self._waiting:
            self._writer.write_table(pa.Table.from_pylist(self._waiting, schema=self._writer.schema))
            self._waiting = []


@contextlib.contextmanager
def answers_file(path: Path, schema: pa.Schema, *, model: str, version: str) -> Iterator[Answers]:
    """A file that is there, whole, once the block has ended well, and not at all otherwise.

    Raises:
        DataError: it cannot be written.
    """
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with pq.ParquetWriter(part, schema, compression="zstd") as writer:
            answers = Answers(writer, model=model, version=version)
            yield answers
            answers.flush()
        os.replace(part, path)
    except OSError as error:
        if isinstance(error, DataError) or error.filename is None:
            raise
        raise DataError(f"cannot be written: {error.strerror}.", where=str(path)) from error
    finally:
        part.unlink(missing_ok=True)
