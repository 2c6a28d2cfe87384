"""Distribution of weights, gradients and optimizer state over ranks: replicated or sharded."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from pytorch_lightning.strategies import DDPStrategy
from torch import nn

from lepton_tasks.core.errors import ConfigError
from lepton_tasks.training.job import Job


class Replicas:
    """Full replica on each rank: one process, or DDP."""

    def __init__(self, rank: int) -> None:
        self._rank = rank

    def whole(self, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The full, unsharded tensors; a collective call."""
        return dict(tensors)

    def put(self, values: Mapping[str, torch.Tensor], into: Mapping[str, torch.Tensor]) -> None:
        """Copy `values`, full on every rank, into tensors of this layout, by name."""
        for name, tensor in into.items():
            tensor.copy_(values[name])

    def optimizer_state(self, network: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        """Full state for `load_optimizer`, on rank 0; a collective call."""
        return optimizer.state_dict()

    def load_optimizer(self, network: nn.Module, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
        """Restore a state that every rank has read."""
        optimizer.load_state_dict(state)

    @contextlib.contextmanager
    def gathered(self, network: nn.Module) -> Iterator[None]:
        """Gather sharded parameters, for use without collective calls in the context.

        Args:
            network: `TrainingModule.trainable`.
        """
        yield

    def stops(self, signalled: bool) -> bool:
        """Whether to exit after this step; called by every rank after each.

        Every rank gets the signal, but only rank 0 exits at the end of a step; the others then fail. If each exited by
        itself, rank 0 could hang in a collective call of an unfinished step.
        """
        return signalled and self._rank == 0


class Shards(Replicas):
    """A shard of each tensor per rank: FSDP, which gathers a block of layers only to compute it.

    Saving the state takes all ranks, so after each step they agree over gloo on whether to exit.
    """

    def __init__(self, rank: int) -> None:
        super().__init__(rank)
        self._group = dist.new_group(backend="gloo")  # does not wait for the GPU's queue

    def whole(self, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """See `Replicas`; on the CPU, and empty except on rank 0."""
        found = {}
        part: Any
        for name, part in tensors.items():
            value = part.full_tensor() if _shared_out(part) else part
            if self._rank == 0:
                found[name] = value.cpu()
        return found

    def put(self, values: Mapping[str, torch.Tensor], into: Mapping[str, torch.Tensor]) -> None:
        """See `Replicas`."""
        from torch.distributed.tensor import distribute_tensor

        part: Any
        for name, part in into.items():
            value = values[name].to(part.device)
            if _shared_out(part):
                value = distribute_tensor(value, part.device_mesh, part.placements)
            part.copy_(value)

    def optimizer_state(self, network: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        """See `Replicas`."""
        from torch.distributed.checkpoint.state_dict import StateDictOptions, get_optimizer_state_dict

        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        return dict(get_optimizer_state_dict(network, optimizer, options=options))

    def load_optimizer(self, network: nn.Module, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
        """See `Replicas`."""
        from torch.distributed.checkpoint.state_dict import StateDictOptions, set_optimizer_state_dict

        set_optimizer_state_dict(network, optimizer, state, options=StateDictOptions(full_state_dict=True))

    @contextlib.contextmanager
    def gathered(self, network: nn.Module) -> Iterator[None]:
        """See `Replicas`. Running statistics are set to rank 0's, which are saved."""
        for buffer in network.buffers():
            dist.broadcast(buffer, 0)
        parts: list[Any] = [layer for layer in network.modules() if hasattr(layer, "unshard")]
        for part in parts:
            part.set_reshard_after_forward(False, recurse=False)
            part.unshard()
        try:
            yield
        finally:
            for part in parts:
                part.reshard()
            for part in parts[1:]:  # all but the root
                part.set_reshard_after_forward(True, recurse=False)

    def stops(self, signalled: bool) -> bool:
        """See `Replicas`: all exit if one got the signal."""
        any_signalled = torch.tensor(int(signalled))
        dist.all_reduce(any_signalled, dist.ReduceOp.MAX, group=self._group)
        return bool(any_signalled)


class ShardingStrategy(DDPStrategy):
    """Lightning's DDP strategy, with the network sharded over the ranks instead of wrapped.

    Lightning's own FSDP strategy requires GPUs, and its checkpoints are not used.

    Source: Zhao et al., "PyTorch FSDP: experiences on scaling fully sharded data parallel", 2023;
    https://docs.pytorch.org/docs/stable/distributed.fsdp.fully_shard.html
    """

    def model_to_device(self) -> None:
        """Do nothing: blocks move one by one as they are sharded, so no device stores them all."""

    def configure_ddp(self) -> None:
        """Shard each block of layers, so that one at a time is gathered, then the remainder."""
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        module: Any = self.lightning_module
        module.to(memory_format=torch.contiguous_format)  # torch 2.13 shards nothing else
        mesh = init_device_mesh(self.root_device.type, (dist.get_world_size(),))
        for block in _blocks(module.trainable):
            fully_shard(block, mesh=mesh)
        # The root module of a step: its parameters stay gathered between forward and backward pass.
        fully_shard(module.trainable, mesh=mesh)
        if not all(map(_shared_out, module.network.parameters())):
            raise ConfigError(
                f"the task {module.job.task.name!r} has weights outside of what it trains with.",
                where="train.strategy",
                fix="Write ddp.",
            )
        module.to(self.root_device)


def check_strategy(job: Job) -> None:
    """Raise `ConfigError` for settings that do not support sharding."""
    if job.train.strategy == "fsdp" and job.train.precision == "16":
        raise ConfigError(
            "precision 16 needs loss scaling, which fsdp does not support here.",
            where="train.precision",
            fix="Write bf16 or 32.",
        )


def _blocks(network: nn.Module) -> Sequence[nn.Module]:
    """Members of the network's `ModuleList`s, innermost first."""
    lists = [layer for layer in network.modules() if isinstance(layer, nn.ModuleList)]
    members = (block for layers in lists for block in layers if next(block.parameters(), None) is not None)
    return list(dict.fromkeys(members))[::-1]


def _shared_out(tensor: torch.Tensor) -> bool:
    from torch.distributed.tensor import DTensor

    return isinstance(tensor, DTensor)
