"""Export a torch module as an ONNX graph."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn


def export_onnx(
    module: nn.Module, example: np.ndarray, path: Path, *, outputs: Sequence[str], opset: int
) -> dict[str, Any]:
    """Export `module` with a dynamic batch size; returns the names, dtypes and shapes of inputs and outputs.

    The graph's input is named after the argument of `forward`.

    Args:
        module: One input, one or several outputs, all with the batch as first axis.
        example: Example input rows, [N, ...].
        path: The file.
        outputs: Names of the graph's outputs, in order.
        opset: ONNX operator set.
    """
    rows = torch.from_numpy(np.resize(example, (2, *example.shape[1:])))  # a batch size of one becomes a constant
    with warnings.catch_warnings(), _quiet("torch.onnx", "onnx_ir", "onnxscript"), contextlib.redirect_stdout(None):
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            module.eval(),
            (rows,),
            dynamo=True,
            dynamic_shapes=({0: torch.export.Dim("rows")},),
            output_names=list(outputs),
            opset_version=opset,
            verbose=False,
        )
    if program is None:
        raise RuntimeError("torch.onnx.export gave no program")  # only without dynamo
    program.save(str(path), external_data=False)
    graph = program.model.graph
    return {"inputs": [_spec(graph.inputs[0])], "outputs": [_spec(output) for output in graph.outputs]}


def _spec(value: Any) -> dict[str, Any]:
    return {
        "name": value.name,
        "dtype": str(value.dtype.numpy()),
        "shape": [size if isinstance(size, int) else None for size in value.shape],
    }


@contextlib.contextmanager
def _quiet(*names: str) -> Iterator[None]:
    """Log only errors of these loggers within the context."""
    loggers = [logging.getLogger(name) for name in names]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
