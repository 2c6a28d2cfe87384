import functools
import json

import pytest
import tiny_training
import torch

from lepton_tasks.core.errors import ConfigError
from lepton_tasks.training.compiling import compiled
from lepton_tasks.training.fit import fit

pytestmark = pytest.mark.usefixtures("one_thread")


def losses(job):
    fit(job)
    return [row["train_loss"] for row in job.rows()]


def test_a_compiled_training_is_the_same_training(tmp_path, monkeypatch):
    seen = []

    def backend(graph, inputs):
        seen.append(graph)
        return graph.forward

    real = torch.compile
    monkeypatch.setattr(torch, "compile", functools.partial(real, backend=backend))
    plain = losses(tiny_training.job(tmp_path / "plain", epochs=1))
    assert losses(tiny_training.job(tmp_path / "compiled", epochs=1, compile=True)) == plain
    nodes = {str(node.target) for graph in seen for node in graph.graph.nodes}
    assert any("conv2d" in name for name in nodes)  # the network is in it
    assert any("cross_entropy" in name for name in nodes)  # and so is the loss


def test_what_cannot_be_compiled_is_told_with_the_way_out(tmp_path, monkeypatch):
    def backend(graph, inputs):
        raise RuntimeError("no C++ compiler is here")

    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=backend))
    with pytest.raises(ConfigError, match=r"train\.compile: .*no C\+\+ compiler is here.*write false"):
        fit(tiny_training.job(tmp_path, epochs=1, compile=True))


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"compile": True, "strategy": "fsdp", "devices": 2}, "fsdp does not support"),
        ({"compile": "graphs", "accumulate": 2}, "train.accumulate: 2"),
        ({"compile": "graphs", "precision": "16"}, "train.precision: 16"),
    ],
)
def test_what_compiling_does_not_go_with_is_named(tmp_path, settings, reason):
    with pytest.raises(ConfigError, match=rf"train\.compile: .*{reason}"):
        compiled(tiny_training.job(tmp_path, **settings), lambda inputs, targets: inputs)


def test_the_setting_survives_the_job_s_file(tmp_path):
    job = tiny_training.job(tmp_path, compile="graphs")
    assert json.loads(job.model_dump_json())["train"]["compile"] == "graphs"
    assert type(job).model_validate_json(job.model_dump_json()).train.compile == "graphs"
