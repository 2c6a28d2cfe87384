"""Networks with fewer channels, made of the channels of a wider one that matter most."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from lepton_tasks.core.errors import ConfigError


def keep_the_strongest(wide: nn.Module, narrow: nn.Module) -> None:
    """Give a narrow network the weights of a wide one of the same layers, of each layer the strongest channels.

    A channel is as strong as the sum of its weights' magnitudes, times what the normalisation behind it makes of it.
    What reads a channel that went loses that input.

    Args:
        wide: Trained; a chain, in which each layer with weights reads the one before, and no other does.
        narrow: Built like it, with fewer channels.

    Raises:
        ConfigError: the two do not have the same layers.

    Source: Li et al., "Pruning filters for efficient ConvNets", 2017; the factor by Liu et al., "Learning efficient
    convolutional networks through network slimming", 2017.
    """
    sources, targets = _layers(wide), _layers(narrow)
    if [*map(type, sources)] != [*map(type, targets)]:
        raise ConfigError("the narrower network has other layers.", where="pruned")
    pairs = list(zip(sources, targets, strict=True))
    inputs = torch.arange(pairs[0][0].weight.shape[1])
    with torch.no_grad():
        for index, (source, target) in enumerate(pairs):
            if isinstance(source, nn.BatchNorm2d):  # of the channels that the layer before it kept
                for name, value in target.state_dict().items():
                    value.copy_(source.state_dict()[name][inputs] if value.ndim else source.state_dict()[name])
                continue
            behind = pairs[index + 1][0] if index + 1 < len(pairs) else None
            outputs = _strongest(source, behind, target.weight.shape[0])
            target.weight.copy_(source.weight[outputs][:, inputs])
            if target.bias is not None:
                target.bias.copy_(source.bias[outputs])
            inputs = outputs


def _layers(network: nn.Module) -> list[Any]:
    return [part for part in network.modules() if isinstance(part, nn.Conv2d | nn.BatchNorm2d | nn.Linear)]


def _strongest(layer: Any, behind: Any, count: int) -> torch.Tensor:
    """The indices of the strongest outputs, int64 [count], ascending."""
    strength = layer.weight.abs().flatten(1).sum(dim=1)
    if isinstance(behind, nn.BatchNorm2d):
        variance: Any = behind.running_var
        strength = strength * (behind.weight / (variance + behind.eps).sqrt()).abs()
    kept: torch.Tensor = strength.topk(count).indices.sort().values
    return kept
