"""`lepton requests`: export the request log to one Parquet file."""

from __future__ import annotations

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
