"""Outputs of a network for a whole array, batch by batch."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

# Keeps the floats of one batch near 64 MB, whatever the size of a row.
_BATCH_BYTES = 64 << 20


def predict(module: nn.Module, inputs: np.ndarray) -> np.ndarray:
    """Outputs [N, ...] of `module` in evaluation mode; it is left in the mode it was found in.

    Args:
        module: Takes a batch of stored rows, on whichever device its parameters are.
        inputs: Stored rows [N, ...], uint8 or another dtype the module takes; may be a memory map.
    """
    device = next(module.parameters()).device
    size = max(1, min(512, _BATCH_BYTES // (4 * max(1, int(np.prod(inputs.shape[1:]))))))
    training = module.training
    module.eval()
    try:
        with torch.inference_mode():
            parts = [
                module(torch.from_numpy(np.array(inputs[start : start + size])).to(device)).float().cpu()
                for start in range(0, len(inputs), size)
            ]
    finally:
        module.train(training)
    return torch.cat(parts).numpy()
