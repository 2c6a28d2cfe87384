"""Small tables on disk, as the stages see them."""

from pathlib import Path

import numpy as np
import polars as pl

from lepton_tasks.data.split import SPLITS
from lepton_tasks.data.tables.rows import Part, TableRows


def table_on_disk(frame: pl.DataFrame, folder: Path, *, rows_per_part: int = 7) -> TableRows:
    """All rows of a frame, in parts of a few rows."""
    parts = []
    for start in range(0, max(len(frame), 1), rows_per_part):
        path = folder / f"{start:06d}.parquet"
        frame.slice(start, rows_per_part).write_parquet(path)
        parts.append(Part(str(path), 0, len(frame.slice(start, rows_per_part)), start, f"file-{start}"))
    return TableRows(tuple(parts), height=len(frame))


def split_on_disk(rows: TableRows, codes: list[int], folder: Path) -> dict[str, TableRows]:
    """The rows of each split, given the code of each row."""
    path = folder / "splits.npy"
    np.save(path, np.array(codes, np.uint8))
    return {
        name: TableRows(rows.parts, codes.count(code), str(path), (code,), rows.changes)
        for code, name in enumerate(SPLITS)
    }


class Frames:
    """A source of tables that are in memory: `frames` by name, one piece each."""

    frames: dict[str, pl.DataFrame] = {}

    def __init__(self, data_root: Path) -> None:
        pass

    def state(self) -> int:
        return sum(frame.hash_rows().sum() for frame in self.frames.values())

    def schema(self) -> dict[str, pl.DataType]:
        return dict(next(iter(self.frames.values())).schema)

    def pieces(self) -> list["Frame"]:
        return [Frame(origin, frame) for origin, frame in self.frames.items()]

    def describe(self) -> dict[str, object]:
        return {"frames": len(self.frames)}


class Frame:
    parquet = None

    def __init__(self, origin: str, frame: pl.DataFrame) -> None:
        self.origin, self.frame = origin, frame

    def read(self):
        yield self.frame, pl.DataFrame(schema={"line": pl.Int64, "text": pl.String, "reason": pl.String})
