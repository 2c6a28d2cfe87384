"""`lepton requests`: export the request log to one Parquet file."""

from __future__ import annotations

import os
import time
from pathlib import Path

from lepton_tasks.core.environment import state_root
from lepton_tasks.core.errors import ConfigError

_ROWS = 50_000  # per row group, in memory


def export_requests(name: str, output: Path, *, hours: float) -> int:
    """Export recent requests and answers of a model, one row per sample; returns the number of rows.

    Column values of requests and further fields of a record are JSON texts in ``values`` and ``more``.

    Args:
        name: The model.
        output: The file, written atomically.
        hours: Length of the period, until now.

    Raises:
        ConfigError: there were no requests in the period.
    """
    from lepton_tasks.serving.observing.request_log import REQUESTS_FOLDER, read_requests
    from lepton_tasks.serving.observing.segments import write_parquet

    folder = state_root() / "serving" / REQUESTS_FOLDER
    records = read_requests(folder, name, since=time.time() - hours * 3600)
    part = output.with_name(f".{output.name}.{os.getpid()}")
    try:
        count = write_parquet(part, records, group=_ROWS)
        if not count:
            raise ConfigError(f"there were no requests to {name!r} in the last {hours:g} hours.", where=str(folder))
        part.replace(output)
    finally:
        part.unlink(missing_ok=True)
    return count
