"""The request log of the inference server as one Parquet file."""

from __future__ import annotations

import itertools
import os
import time
from pathlib import Path

from lepton_tasks.core.environment import state_root
from lepton_tasks.core.errors import ConfigError

_ROWS = 50_000  # held in memory at a time


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
    from lepton_tasks.serving.observing.segments import COLUMNS, as_row

    folder = state_root() / "serving" / REQUESTS_FOLDER
    types = {"time": pa.timestamp("us", tz="UTC"), "int": pa.int64(), "float": pa.float64(), "text": pa.string()}
    schema = pa.schema([(column, types[kind]) for column, kind in COLUMNS.items()])
    records = read_requests(folder, name, since=time.time() - hours * 3600)
    part, count = output.with_name(f".{output.name}.{os.getpid()}"), 0
    try:
        with pq.ParquetWriter(part, schema) as writer:
            for batch in iter(lambda: list(itertools.islice(records, _ROWS)), []):
                writer.write_table(pa.Table.from_pylist([as_row(record) for record in batch], schema))
                count += len(batch)
        if not count:
            raise ConfigError(f"nothing was asked of {name!r} in the last {hours:g} hours.", where=str(folder))
        part.replace(output)
    finally:
        part.unlink(missing_ok=True)
    return count
