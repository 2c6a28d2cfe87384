"""Compression `fp16`: half-precision weights."""

from __future__ import annotations

import tempfile
from pathlib import Path

from lepton_tasks.core.release_protocols import CompressionInput
from lepton_tasks.training.compress.graphs import prepared, quiet


class Fp16:
    """Half precision: half the size, rarely faster on CPUs; inputs and outputs keep their types."""

    def compress(self, model: CompressionInput, output: Path) -> None:
        """Write `output`."""
        import onnx
        from onnxruntime.transformers.float16 import convert_float_to_float16

        with tempfile.TemporaryDirectory() as folder, quiet():
            graph = onnx.load(prepared(model.graph, Path(folder)))
            onnx.save(convert_float_to_float16(graph, keep_io_types=True), output)
