"""Shared code of ONNX graph compressions."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def prepared(graph: Path, folder: Path) -> Path:
    """A copy of a graph in `folder` with known shapes, constants folded and normalisations taken into convolutions.

    Only tensors of known shape are quantised. ONNX Runtime's symbolic inference of shapes is left out: it fails at the
    graphs of recurrent networks, and costs seconds.
    """
    import onnx
    from onnxruntime.quantization.shape_inference import quant_pre_process

    made = folder / "prepared.onnx"
    with quiet():
        quant_pre_process(str(graph), str(made), skip_symbolic_shape=True)
    model = onnx.load(made)
    _merge_equal_weights(model.graph)
    onnx.save(model, made)
    return made


def _merge_equal_weights(graph: Any) -> None:
    """Keep one of equal constants: a network that looks twice, at a picture and its mirror image, has one set."""
    kept: dict[bytes, str] = {}
    names: dict[str, str] = {}
    outputs = {output.name for output in graph.output}
    for tensor in list(graph.initializer):
        name, tensor.name = tensor.name, ""
        first = kept.setdefault(tensor.SerializeToString(deterministic=True), name)
        tensor.name = name
        if first != name and name not in outputs:
            names[name] = first
            graph.initializer.remove(tensor)
    _rename(graph, names)


def _rename(graph: Any, names: dict[str, str]) -> None:
    """Let all nodes, those of inner graphs too, take `names`' values in place of its keys."""
    for node in graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = names.get(name, name)
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                _rename(inner, names)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep the converters' advice, which is about options that are chosen here, out of the log and off the terminal."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(None):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
