"""Layer table of a network, as text."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from lepton_tasks.core.protocols import Validation
from lepton_tasks.models.inference import predict

_ROWS = 2


def summary(network: nn.Module, validation: Validation) -> str:
    """Name, class, output shape and own parameters of every layer, then the sums.

    The shapes are for `_ROWS` rows of the validation split, from each layer's first call; a layer not used in inference
    has none.
    """
    shapes: dict[str, str] = {}
    hooks = []
    for name, layer in network.named_modules():

        def noted(_layer: nn.Module, _inputs: Any, outputs: Any, name: str = name) -> None:
            shapes.setdefault(name, _shape(outputs))

        hooks.append(layer.register_forward_hook(noted))
    try:
        predict(validation.network, validation.rows.inputs[:_ROWS], validation.outputs)
    finally:
        for hook in hooks:
            hook.remove()
    lines = [("layer", "class", f"output of {_ROWS} rows", "parameters")]
    for name, layer in network.named_modules():
        own = sum(parameter.numel() for parameter in layer.parameters(recurse=False))
        lines.append((name or "(all)", type(layer).__name__, shapes.get(name, ""), f"{own:,}" if own else ""))
    whole = list(network.parameters())
    sums = {
        "parameters": f"{sum(p.numel() for p in whole):,}",
        "of these, trainable": f"{sum(p.numel() for p in whole if p.requires_grad):,}",
        "size of parameters and buffers": f"{sum(_bytes(t) for t in (*whole, *network.buffers())) / 2**20:,.2f} MiB",
    }
    widths = [max(len(line[column]) for line in lines) for column in range(3)]
    table = ["  ".join([*map(str.ljust, line, widths), line[3].rjust(14)]) for line in lines]
    return "\n".join([*table, "", *(f"{what}: {value}" for what, value in sums.items())]) + "\n"


def _shape(outputs: Any) -> str:
    if isinstance(outputs, torch.Tensor):
        return f"[{', '.join(map(str, outputs.shape))}]"
    several = outputs if isinstance(outputs, tuple | list) else ()
    return " ".join(found for output in several if (found := _shape(output)))


def _bytes(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()
