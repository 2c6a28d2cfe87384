"""Compression `int8_static`: int8 weights and activations, calibrated on training rows."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pydantic

from lepton_tasks.core.release_protocols import CompressionInput
from lepton_tasks.training.compress.graphs import prepared, quiet

# Compute-heavy operators, and those between them that would otherwise force dequantisation and requantisation. The
# rest, such as pixel normalisation and the final softmax, stays in float: int8 would lose accuracy and save nothing.
_LAYERS = (
    "Add",
    "AveragePool",
    "Concat",
    "Conv",
    "Gemm",
    "GlobalAveragePool",
    "MatMul",
    "MaxPool",
    "ReduceMean",
    "Relu",
)
_BATCH = 16


class Int8Static:
    """Calibrated on training rows; for convolutions (ONNX Runtime has no static recurrent layers).

    Args:
        rows: Number of training rows for calibration.
        method: ``minmax`` takes the whole range, ``percentile`` cuts off the outermost 1e-5 of the values, ``entropy``
            minimises the divergence of the distribution. The latter two store all activations in memory.

    Source: Jacob et al., "Quantization and training of neural networks for efficient integer-arithmetic-only
    inference", 2018; https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html
    """

    def __init__(
        self, *, rows: pydantic.PositiveInt = 128, method: Literal["minmax", "percentile", "entropy"] = "minmax"
    ) -> None:
        self.rows, self.method = rows, method

    def compress(self, model: CompressionInput, output: Path) -> None:
        """Write `output`: one scale per output channel, in QDQ format."""
        import onnxruntime
        from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

        method = {"minmax": "MinMax", "percentile": "Percentile", "entropy": "Entropy"}[self.method]
        with tempfile.TemporaryDirectory() as folder, quiet():
            graph = prepared(model.graph, Path(folder))
            name = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"]).get_inputs()[0].name
            quantize_static(
                str(graph),
                str(output),
                _reader(name, model.samples(self.rows)),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=_LAYERS,
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                calibrate_method=getattr(CalibrationMethod, method),
            )


def _reader(name: str, rows: np.ndarray) -> Any:
    """Calibration rows in small batches, as the quantiser's data reader."""
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):  # type: ignore[misc]  # untyped
        batches: Iterator[np.ndarray] = (rows[i : i + _BATCH] for i in range(0, len(rows), _BATCH))

        def get_next(self) -> dict[str, np.ndarray] | None:
            batch = next(self.batches, None)
            return None if batch is None else {name: batch}

    return Reader()
