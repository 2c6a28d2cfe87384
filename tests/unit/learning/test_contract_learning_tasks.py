"""Every line of the catalogue's LEARNING_TASKS, on pictures with two labels."""

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_training import FITTED, LABELS, SIDE, pictures

from lepton_tasks.core.catalogue import LEARNING_TASKS, MODELS, OUTPUT_CODECS

NAMES = LEARNING_TASKS.names()
INPUTS, TARGETS = pictures(12, 0)


@pytest.fixture(params=NAMES)
def task(request):
    return LEARNING_TASKS.build(request.param, {})


@pytest.fixture
def network(task):
    torch.manual_seed(0)
    return MODELS.build("cnn", {"width": 4}, **task.network_arguments(FITTED, LABELS))


def perfect():
    return np.eye(len(LABELS), dtype=np.float32)[TARGETS]


def test_the_loss_falls_when_it_is_minimised(task, network):
    trainable = task.trainable(network, FITTED)
    inputs = task.inputs(torch.from_numpy(INPUTS))
    targets = task.targets(torch.from_numpy(TARGETS), LABELS, 0.1)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    losses = []
    for _ in range(30):
        loss = task.loss(trainable(inputs), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0]


def test_right_answers_score_best(task):
    best = task.metrics(perfect(), TARGETS, LABELS)
    worst = task.metrics(1 - perfect(), TARGETS, LABELS)
    assert task.score(best) > task.score(task.baseline(TARGETS, LABELS)) > task.score(worst)
    assert task.right(perfect(), TARGETS).all()
    assert not task.right(1 - perfect(), TARGETS).any()
    assert set(task.details(perfect(), TARGETS, LABELS)) == set(LABELS)


def test_what_is_served_takes_stored_rows_and_its_codec_reads_the_answer(task, network):
    served = task.deployable(network, FITTED).eval()
    with torch.no_grad():
        outputs = served(torch.from_numpy(INPUTS)).numpy()
    assert (outputs.dtype, len(outputs)) == (np.float32, len(INPUTS))
    name, params = task.output_codec(LABELS)
    answer = OUTPUT_CODECS.build(name, params).encode({"probabilities": outputs}, 0)
    assert answer["label"] in LABELS


def test_plots_are_pictures(task, tmp_path):
    outputs = np.roll(perfect(), 1, axis=0)
    for path in task.plots(tmp_path, INPUTS, outputs, TARGETS, LABELS, worst=4):
        assert Image.open(path).width > 2 * SIDE
