import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from starlette.testclient import TestClient
from tiny_packages import SIDE, make_package, picture

from lepton_tasks.core.store import digest_of, sha256_file
from lepton_tasks.serving.app import create_app
from lepton_tasks.serving.http.gallery import ranked
from lepton_tasks.serving.package import PackageSpec, write_package

URL = "/v1/models/faces"
PNG = {"content-type": "image/png"}


def directions_graph(turn):
    """embedding = [cos a, sin a] with a = mean pixel / 255 * turn: bright and dark pictures point elsewhere."""
    nodes = [
        helper.make_node("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["pixels", "axes"], ["mean"], keepdims=0),
        helper.make_node("Mul", ["mean", "turn"], ["angle"]),
        helper.make_node("Cos", ["angle"], ["x"]),
        helper.make_node("Sin", ["angle"], ["y"]),
        helper.make_node("Unsqueeze", ["x", "last"], ["a"]),
        helper.make_node("Unsqueeze", ["y", "last"], ["b"]),
        helper.make_node("Concat", ["a", "b"], ["embedding"], axis=1),
    ]
    constants = {
        "axes": np.array([1, 2, 3], np.int64),
        "turn": np.array(turn / 255, np.float32),
        "last": np.array([1], np.int64),
    }
    made = helper.make_graph(
        nodes,
        "faces",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", SIDE, SIDE, 1])],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["N", 2])],
        [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=10).SerializeToString()


def face_package(folder, turn):
    folder.mkdir()
    spec = PackageSpec(
        name="faces",
        task="face_recognition",
        input_codec={"name": "image", "params": {"height": SIDE, "width": SIDE, "channels": 1}},
        output_codec={"name": "embedding"},
        labels=[],
        inputs=[{"name": "image", "dtype": "uint8", "shape": [None, SIDE, SIDE, 1]}],
        outputs=[{"name": "embedding", "dtype": "float32", "shape": [None, 2]}],
        validation={"threshold": 0.9},
    )
    write_package(folder, onnx=directions_graph(turn), spec=spec, preprocessor={}, card="# Faces\n")
    return digest_of({path.name: sha256_file(path) for path in folder.iterdir()})


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("serving")


@pytest.fixture(scope="module")
def client(home, tmp_path_factory):
    with TestClient(create_app(home)) as client:
        client.admin = {"Authorization": f"Bearer {(home / 'admin.token').read_text().strip()}"}

        def deploy(name, folder, version, digest):
            body = {"package": str(folder), "version": version, "digest": digest}
            reply = client.post(f"/admin/models/{name}", json=body, headers=client.admin)
            assert reply.status_code == 200, reply.text

        client.deploy = deploy
        folder = tmp_path_factory.mktemp("packages")
        deploy("faces", folder / "first", "1", face_package(folder / "first", turn=1.0))
        deploy("tiny", folder / "tiny", "1", make_package(folder / "tiny"))
        for who, values in (("dark", (0, 20)), ("light", (255,))):
            files = [("file", ("f.png", picture(value), "image/png")) for value in values]
            reply = client.post(f"{URL}/enrol", params={"id": who}, files=files, headers=client.admin)
            assert reply.json() == {"model": "faces", "version": "1", "id": who, "samples": len(values)}
        yield client


def test_who_is_enrolled_is_verified(client):
    reply = client.post(f"{URL}/verify", params={"id": "dark"}, content=picture(40), headers=PNG).json()
    similarity = np.mean([np.cos(40 / 255), np.cos(20 / 255)])
    assert (reply["same"], reply["threshold"]) == (True, 0.9)
    assert reply["similarity"] == pytest.approx(similarity, abs=1e-5)
    stranger = client.post(f"{URL}/verify", params={"id": "dark"}, content=picture(255), headers=PNG).json()
    assert stranger["same"] is False
    query = {"id": "dark", "threshold": 0.5}
    assert client.post(f"{URL}/verify", params=query, content=picture(255), headers=PNG).json()["same"]


def test_the_most_alike_is_identified_unless_it_is_too_far(client):
    reply = client.post(f"{URL}/identify", content=picture(230), headers=PNG).json()
    assert reply["id"] == "light"
    assert [row["id"] for row in reply["candidates"]] == ["light", "dark"]
    far = client.post(f"{URL}/identify", params={"most": 1}, content=picture(128), headers=PNG).json()
    assert (far["id"], len(far["candidates"])) == (None, 1)


@pytest.mark.parametrize(
    ("method", "path", "params", "status", "reason"),
    [
        ("POST", "/v1/models/faces/enrol", {"id": "x"}, 401, "token"),
        ("GET", "/v1/models/faces/gallery", {}, 401, "token"),
        ("DELETE", "/v1/models/faces/gallery", {"id": "dark"}, 401, "token"),
        ("POST", "/v1/models/faces/verify", {"id": "nobody"}, 404, "nobody is enrolled"),
        ("POST", "/v1/models/faces/verify", {}, 400, "id"),
        ("POST", "/v1/models/tiny/identify", {}, 409, "does not return embeddings"),
        ("POST", "/v1/models/none/identify", {}, 404, "no model"),
    ],
)
def test_refusals_say_why(client, method, path, params, status, reason):
    reply = client.request(method, path, params=params, content=picture(1), headers=PNG)
    assert (reply.status_code, list(reply.json())) == (status, ["error"])
    assert reason in reply.json()["error"]


def test_a_new_version_knows_the_same_people(client, tmp_path):
    client.deploy("faces", tmp_path / "second", "2", face_package(tmp_path / "second", turn=3.0))
    reply = client.post(f"{URL}/verify", params={"id": "light"}, content=picture(200), headers=PNG).json()
    assert reply["version"] == "2"
    assert reply["similarity"] == pytest.approx(np.cos(3 * 55 / 255), abs=1e-5)


def test_the_gallery_outlives_the_server_and_forgets_whom_it_is_told_to(client, home, tmp_path):
    assert (home / "gallery.sqlite").stat().st_mode & 0o077 == 0
    marked = "marked-by-this-test"
    for _ in range(2):
        client.post(f"{URL}/enrol", params={"id": marked}, content=picture(9), headers={**PNG, **client.admin})
    with TestClient(create_app(home)) as again:
        for _ in range(200):
            if again.get("/v2/health/ready").status_code == 200:
                break
        known = again.get(f"{URL}/gallery", headers=client.admin).json()["known"]
        assert known == {"dark": 2, "light": 1, marked: 2}
        gone = again.delete(f"{URL}/gallery", params={"id": marked}, headers=client.admin)
        assert gone.json()["samples"] == 2
    assert marked.encode() not in (home / "gallery.sqlite").read_bytes()
    assert marked not in json.dumps(client.get(f"{URL}/gallery", headers=client.admin).json())


def test_similarities_are_averaged_over_samples():
    known = {"a": np.array([[1.0, 0.0], [0.0, 1.0]]), "b": np.array([[0.6, 0.8]])}
    assert ranked(np.array([1.0, 0.0]), known) == [
        {"id": "b", "similarity": pytest.approx(0.6)},
        {"id": "a", "similarity": pytest.approx(0.5)},
    ]
