"""Files written whole: an ``.npy`` that grows, and a file that a task may write twice."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import numpy as np


@contextlib.contextmanager
def written_aside(path: Path) -> Iterator[Path]:
    """A name to write to that becomes `path` at the end: a task whose worker is lost is computed again."""
    aside = path.with_name(f".{path.name}")
    yield aside
    aside.replace(path)


class ArrayFile:
    """Appends arrays of one dtype and row shape to a file that `numpy.load` reads, memory-mapped too.

    Args:
        path: The file; replaced.
        dtype: Of the elements.
        row_shape: Shape of one row.
    """

    def __init__(self, path: Path, dtype: np.dtype | type, row_shape: tuple[int, ...] = ()) -> None:
        self._stream = path.open("wb")
        self._dtype, self._row_shape, self.rows = np.dtype(dtype), row_shape, 0
        self._write_header()

    def append(self, rows: np.ndarray) -> None:
        """Write rows, [n, *row_shape]."""
        if rows.dtype != self._dtype or rows.shape[1:] != self._row_shape:
            raise ValueError(f"{rows.dtype} {rows.shape} is not {self._dtype} [n, {self._row_shape}]")
        self._stream.write(np.ascontiguousarray(rows).data)
        self.rows += len(rows)

    def close(self) -> None:
        """Write the length."""
        self._stream.seek(0)
        self._write_header()  # as long as before: numpy leaves room in it for the first axis to grow
        self._stream.close()

    def __enter__(self) -> ArrayFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _write_header(self) -> None:
        header = {"descr": np.lib.format.dtype_to_descr(self._dtype), "fortran_order": False}
        np.lib.format.write_array_header_1_0(self._stream, {**header, "shape": (self.rows, *self._row_shape)})
