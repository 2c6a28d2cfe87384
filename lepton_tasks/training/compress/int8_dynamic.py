"""Compression `int8_dynamic`: int8 weights, activations quantised per request."""

from __future__ import annotations

import tempfile
from pathlib import Path

from lepton_tasks.core.release_protocols import CompressionInput
from lepton_tasks.training.compress.graphs import prepared, quiet

_LAYERS = ("Attention", "EmbedLayerNormalization", "Gather", "Gemm", "LSTM", "MatMul")


class Int8Dynamic:
    """No calibration; for LSTMs, transformers and dense layers.

    Args:
        convolutions: Whether to quantise convolutions too. The file is smaller, but ONNX Runtime runs them at a third
            to a tenth of the float speed.
        per_channel: One scale per output channel instead of one per layer.

    Source: https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html
    """

    def __init__(self, *, convolutions: bool = False, per_channel: bool = False) -> None:
        self.layers = [*_LAYERS, *(["Conv"] if convolutions else [])]
        self.per_channel = per_channel

    def compress(self, model: CompressionInput, output: Path) -> None:
        """Write `output`."""
        from onnxruntime.quantization import QuantType, quantize_dynamic

        with tempfile.TemporaryDirectory() as folder, quiet():
            quantize_dynamic(
                str(prepared(model.graph, Path(folder))),
                str(output),
                op_types_to_quantize=self.layers,
                per_channel=self.per_channel,
                weight_type=QuantType.QInt8,
            )
