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

# What computes, and what stands between two of these and would otherwise turn bytes into floats and back. The rest, the
# normalisation of pixels and the last softmax among it, stays in floats: as bytes they cost much and save nothing.
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
        rows: Training rows that the ranges are measured on.
        method: ``minmax`` takes the whole range, ``percentile`` all but the furthest 1e-5 of the numbers, ``entropy``
            the range that keeps most of the distribution. The latter two keep all numbers of all rows in memory.

    Source: Jacob et al., "Quantization and training of neural networks for efficient integer-arithmetic-only
    inference", 2018; https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html
    """

    def __init__(
        self, *, rows: pydantic.PositiveInt = 128, method: Literal["minmax", "percentile", "entropy"] = "minmax"
    ) -> None:
        self.rows, self.method = rows, method

    def compress(self, model: CompressionInput, output: Path) -> None:
        """Write `output`: one scale for each output of a layer, nodes that quantise beside those that compute."""
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
    """The rows in small batches, in the form that the quantiser asks for."""
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):  # type: ignore[misc]  # untyped
        batches: Iterator[np.ndarray] = (rows[i : i + _BATCH] for i in range(0, len(rows), _BATCH))

        def get_next(self) -> dict[str, np.ndarray] | None:
            batch = next(self.batches, None)
            return None if batch is None else {name: batch}

    return Reader()
