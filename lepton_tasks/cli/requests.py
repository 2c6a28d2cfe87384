"""The request log of the inference server as one Parquet file."""

from __future__ import annotations

import itertools
import json
import os
import time
from pathlib import Path
from typing import Any

from lepton_tasks.core.environment import state_root
from lepton_tasks.core.errors import ConfigError

_ROWS = 50_000  # held in memory at a time
_OTHERS = "more"


def export_requests(name: str, output: Path, *, hours: float) -> int:
    """Write what was asked of a model and answered lately, one row a sample; returns the number of rows.

    Column values of requests, and whatever else a record holds, are JSON texts in ``values`` and ``more``.

    Args:
        name: The model.
        output: The file; it appears whole or not at all.
        hours: How far back to look.

    Raises:
        ConfigError: nothing was asked in that time.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    from lepton_tasks.serving.observing.request_log import REQUESTS_FOLDER, read_requests

    folder = state_root() / "serving" / REQUESTS_FOLDER
    columns = {
        "time": pa.timestamp("us", tz="UTC"),
        "seconds": pa.float64(),
        "status": pa.int16(),
        "bytes": pa.int64(),
        "rows": pa.int64(),
        "mean": pa.float64(),
        "std": pa.float64(),
        "probability": pa.float64(),
        **dict.fromkeys(("version", "api", "error", "probe", "caller", "label", "values", _OTHERS), pa.string()),
    }
    records = read_requests(folder, name, since=time.time() - hours * 3600)
    part, count = output.with_name(f".{output.name}.{os.getpid()}"), 0
    try:
        with pq.ParquetWriter(part, pa.schema(list(columns.items()))) as writer:
            for batch in iter(lambda: list(itertools.islice(records, _ROWS)), []):
                rows = [_row(record, columns) for record in batch]
                writer.write_table(pa.Table.from_pylist(rows, writer.schema))
                count += len(rows)
        if not count:
            raise ConfigError(f"nothing was asked of {name!r} in the last {hours:g} hours.", where=str(folder))
        part.replace(output)
    finally:
        part.unlink(missing_ok=True)
    return count


def _row(record: dict[str, Any], columns: dict[str, Any]) -> dict[str, Any]:
    row = {column: record.pop(column, None) for column in columns if column != _OTHERS}
    row["time"] = round(row["time"] * 1e6)
    row["values"] = json.dumps(row["values"]) if row["values"] else None
    label = row["label"]
    row["label"] = label if label is None or isinstance(label, str) else json.dumps(label)
    return {**row, _OTHERS: json.dumps(record) if record else None}
