import base64
import io

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_training import FITTED, LABELS, SIDE, write_features

from lepton_tasks.codecs.latent import LatentCodec
from lepton_tasks.codecs.picture import PictureCodec, to_uint8
from lepton_tasks.core.errors import DataError
from lepton_tasks.learning.generation_judge import frechet_distance
from lepton_tasks.learning.image_generation import ImageGeneration
from lepton_tasks.models.gan import DCGAN, gradient_penalty
from lepton_tasks.serving.prediction_difference import difference

CODEC = LatentCodec(latent=8, labels=["3", "seven"])


def test_a_seed_and_a_label_are_the_code():
    code = CODEC.decode(b'{"label": "seven", "seed": 1}')
    assert code.dtype == np.float32
    assert code[8:].tolist() == [0, 1]
    np.testing.assert_allclose(code[:3], [1.6243454, -0.6117564, -0.5281718], atol=1e-6)  # known of this generator
    assert np.array_equal(code, CODEC.decode(b'{"seed": 1, "label": "seven"}'))
    assert np.array_equal(CODEC.decode(b'{"label": 3, "seed": 1}')[:8], code[:8])


def test_without_a_seed_each_answer_is_another():
    first, second = (CODEC.decode(b'{"label": "3"}') for _ in range(2))
    assert not np.array_equal(first, second)


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        (b"{}", "a label is missing"),
        (b'{"label": "sevn"}', "Did you mean 'seven'"),
        (b'{"label": true}', "no label True"),
        (b'{"label": "3", "seed": -1}', "whole number"),
        (b'{"label": "3", "seed": "x"}', "whole number"),
        (b'{"label": "3", "sed": 1}', "no field 'sed'"),
        (b"3", "one row"),
    ],
)
def test_a_request_that_asks_for_nothing_there_is_gets_a_reason(request_, reason):
    with pytest.raises(DataError, match=reason):
        CODEC.decode(request_)
    assert LatentCodec(latent=8, labels=[]).decode(b'{"seed": 1}').shape == (8,)
    with pytest.raises(DataError, match="the generator takes no label"):
        LatentCodec(latent=8, labels=[]).decode(b'{"label": "3"}')


def test_the_answer_is_a_png_file():
    picture = np.linspace(-0.1, 1.1, 12, dtype=np.float32).reshape(1, 3, 4, 1)
    answer = PictureCodec().encode({"picture": picture}, 0)
    image = Image.open(io.BytesIO(base64.b64decode(answer["image"])))
    assert image.format == "PNG"
    np.testing.assert_array_equal(np.asarray(image), to_uint8(picture[0])[:, :, 0])
    assert to_uint8(picture).ravel()[[0, -1]].tolist() == [0, 255]


def test_pictures_that_differ_by_rounding_are_the_same_answer():
    def answer(*values):
        return PictureCodec().encode({"picture": np.array(values, np.float32).reshape(1, 2, 2, 1) / 255}, 0)

    assert difference(answer(0, 9, 200, 255), answer(0, 10, 199, 255)) == 0
    assert difference(answer(0, 9, 200, 255), answer(0, 9, 251, 255)) == pytest.approx(50 / 255)
    assert difference({"image": "iVBORw0KGgo"}, answer(0, 0, 0, 0)) == np.inf


def test_the_distance_of_two_normal_distributions():
    chance = np.random.default_rng(0)
    first = chance.normal(size=(20_000, 3)) * [1, 2, 3]
    second = chance.normal(size=(20_000, 3)) * [2, 2, 1] + [1, 0, 0]
    assert frechet_distance(first, first) == pytest.approx(0, abs=1e-9)
    # Of independent coordinates: squared differences of means and of spreads.
    assert frechet_distance(first, second) == pytest.approx(1 + 1 + 0 + 4, rel=0.03)


@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    task = ImageGeneration(FITTED, LABELS, latent=4)
    folder = write_features(tmp_path_factory.mktemp("features"))
    return task, task.evaluation_rows(folder, "test")


def test_real_pictures_are_recognised_and_noise_is_not(judged):
    task, rows = judged
    real = task.metrics({"picture": rows.targets["picture"].astype(np.float32) / 255}, rows.targets)
    assert real["fid"] == pytest.approx(0, abs=1e-4)
    assert real["recognised"] > 0.8
    swapped = rows.targets.copy()
    swapped["label"] = 1 - swapped["label"]
    assert task.metrics({"picture": rows.targets["picture"] / np.float32(255)}, swapped)["recognised"] < 0.2
    assert task.baseline(rows)["fid"] > 10 * real["fid"]


def test_what_is_evaluated_is_what_requests_ask_for(judged):
    task, rows = judged
    codec = LatentCodec(**task.input_codec()[1])
    np.testing.assert_array_equal(np.stack([codec.decode(p) for p in task.requests(rows)]), rows.inputs)


def test_rows_without_labels_cannot_be_asked_for(tmp_path):
    folder = write_features(tmp_path)
    np.save(folder / "train" / "targets.npy", np.full(96, -1))
    with pytest.raises(DataError, match="unlabelled"):
        ImageGeneration(FITTED, LABELS).training_rows(folder)
    free = ImageGeneration(FITTED, LABELS, conditional=False)
    assert len(free.training_rows(folder).inputs) == 96
    rows = free.evaluation_rows(folder, "test")
    assert free.baseline(rows)["recognised"] == 0
    assert free.requests(rows)[1] == b'{"seed": 1}'


@pytest.mark.parametrize("objective", ["non_saturating", "hinge", "wasserstein"])
def test_each_phase_lowers_its_loss_and_leaves_the_other_alone(objective):
    torch.manual_seed(0)
    task = ImageGeneration(FITTED, LABELS, latent=4, objective=objective, penalty=1.0)
    network = DCGAN(**task.network_arguments(), width=4)
    images, labels = torch.rand(16, 1, SIDE, SIDE), torch.arange(16) % 2
    before = {name: value.clone() for name, value in network.critic.named_parameters()}
    for phase in reversed(task.phases(network)):
        optimizer = torch.optim.Adam(phase.parameters, lr=0.01)
        losses = []
        for _ in range(15):
            torch.manual_seed(1)
            loss = phase.loss(images, labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert losses[-1] < losses[0] - 0.05
        if phase.name == "generator":
            assert all(torch.equal(value, before[name]) for name, value in network.critic.named_parameters())


def test_the_generator_waits_for_the_critic():
    task = ImageGeneration(FITTED, LABELS, critic_steps=5)
    assert [(p.name, p.every) for p in task.phases(DCGAN(**task.network_arguments()))] == [
        ("critic", 1),
        ("generator", 5),
    ]


def test_the_penalty_is_the_distance_of_the_slope_from_one():
    class Slope(torch.nn.Module):
        def forward(self, pictures, labels):
            return 3.0 * pictures[:, 0, 0, 0]

    pictures = torch.rand(4, 1, 2, 2)
    assert gradient_penalty(Slope(), pictures, pictures.flip(0), None).item() == pytest.approx(4.0)
