from lepton_tasks.core.context import RunContext
from lepton_tasks.core.use_case import parse_use_case
from lepton_tasks.stages.pipeline import COMPRESS, TUNE, stage_named
from lepton_tasks.stages.pretrained_weights import weights_state
from lepton_tasks.stages.runner import fingerprint


def use_case(**changes):
    raw = {
        "name": "photos",
        "task": "image_classification",
        "data": {"source": {"name": "image_folder", "params": {"path": "photos"}}},
        "features": "image",
        "model": {"name": "timm/resnet18", "params": {"weights": "resnet18.safetensors"}},
    }
    return parse_use_case(raw | changes, where="photos.yaml")


def test_other_weights_under_the_same_name_make_the_training_run_again(tmp_path):
    ctx, case = RunContext.local(tmp_path / "home", data_root=str(tmp_path)), use_case()
    stage = stage_named("train")
    needed = {name: type("Ref", (), {"digest": name}) for name in stage.needs}
    absent = fingerprint(stage, case, ctx, needed)
    (tmp_path / "resnet18.safetensors").write_bytes(b"old")
    old = fingerprint(stage, case, ctx, needed)
    assert fingerprint(stage, case, ctx, needed) == old
    (tmp_path / "resnet18.safetensors").write_bytes(b"new")
    assert len({absent, old, fingerprint(stage, case, ctx, needed)}) == 3


def test_weights_of_trials_and_pupils_count_too(tmp_path):
    ctx = RunContext.local(tmp_path / "home", data_root=str(tmp_path))
    assert weights_state(use_case(model="cnn"), ctx) == {}
    assert TUNE.state == COMPRESS.state == stage_named("train").state
    case = use_case(
        tune={
            "space": {
                "model.params.weights": {"choices": ["a.pth", "b.pth"]},
                "model": {"choices": ["cnn", {"name": "timm/vit", "params": {"weights": "c.pth"}}]},
                "train.learning_rate": {"low": 0.001, "high": 0.01},
            }
        },
        compress={
            "candidates": [
                {
                    "name": "distilled",
                    "params": {"student": {"name": "timm/resnet10t", "params": {"weights": "d.pth"}}},
                }
            ]
        },
    )
    assert list(weights_state(case, ctx)) == ["a.pth", "b.pth", "c.pth", "d.pth", "resnet18.safetensors"]
