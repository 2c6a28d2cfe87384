import json

import numpy as np
import pytest
import torch
from tiny_training import FITTED, LABELS, job

from lepton_tasks.core.catalogue import MODELS
from lepton_tasks.core.errors import ConfigError
from lepton_tasks.learning.image_classification import ImageClassification
from lepton_tasks.training.checkpoint import write_checkpoint
from lepton_tasks.training.distil import Lessons
from lepton_tasks.training.job import Teacher

OWN = torch.tensor(3.0)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("teacher")
    of = job(tmp_path_factory.mktemp("job"))
    network = MODELS.build(of.model.name, of.model.params, **of.learning_task().network_arguments())
    torch.save(network.state_dict(), of.best)
    of.history.write_text(json.dumps([{"epoch": 0}]))
    write_checkpoint(folder, of, {"epochs": 1, "best_epoch": 0, "parameters": 1, "seconds": 1.0})
    return folder


def lessons(checkpoint, **how):
    return Lessons(Teacher(checkpoint=checkpoint, **how), ImageClassification(FITTED, LABELS))


def pictures():
    return torch.from_numpy(np.random.default_rng(0).random((5, 1, 16, 16), np.float32))


def test_who_answers_as_the_teacher_does_has_learned_it_all(checkpoint):
    taught = lessons(checkpoint, share=1.0)
    answers = taught.network(pictures())
    assert float(taught(OWN, answers, pictures())) == pytest.approx(0, abs=1e-6)
    assert float(taught(OWN, answers + 7, pictures())) == pytest.approx(0, abs=1e-5)  # logits are the same up to that
    assert float(taught(OWN, answers + torch.tensor([7.0, 0.0]), pictures())) > 1e-4


def test_the_distance_of_classes_is_the_divergence_at_the_temperature(checkpoint):
    heat, outputs = 2.0, torch.linspace(-1, 1, 10).reshape(5, 2)
    taught = lessons(checkpoint, share=0.25, temperature=heat)
    p, q = (torch.softmax(values / heat, 1) for values in (taught.network(pictures()), outputs))
    distance = float((p * (p / q).log()).sum(1).mean()) * heat**2
    assert float(taught(OWN, outputs, pictures())) == pytest.approx(0.75 * 3 + 0.25 * distance, rel=1e-5)


def test_a_teacher_does_not_learn(checkpoint):
    taught = lessons(checkpoint)
    taught.train()
    assert not any(module.training for module in taught.modules())
    assert not any(parameter.requires_grad for parameter in taught.parameters())


def test_answers_of_another_form_are_refused(checkpoint):
    with pytest.raises(ConfigError, match="does not answer in the teacher's form"):
        lessons(checkpoint)(OWN, torch.zeros(5, 3), pictures())
