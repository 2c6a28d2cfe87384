"""The Python SDK as a script uses it, on pictures of seconds."""

import io
import json

import numpy as np
import pandas as pd
import pytest
from free_ports import free_port
from PIL import Image
from serve_process import started

import lepton_ai as la
from lepton_ai.datasets import DogsAndCats, ImageFolder, Table, Texts
from lepton_ai.models import CNN, GAN, MLP, RNN
from lepton_ai.tables import rows_of
from lepton_tasks.core.environment import project_root
from lepton_tasks.core.errors import ArtifactError, ConfigError, DataError
from lepton_tasks.serving.package import load_package


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Bright cats and dark dogs, sixty each."""
    folder, chance = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for label, least in (("cat", 130), ("dog", 0)):
        (folder / label).mkdir()
        for i in range(60):
            pixels = chance.integers(least, least + 120, (20, 24, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(folder / label / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def trained(photos, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LEPTON_HOME", str(tmp_path_factory.mktemp("home")))
        patch.setenv("LEPTON_DOGS_AND_CATS", str(photos))
        train_data, test_data = DogsAndCats.split(test=0.2, seed=1)
        model = CNN(input_shape=(16, 16, 3), num_classes=2, width=4)
        model.fit(train_data, epochs=4, batch_size=8, learning_rate=0.01)
        yield model, train_data, test_data


def test_fit_evaluate_save_and_load_agree(trained, photos, tmp_path, capsys):
    model, _, test_data = trained
    loss, accuracy = model.evaluate(test_data)
    assert accuracy > 0.9
    assert loss < 0.5
    assert len(model.history) == 4
    path = model.save(tmp_path / "model.pth")
    again = la.load(path)
    pictures = [photos / "cat" / "0.png", photos / "dog" / "0.png"]
    answers = model.predict(pictures)
    assert [answer["label"] for answer in answers] == ["cat", "dog"]
    assert again.predict(pictures) == answers
    assert again.predict([pictures[0].read_bytes(), str(pictures[1])]) == answers
    assert again.evaluate(test_data) == (loss, accuracy)
    assert [p.name for p in tmp_path.iterdir()] == ["model.pth"]


def test_an_exported_model_is_served_and_answers_as_in_python(trained, photos, tmp_path):
    model, _, test_data = trained
    folder = la.load(model.save(tmp_path / "model.pth")).export(tmp_path / "cats", title="Cats or dogs")
    assert (folder / "card.md").read_text().startswith("# Cats or dogs")
    assert model.export(folder, title="Cats, dogs") == folder
    assert (folder / "card.md").read_text().startswith("# Cats, dogs")
    assert {path.name for path in tmp_path.iterdir()} == {"model.pth", "cats"}
    figures = json.loads((folder / "package.json").read_text())["metrics"]
    assert (figures["loss"], figures["accuracy"]) == pytest.approx(model.evaluate(test_data), abs=1e-6)
    pictures, port = [photos / "cat" / "0.png", photos / "dog" / "0.png"], free_port()
    process = started(tmp_path, str(folder), "--port", str(port), "--values", "off")
    try:
        assert any("cats is served at" in line for line in iter(process.stdout.readline, ""))
        with la.Client(f"http://127.0.0.1:{port}") as client:
            answers = client.predict("cats", pictures)["predictions"]
    finally:
        process.kill()
        process.communicate()
    for served, own in zip(answers, model.predict(pictures), strict=True):
        assert served["label"] == own["label"]
        assert served["probabilities"] == pytest.approx(own["probabilities"], abs=1e-5)


def test_a_model_whose_data_have_changed_is_not_exported(trained, photos, tmp_path):
    model, _, _ = trained
    gone = (photos / "cat" / "7.png").rename(photos / "7.png.away")
    try:
        with pytest.raises(ConfigError, match="the data have changed since the model was fitted"):
            model.export(tmp_path / "cats")
    finally:
        gone.rename(photos / "cat" / "7.png")
    assert list(tmp_path.iterdir()) == []


def test_a_recurrent_network_sorts_texts(tmp_path, monkeypatch):
    monkeypatch.setenv("LEPTON_HOME", str(tmp_path / "home"))
    chance, words = np.random.default_rng(0), {"good": ["fine", "great", "nice"], "bad": ["awful", "poor", "sad"]}
    lines = ["text,label"]
    for i in range(160):
        label = ("good", "bad")[i % 2]
        lines.append(f"it was {chance.choice(words[label])} and {chance.choice(words[label])} number {i},{label}")
    (tmp_path / "reviews.csv").write_text("\n".join(lines))
    train_data, test_data = Texts.split(tmp_path / "reviews.csv", test=0.25)
    model = RNN(num_classes=2, max_length=12, width=8, embedding=8, dropout=0.0)
    model.fit(train_data, epochs=6, batch_size=8, learning_rate=0.02)
    assert model.evaluate(test_data).metric > 0.9
    again = la.load(model.save(tmp_path / "reviews.pth"))
    answers = again.predict(["it was great and nice", {"text": "it was awful and sad"}])
    assert [answer["label"] for answer in answers] == ["good", "bad"]
    with pytest.raises(ConfigError, match="RNN takes texts, not pictures"):
        model.evaluate(ImageFolder.split(tmp_path)[1])


def test_a_table_is_learned_from_a_frame_and_exported(tmp_path, monkeypatch):
    monkeypatch.setenv("LEPTON_HOME", str(tmp_path / "home"))
    chance = np.random.default_rng(0)
    frame = pd.DataFrame({"x": chance.normal(size=240), "town": chance.choice(["Rome", "Oslo"], 240)})
    frame["price"] = 3 * frame.x + 5 * (frame.town == "Rome")
    frame.loc[::20, "town"] = None
    train_data, test_data = Table.split(frame, "price", test=0.25)
    model = MLP(width=16, depth=1).fit(train_data, epochs=12, learning_rate=0.02)
    assert model.evaluate(test_data).metric > 0.8
    again = la.load(model.save(tmp_path / "price.pth"))
    answers = model.predict(frame.head(3))
    assert again.predict(frame.head(3).to_dict(orient="records")) == answers
    with pytest.raises(DataError, match="there is no column 'y'"):
        again.predict([{"x": 1.0, "town": "Rome", "y": 2}])
    package = load_package(again.export(tmp_path / "price"))
    for row, answer in zip(rows_of(frame.head(3)), answers, strict=True):
        assert package.predict(json.dumps(row).encode())["value"] == pytest.approx(answer["value"], abs=1e-4)


def test_a_use_case_is_learned_and_exported(tmp_path, monkeypatch):
    monkeypatch.setenv("LEPTON_HOME", str(tmp_path / "home"))
    path = project_root() / "configs/use_cases/wine.yaml"
    with pytest.raises(ConfigError, match=r"train.epoch: unknown key. Did you mean 'epochs'"):
        la.from_use_case(path, {"train.epoch": 3})
    model = la.from_use_case(path, {"train.epochs": 3})
    with pytest.raises(ConfigError, match="not trained yet"):
        model.evaluate()
    figures = model.fit().evaluate()
    assert (repr(model), len(model.history)) == ("<UseCaseModel wine, trained>", 3)
    again = la.load(model.save(tmp_path / "wine.pth"))
    assert again.evaluate() == figures
    package = load_package(again.export(tmp_path / "wine"))
    assert package.spec.metrics == pytest.approx(figures, abs=1e-6)
    request, answer = package.example()
    assert again.predict([json.loads(request)])[0]["label"] == answer["label"]


def test_a_gan_draws_the_same_picture_for_the_same_seed(photos, tmp_path, monkeypatch):
    monkeypatch.setenv("LEPTON_HOME", str(tmp_path / "home"))
    train_data, test_data = ImageFolder.split(photos, test=0.25)
    model = GAN(input_shape=(16, 16, 1), num_classes=2, width=4).fit(train_data, epochs=2, batch_size=16)
    distance, recognised = model.evaluate(test_data)
    assert distance > 0
    assert 0 <= recognised <= 1
    again = la.load(model.save(tmp_path / "gan.pth"))
    assert again.draw("cat", seed=3) == model.draw("cat", seed=3) != model.draw("cat", seed=4)
    assert Image.open(io.BytesIO(again.draw("dog"))).size == (16, 16)


def test_mistakes_are_answered_with_the_way_out(trained, tmp_path, monkeypatch):
    model, train_data, _ = trained
    with pytest.raises(ConfigError, match="Take the test part"):
        model.evaluate(train_data)
    with pytest.raises(ConfigError, match=r"the data have 2 classes: cat, dog. Write num_classes=2."):
        CNN(input_shape=(16, 16, 3), num_classes=3).fit(train_data)
    with pytest.raises(ConfigError, match="not trained yet"):
        CNN(input_shape=(16, 16, 3), num_classes=2).predict(["x.png"])
    (tmp_path / "junk.pth").write_bytes(b"junk")
    with pytest.raises(ArtifactError, match="not a saved model"):
        la.load(tmp_path / "junk.pth")
    with pytest.raises(ConfigError, match="is not a valid test share"):
        ImageFolder.split(tmp_path, test=0.7)
    monkeypatch.setenv("LEPTON_DOGS_AND_CATS", str(tmp_path / "nowhere"))
    with pytest.raises(ConfigError, match="LEPTON_DOGS_AND_CATS: no such folder"):
        DogsAndCats.split()
