import base64
import json

import pytest
from starlette.testclient import TestClient
from tiny_packages import SIDE, TABLE, expected, make_package, make_sums, picture

from lepton_tasks.codecs.fields import Field
from lepton_tasks.core.metrics import meaning, unit_of
from lepton_tasks.serving.app import create_app

SERIES = {
    "time": "t",
    "step": 60,
    "columns": ["x"],
    "mean": [0],
    "std": [1],
    "window": 2,
    "categories": {"wind": ["N", "S"]},
}
CODECS = {
    "rows": ("series", SERIES, {"dtype": "float32", "shape": [2, 3]}),
    "table": ("tabular", TABLE, {"shape": [2]}),
    "pair": (
        "interaction",
        {"user": "u", "item": "i", "users": ["7"], "items": ["b", "a"]},
        {"dtype": "int32", "shape": [2]},
    ),
    "visitor": (
        "visitor",
        {"user": "u", "users": ["7"], "items": ["b"], "recent": 2},
        {"dtype": "int32", "shape": [3]},
    ),
    "latent": ("latent", {"latent": 2, "labels": ["cat", "dog"]}, {"dtype": "float32", "shape": [4]}),
}


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    home = tmp_path_factory.mktemp("serving")
    made = {"tiny": make_package(home / "tiny")}
    for name, (codec, params, rest) in CODECS.items():
        example = (b'{"a": 1.5}', {"value": 2.5}) if name == "table" else None
        made[name] = make_sums(home / name, codec, params, name=name, example=example, **rest)
    with TestClient(create_app(home)) as client:
        headers = {"Authorization": f"Bearer {(home / 'admin.token').read_text().strip()}"}
        for name, digest in made.items():
            body = {"package": str(home / name), "version": "7", "digest": digest}
            assert client.post(f"/admin/models/{name}", json=body, headers=headers).status_code == 200
        yield client


def fields(client, name):
    found = client.get(f"/v1/models/{name}/example").json()["fields"]
    return {field["name"]: (field["type"], field["required"], field["choices"]) for field in found}


def test_a_picture_comes_with_its_example_and_what_the_figures_mean(client):
    reply = client.get("/v1/models/tiny/example")
    about = reply.json()
    assert (reply.headers["lepton-version"], about["version"], about["title"], about["description"]) == (
        "7",
        "7",
        "Tiny",
        "",
    )
    assert base64.b64decode(about["example"]["base64"]) == picture(200)
    assert about["expected"] == expected(200)
    assert about["input"] == {"height": SIDE, "width": SIDE, "channels": 1}
    (metric,) = about["metrics"]
    assert metric == {"name": "accuracy", "value": 0.5, "unit": "share", "meaning": "of rows answered correctly"}
    assert fields(client, "tiny") == {"image": ("picture", True, [])}


def test_each_codec_tells_its_fields(client):
    assert fields(client, "table") == {"a": ("float", True, []), "code": ("text", False, ["007", "8"])}
    assert fields(client, "pair") == {"u": ("text", True, ["7"]), "i": ("text", True, ["b", "a"])}
    assert fields(client, "visitor") == {"u": ("text", False, ["7"]), "recent": ("list", False, ["b"])}
    assert fields(client, "latent") == {"label": ("text", True, ["cat", "dog"]), "seed": ("int", False, [])}
    (rows,) = client.get("/v1/models/rows/example").json()["fields"]
    assert [(column["name"], column["type"]) for column in rows["columns"]] == [
        ("t", "time"),
        ("x", "float"),
        ("wind", "text"),
    ]


@pytest.mark.parametrize(("known", "shown"), [(50, 50), (51, 20)])
def test_of_many_known_values_the_first_are_told(known, shown):
    choices = tuple(map(str, range(known)))
    assert Field("id", "text", choices=choices).to_dict()["choices"] == list(choices[:shown])


def test_an_example_is_what_predict_takes(client):
    about = client.get("/v1/models/table/example").json()
    reply = client.post("/v1/models/table/predict", json=json.loads(about["example"]["text"]))
    assert reply.json()["predictions"] == [about["expected"]] == [{"value": 2.5}]
    assert client.get("/v1/models/rows/example").json()["example"] is None
    assert client.get("/v1/models/tony/example").status_code == 404


def test_a_metric_of_a_part_has_the_unit_of_its_whole():
    assert (unit_of("ap50_rbc"), unit_of("last_mae"), unit_of("my_own")) == ("share", "of the target", "")
    assert meaning("last_mae") == meaning("mae")
