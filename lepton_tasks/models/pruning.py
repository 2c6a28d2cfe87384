"""Structured pruning: remove the least important channels of a network."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import torch
from torch import nn

from lepton_tasks.core.errors import ConfigError


def prune(network: nn.Module, whole: nn.Module, inputs: torch.Tensor, *, share: float) -> None:
    """Remove the channels with the smallest weights from each layer of a trained network.

    Channels coupled by addition or concatenation are removed together. The output shape and attention, whose scaling
    depends on the head width, stay unchanged. Deterministic.

    Args:
        network: Modified in place; in evaluation mode.
        whole: Module that calls `network` once on preprocessed `inputs`.
        inputs: Two rows, as `whole` takes them.
        share: Fraction of channels to remove, in (0, 1).

    Raises:
        ConfigError: the network has no removable channels, or cannot be pruned.

    Source: Fang et al., "DepGraph: towards any structural pruning", 2023.
    """
    learned = [name for name, parameter in network.named_parameters() if parameter.requires_grad]
    network.requires_grad_(True)  # layers are traced along the gradients
    try:
        given = _given(network, whole, inputs)
        before, answers = _parameters(network), _shapes(network(*given))
        _take_out(network, given, share)
        after = _shapes(network(*given))
        copy.deepcopy(network).train()(*given)  # some parts are used in training only
    except Exception as error:
        raise ConfigError(f"channels cannot be removed from this network: {error}.", where="pruned") from error
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name in learned)
    if after != answers or _parameters(network) >= before:
        raise ConfigError("this network has no channels that can be removed.", where="pruned")


def _take_out(network: nn.Module, given: tuple[Any, ...], share: float) -> None:
    import torch_pruning

    # Separates the last layer from what follows, so that output layers are identified.
    how = {"example_inputs": given, "output_transform": lambda answers: [one * 1 for one in _tensors(answers)]}
    graph = torch_pruning.DependencyGraph().build_dependency(network, verbose=False, **how)
    kept = [
        layer for part in network.modules() if "attention" in type(part).__name__.lower() for layer in part.modules()
    ]
    kept += [
        group[0].dep.target.module
        for group in graph.get_all_groups()
        if any(isinstance(dep.target.module, torch_pruning.ops._OutputOp) for dep, _ in group)
    ]
    weight = torch_pruning.importance.GroupMagnitudeImportance(p=2)
    with warnings.catch_warnings():  # about bare parameters, whose last axis is taken as the channels
        warnings.simplefilter("ignore")
        torch_pruning.BasePruner(network, importance=weight, pruning_ratio=share, ignored_layers=kept, **how).step()


def _given(network: nn.Module, whole: nn.Module, inputs: torch.Tensor) -> tuple[Any, ...]:
    """Arguments with which `whole` calls `network`."""
    calls: list[tuple[Any, ...]] = []
    hook = network.register_forward_pre_hook(lambda _network, given: calls.append(given))
    with torch.no_grad():
        whole.eval()(inputs)
    hook.remove()
    if len(calls) != 1:
        raise RuntimeError(f"it is called {len(calls)} times for an answer")
    return calls[0]


def _tensors(answers: Any) -> list[torch.Tensor]:
    several = answers if isinstance(answers, tuple | list) else [answers]
    return [one for one in several if isinstance(one, torch.Tensor) and one.requires_grad]


def _shapes(answers: Any) -> list[torch.Size]:
    return [one.shape for one in _tensors(answers)]


def _parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())
