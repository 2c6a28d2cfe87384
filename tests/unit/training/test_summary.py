import re

import tiny_training

from lepton_tasks.training.module import TrainingModule
from lepton_tasks.training.summary import summary


def test_every_layer_is_listed_with_its_shape_and_the_sums_are_right(tmp_path):
    module = TrainingModule(tiny_training.job(tmp_path), steps=1, rank=0)
    before = {name: value.clone() for name, value in module.network.state_dict().items()}
    text = summary(module.network, module.validation)
    lines = text.splitlines()
    assert lines[0].split() == ["layer", "class", "output", "of", "2", "rows", "parameters"]
    assert re.fullmatch(r"\(all\) +CNN +\[2, 2\] *", lines[1])  # two labels
    count = sum(parameter.numel() for parameter in module.network.parameters())
    assert f"parameters: {count:,}" in lines
    own = [line.split()[-1].replace(",", "") for line in lines[1 : lines.index("")]]
    assert sum(int(last) for last in own if last.isdigit()) == count
    assert sum(1 for line in lines if "[2, " in line) == len(list(module.network.named_modules()))
    after = module.network.state_dict()
    assert all((after[name] == value).all() for name, value in before.items())  # batch normalisation too
    assert not any(layer._forward_hooks for layer in module.network.modules())
