import pytest
import tiny_training
from torch import nn

from lepton_tasks.core.errors import ConfigError
from lepton_tasks.training.layout import Replicas, _blocks, check_strategy


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.parts = nn.ModuleList([nn.Linear(2, 2), nn.ReLU()])


def test_blocks_are_shared_out_before_what_holds_them():
    network = nn.Sequential(nn.Linear(2, 2), nn.ModuleList([Block(), Block()]))
    outer, inner = list(network[1]), [block.parts[0] for block in network[1]]
    blocks = _blocks(network)
    assert set(blocks) == {*outer, *inner}  # neither the first layer, which is in no list, nor what has no weights
    assert all(blocks.index(block.parts[0]) < blocks.index(block) for block in outer)


def test_half_precision_is_refused_where_weights_are_shared_out(tmp_path):
    check_strategy(tiny_training.job(tmp_path, strategy="ddp", precision="16"))
    with pytest.raises(ConfigError, match=r"train\.precision: .*Write bf16"):
        check_strategy(tiny_training.job(tmp_path, strategy="fsdp", precision="16"))


def test_of_replicas_rank_0_alone_leaves():
    assert [Replicas(rank).stops(told) for rank, told in ((0, True), (0, False), (1, True))] == [True, False, False]
