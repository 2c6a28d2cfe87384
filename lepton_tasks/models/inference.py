"""Run a network over a whole array in batches."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

# Limits one batch to about 64 MB of floats for any row size.
_BATCH_BYTES = 64 << 20


def predict(module: nn.Module, inputs: np.ndarray, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Outputs [N, ...] of `module` by name, in evaluation mode; its mode is restored.

    Args:
        module: Takes a batch of stored rows on the device of its parameters.
        inputs: Stored rows [N, ...], uint8 or another dtype the module takes; may be a memory map.
        names: Output names, in order; floats become float32.
    """
    device = next(module.parameters()).device
    most = int(getattr(module, "most_rows", 512))  # a module may need far more memory than its inputs
    size = max(1, min(most, _BATCH_BYTES // (4 * max(1, int(np.prod(inputs.shape[1:]))))))
    training = module.training
    module.eval()
    try:
        with torch.inference_mode():
            parts = [
                _on_cpu(module(torch.from_numpy(np.array(inputs[start : start + size])).to(device)))
                for start in range(0, len(inputs), size)
            ]
    finally:
        module.train(training)
    columns = zip(*parts, strict=True)
    return {name: torch.cat(column).numpy() for name, column in zip(names, columns, strict=True)}


def _on_cpu(outputs: torch.Tensor | tuple[torch.Tensor, ...]) -> list[torch.Tensor]:
    several = (outputs,) if isinstance(outputs, torch.Tensor) else outputs
    return [(output.float() if output.is_floating_point() else output).cpu() for output in several]
