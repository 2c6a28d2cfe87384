"""Read the arrays of a features artifact, for training and evaluation."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lepton_tasks.core.errors import DataError
from lepton_tasks.core.protocols import Rows
from lepton_tasks.data.split import SPLITS


def open_split(features: Path, split: str) -> Rows:
    """Inputs (memory-mapped), targets and, if present, lengths of one split; raises `DataError` if empty."""
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
    """Inputs (memory-mapped) and, if present, lengths of one split; raises `DataError` if empty."""
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


def check_texts(features: Path, *, framed: int = 0) -> None:
    """Raise `DataError` if a text of any split has no token, since the server would reject it.

    Args:
        features: Folder of the features artifact.
        framed: Number of tokens of an empty text.
    """
    for split in SPLITS:
        path = features / split / "lengths.npy"
        if path.exists() and (empty := int((np.load(path) <= framed).sum())):
            raise DataError(
                f"{empty:,} texts of the {split} split hold nothing to read; a server would refuse them.",
                where="clean",
                fix="Reject them with the step `empty_text`.",
            )
