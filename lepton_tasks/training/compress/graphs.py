"""Shared code of ONNX graph compressions."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def prepared(graph: Path, folder: Path) -> Path:
    """A copy of a graph in `folder` with inferred shapes, folded constants and normalisations fused into convolutions.

    Only tensors of known shape are quantised. ONNX Runtime's symbolic shape inference is skipped: it fails on recurrent
    networks and takes seconds.
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
    """Deduplicate equal constants: a network applied twice, to an image and its mirror image, has one set."""
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
    """Rename inputs of all nodes, including subgraphs, from `names`' keys to its values."""
    for node in graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = names.get(name, name)
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                _rename(inner, names)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence the converters' advice on options that are chosen deliberately here."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(None):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
