"""The arrays of a features artifact, as training and evaluation read them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lepton_tasks.core.errors import DataError
from lepton_tasks.core.protocols import Rows


def open_split(features: Path, split: str) -> Rows:
    """Inputs (a memory map), targets and, where there are any, lengths of one split; raises `DataError` if empty."""
    folder = features / split
    inputs = np.load(folder / "inputs.npy", mmap_mode="r")
    targets = np.load(folder / "targets.npy")
    if len(inputs) == 0 or len(inputs) != len(targets):
        raise DataError(
            f"the {split} split has {len(inputs)} inputs and {len(targets)} targets.",
            where=str(folder),
            fix="Give more rows, or a larger share in data.split.",
        )
    lengths = folder / "lengths.npy"
    return Rows(inputs, targets, np.load(lengths) if lengths.exists() else None)
