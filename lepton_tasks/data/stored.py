"""The arrays of a features artifact, as training and evaluation read them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lepton_tasks.core.errors import DataError
from lepton_tasks.core.protocols import Rows


def open_split(features: Path, split: str) -> Rows:
    """Inputs (a memory map), targets and, where there are any, lengths of one split; raises `DataError` if empty."""
    inputs, lengths = open_inputs(features, split)
    targets = np.load(features / split / "targets.npy")
    if len(inputs) != len(targets):
        raise DataError(
            f"the {split} split has {len(inputs)} inputs and {len(targets)} targets.",
            where=str(features / split),
            fix="Run the stage transform again.",
        )
    return Rows(inputs, targets, lengths)


def open_inputs(features: Path, split: str) -> tuple[np.ndarray, np.ndarray | None]:
    """Inputs (a memory map) and, where there are any, lengths of one split; raises `DataError` if empty."""
    folder = features / split
    inputs = np.load(folder / "inputs.npy", mmap_mode="r")
    if len(inputs) == 0:
        raise DataError(
            f"the {split} split has no rows.",
            where=str(folder),
            fix="Give more rows, or a larger share in data.split.",
        )
    lengths = folder / "lengths.npy"
    return inputs, np.load(lengths) if lengths.exists() else None
