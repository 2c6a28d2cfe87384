"""Cleaned samples: rows, and the arrays decoded by `clean`."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

ARRAYS = "arrays.npy"
POSITION = "position"  # column: index of a row's array in the file
_BATCH_BYTES = 16 << 20
# Columns used only by cleaning.
_INTERNAL = (
    *("size_bytes", "sha256", "fault"),
    *("content_sha256", "perceptual_hash", "contrast", "alike"),
    *("split", POSITION),
)


@dataclasses.dataclass(frozen=True)
class Samples:
    """Rows of a cleaned data set with their arrays.

    Attributes:
        rows: Rows with a column ``position``.
        file: ``arrays.npy``, uint8 [N, ...].
    """

    rows: pa.Table
    file: Path

    def __len__(self) -> int:
        return int(self.rows.num_rows)

    def batches(self) -> Iterator[np.ndarray]:
        """The arrays in row order, uint8 [M, ...], in batches of about 16 MB."""
        positions = self.rows[POSITION].to_numpy()
        step = max(1, _BATCH_BYTES // max(1, np.load(self.file, mmap_mode="r")[:1].nbytes))
        for start in range(0, len(positions), step):
            # A new memory map per batch: mapped pages count as memory of the process as long as the map exists.
            yield np.load(self.file, mmap_mode="r")[positions[start : start + step]]

    def write(self, file: Path) -> int:
        """Write the arrays in row order as one ``.npy`` file; returns their size in bytes."""
        shape = (len(self), *np.load(self.file, mmap_mode="r").shape[1:])
        with file.open("wb") as stream:
            # Not memory-mapped: dirty pages of a map count as memory of the process until written to disk.
            np.lib.format.write_array_header_1_0(stream, {"descr": "|u1", "fortran_order": False, "shape": shape})
            return sum(stream.write(batch.data) for batch in self.batches())


def class_names(rows: pa.Table) -> list[str]:
    """The sorted labels of the rows, or of their boxes if no row has a label."""
    labels = {label for label in rows["label"].to_pylist() if label}
    if not labels and "boxes" in rows.column_names:
        labels = {box["label"] for boxes in rows["boxes"].to_pylist() for box in boxes or ()} - {None}
    return sorted(labels)


def write_ids(rows: pa.Table, labels: Sequence[str], folder: Path) -> None:
    """Write ``targets.npy``, int64 [rows]: label index, -1 without label; and ``ids.parquet``.

    The latter contains the rows' metadata: ``sample_id, uri, label, width, height``, group or time, and in ``boxes``
    the number of boxes, null if not annotated.
    """
    index: dict[str | None, int] = {label: i for i, label in enumerate(labels)}
    np.save(folder / "targets.npy", np.array([index.get(label, -1) for label in rows["label"].to_pylist()], np.int64))
    ids = rows.drop_columns([name for name in _INTERNAL if name in rows.column_names])
    if "boxes" in ids.column_names:
        counts = [None if boxes is None else len(boxes) for boxes in ids["boxes"].to_pylist()]
        ids = ids.set_column(ids.column_names.index("boxes"), "boxes", pa.array(counts, pa.int64()))
    pq.write_table(ids, folder / "ids.parquet")
