"""Tables: data frames and files for training, and rows for prediction."""

from __future__ import annotations

import hashlib
import io
import os
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from lepton_tasks.core.errors import ConfigError
from lepton_tasks.core.registry import did_you_mean

if TYPE_CHECKING:
    import polars as pl


def is_frame(value: Any) -> bool:
    """Whether the value is a pandas or polars data frame."""
    return type(value).__module__.partition(".")[0] in ("pandas", "polars") and hasattr(value, "columns")


def stored(frame: Any) -> Path:
    """Write a data frame as Parquet below ``LEPTON_HOME``, named by its digest; reuses an existing file.

    Raises:
        ConfigError: a column holds values of several types.
    """
    from lepton_tasks.core.environment import state_root

    stream = io.BytesIO()
    _polars(frame).write_parquet(stream)
    content = stream.getvalue()
    path = state_root() / "tables" / f"table_{hashlib.sha256(content).hexdigest()[:16]}.parquet"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
        part.write_bytes(content)
        os.replace(part, path)
    return path


def fraction(source: str, path: str, target: str) -> bool:
    """Whether the target column contains fractions, by the head of the file.

    Raises:
        ConfigError: the column does not exist.
        DataError: the file cannot be read.
    """
    from lepton_tasks.core.catalogue import TABLE_SOURCES
    from lepton_tasks.core.environment import load_environment

    root = Path(load_environment().data_root)
    schema = TABLE_SOURCES.build(source, {"path": path}, where="data", data_root=root).schema()
    if target not in schema:
        raise ConfigError(f"no column named {target!r}.", where="target", fix=did_you_mean(target, list(schema)))
    return bool(schema[target].is_float())


def rows_of(inputs: Any) -> list[dict[str, Any]]:
    """Convert rows to JSON values; NaN becomes null.

    Raises:
        ConfigError: `inputs` is neither a data frame nor a list of mappings.
    """
    rows = _polars(inputs).to_dicts() if is_frame(inputs) else inputs
    if not isinstance(rows, Sequence):
        raise ConfigError(f"expected rows, not {type(rows).__name__}.", where="inputs", fix=_ROWS)
    for number, row in enumerate(rows):
        if not isinstance(row, Mapping):
            raise ConfigError(f"row {number} is a {type(row).__name__}.", where="inputs", fix=_ROWS)
    converted: list[dict[str, Any]] = orjson.loads(
        orjson.dumps([dict(row) for row in rows], option=orjson.OPT_SERIALIZE_NUMPY, default=str)
    )
    return converted


_ROWS = "Give a list of dicts with the names of the columns, or a data frame (pandas or polars)."


def _polars(frame: Any) -> pl.DataFrame:
    """Convert to polars, with categories as text; a pandas frame loses its index, and NaN becomes null."""
    import polars as pl

    if isinstance(frame, pl.LazyFrame):
        frame = frame.collect()
    if not isinstance(frame, pl.DataFrame):
        columns = {str(name): _column(str(name), frame[name]) for name in frame.columns}
        if len(columns) != len(frame.columns):
            raise ConfigError("two columns have the same name.", where="data", fix="Rename one of them.")
        frame = pl.DataFrame(columns)
    converted: pl.DataFrame = frame.with_columns(pl.col(pl.Categorical, pl.Enum).cast(pl.String))
    return converted


def _column(name: str, values: Any) -> pl.Series:
    """Convert one pandas column."""
    import polars as pl
    import pyarrow as pa

    try:
        return pl.Series(name, pl.from_pandas(values))
    except (pa.ArrowException, TypeError) as error:
        kinds = ", ".join(sorted({type(value).__name__ for value in values.dropna()}))
        raise ConfigError(
            f"the column {name!r} holds values of several types: {kinds}.",
            where="data",
            fix=f"Convert it, e.g. with pandas.to_numeric(frame[{name!r}], errors='coerce') or astype(str).",
        ) from error
