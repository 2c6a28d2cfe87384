import base64
import json
import subprocess
import sys
import zlib

import pytest
from starlette.testclient import TestClient
from tiny_packages import SIDE, expected, make_package, picture

from lepton_tasks.core.errors import ConfigError
from lepton_tasks.serving.app import create_app
from lepton_tasks.serving.http.admin import admin_token
from lepton_tasks.serving.http.payload import Limits
from lepton_tasks.serving.observing.request_log import read_requests
from lepton_tasks.serving.versions.routing import ModelTable

PREDICT = "/v1/models/tiny/predict"
INFER = "/v2/models/tiny/infer"
PNG = {"content-type": "image/png"}
JSON = {"content-type": "application/json"}
NOISE = picture(0, side=64, noise=True)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("serving")


@pytest.fixture(scope="module")
def client(home, tmp_path_factory):
    folder = tmp_path_factory.mktemp("package")
    digest = make_package(folder)
    with TestClient(create_app(home, limits=Limits(body_bytes=100_000, samples=4))) as client:
        headers = {"Authorization": f"Bearer {(home / 'admin.token').read_text().strip()}"}
        body = {"package": str(folder), "version": "7", "digest": digest}
        assert client.post("/admin/models/tiny", json=body, headers=headers).status_code == 200
        yield client


def image(value):
    return {"image": base64.b64encode(picture(value)).decode()}


@pytest.mark.parametrize(
    "request_",
    [
        {"files": {"file": ("digit.png", picture(100), "image/png")}},
        {"content": picture(100), "headers": PNG},
        {"json": image(100)},
        {"json": {"instances": [image(100)]}},
    ],
    ids=["form", "raw", "json", "instances"],
)
def test_a_picture_is_answered_however_it_is_sent(client, request_):
    reply = client.post(PREDICT, **request_)
    assert reply.status_code == 200
    assert reply.json()["model"] == "tiny"
    assert reply.json()["version"] == reply.headers["lepton-version"] == "7"
    (answer,) = reply.json()["predictions"]
    assert answer["label"] == "dark"
    assert answer["probabilities"] == pytest.approx(expected(100)["probabilities"], abs=1e-6)


def test_several_instances_are_answered_in_order(client):
    values = [0, 255, 51, 102]
    reply = client.post(PREDICT, json={"instances": [image(value) for value in values]})
    light = [answer["probabilities"]["light"] for answer in reply.json()["predictions"]]
    assert light == pytest.approx([value / 510 for value in values], abs=1e-6)


def form(**fields):
    return {"files": {name: (f"{name}.png", data) for name, data in fields.items()}}


def form_of(body, more=""):
    return {"content": body, "headers": {"content-type": f"multipart/form-data; boundary=x{more}"}}


FIELD = b'--x\r\nContent-Disposition: form-data; name="file"\r\n\r\nabc\r\n--x--\r\n'


@pytest.mark.parametrize(
    ("request_", "status", "reason"),
    [
        ({"content": b"", "headers": PNG}, 400, "empty"),
        ({"content": b"GIF89a, not really", "headers": PNG}, 400, "not a picture"),
        ({"content": NOISE[: len(NOISE) // 2], "headers": PNG}, 400, "cannot be decoded"),
        ({"content": b"x" * 100_001, "headers": PNG}, 413, "larger than 100,000 bytes"),
        ({"content": iter([b"x" * 60_000] * 2), "headers": PNG}, 413, "larger than 100,000 bytes"),
        ({"content": b"hello", "headers": {"content-type": "text/plain"}}, 415, "text/plain"),
        ({"content": b"hello"}, 415, "the request has no content type"),
        (form(picture=picture(1)), 400, "field 'file'"),
        ({"data": {"file": "text"}}, 415, "urlencoded"),
        ({"content": b"--x", "headers": {"content-type": "multipart/form-data"}}, 400, "form"),
        ({"content": b"junk", "headers": {"content-type": "multipart/form-data; boundary=x"}}, 400, "form"),
        ({"content": b"{", "headers": JSON}, 400, "not JSON"),
        ({"content": b"[1]", "headers": JSON}, 400, "base64 string is missing"),
        ({"json": {}}, 400, "base64 string is missing"),
        ({"json": {"image": 7}}, 400, "base64 string is missing"),
        ({"json": {"image": "@@@"}}, 400, "not base64"),
        ({"json": {"image": "\u00e9"}}, 400, "not base64"),
        ({"json": {"image": ""}}, 400, "empty"),
        ({"json": {"instances": []}}, 400, "at least one"),
        ({"json": {"instances": {"image": ""}}}, 400, "not a list"),
        ({"json": {"instances": [image(1), {"image": "QUJD"}]}}, 400, "instances[1]"),
        ({"json": {"instances": [image(1), 5]}}, 400, "instances[1]"),
        ({"json": {"instances": [image(1)] * 5}}, 413, "at most 4"),
        (form_of(b"--x\r\n: bad\r\n\r\n"), 400, "form"),
        (form_of(b"--x\r\nContent-Disposition: form-data\r\n\r\nabc\r\n--x--\r\n"), 400, "form"),
        (form_of(FIELD, "; charset=nonsense"), 400, "form"),
    ],
)
def test_a_bad_predict_request_gets_a_reason(client, request_, status, reason):
    reply = client.post(PREDICT, **request_)
    assert (reply.status_code, list(reply.json())) == (status, ["error"])
    assert reason in reply.json()["error"]
    assert "Traceback" not in reply.text


def test_a_picture_with_too_many_pixels_is_refused_before_it_is_decoded(client):
    small = picture(0)
    header = small[12:16] + (9_000).to_bytes(4, "big") * 2 + small[24:29]
    wide = small[:12] + header + zlib.crc32(header).to_bytes(4, "big") + small[33:]
    reply = client.post(PREDICT, content=wide, headers=PNG)
    assert reply.status_code == 400
    assert "9000 x 9000" in reply.json()["error"]


def test_an_unknown_model_gets_the_closest_name(client):
    reply = client.post("/v1/models/tony/predict", content=picture(1), headers=PNG)
    assert reply.status_code == 404
    assert "Did you mean 'tiny'?" in reply.json()["error"]


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/nope", 404), ("GET", PREDICT, 405)])
def test_unknown_paths_and_methods_are_json_too(client, method, path, status):
    reply = client.request(method, path)
    assert (reply.status_code, list(reply.json())) == (status, ["error"])


def tensor(**changes):
    base = {"name": "image", "shape": [1, SIDE, SIDE, 1], "datatype": "UINT8", "data": [51] * SIDE * SIDE}
    return {"inputs": [{**base, **changes}]}


def test_infer_answers_as_the_protocol_says(client):
    request = {"id": "42", **tensor(shape=[2, SIDE, SIDE, 1], data=[51] * SIDE * SIDE + [255] * SIDE * SIDE)}
    for path in (INFER, "/v2/models/tiny/versions/7/infer"):
        reply = client.post(path, json=request).json()
        (output,) = reply.pop("outputs")
        assert reply == {"model_name": "tiny", "model_version": "7", "id": "42"}
        assert (output["name"], output["datatype"], output["shape"]) == ("probabilities", "FP32", [2, 2])
        assert output["data"] == pytest.approx([0.9, 0.1, 0.5, 0.5], abs=1e-6)


def test_infer_takes_nested_data_and_a_choice_of_outputs(client):
    nested = [[[[51]] * SIDE] * SIDE]
    reply = client.post(INFER, json={**tensor(data=nested), "outputs": [{"name": "probabilities"}]})
    assert reply.json()["outputs"][0]["data"] == pytest.approx([0.9, 0.1], abs=1e-6)
    assert "id" not in reply.json()


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ([], "not a JSON object"),
        ({}, "list of one tensor"),
        ({"inputs": []}, "list of one tensor"),
        ({"inputs": tensor()["inputs"] * 2}, "list of one tensor"),
        ({"inputs": [3]}, "list of one tensor"),
        (tensor(name="pixels"), "no input 'pixels'"),
        (tensor(datatype="FP32"), "'FP32', not UINT8"),
        (tensor(datatype=None), "not UINT8"),
        (tensor(shape=[SIDE, SIDE, 1]), "not [-1, 8, 8, 1]"),
        (tensor(shape=[1, SIDE, SIDE, 3]), "not [-1, 8, 8, 1]"),
        (tensor(shape=[-1, SIDE, SIDE, 1]), "not a list of sizes"),
        (tensor(shape="1"), "not a list of sizes"),
        (tensor(shape=[2, SIDE, SIDE, 1]), "asks for 128"),
        (tensor(shape=[0, SIDE, SIDE, 1], data=[]), "0 rows"),
        (tensor(shape=[5, SIDE, SIDE, 1], data=[0] * 320), "5 rows"),
        (tensor(data=[300] * 64), "outside 0..255"),
        (tensor(data=[-1] * 64), "outside 0..255"),
        (tensor(data=[1.5] * 64), "other values"),
        (tensor(data=["a"] * 64), "other values"),
        (tensor(data=[None] * 64), "other values"),
        (tensor(data=[[1, 2], [3]]), "ragged"),
        (tensor(data=None), "not a list"),
        ({**tensor(), "outputs": [{"name": "logits"}]}, "no output 'logits'"),
        ({**tensor(), "outputs": "probabilities"}, "not a list"),
        ({**tensor(), "outputs": [{"name": {}}]}, "no output"),
        ({**tensor(), "id": 3}, "'id'"),
    ],
)
def test_a_bad_infer_request_gets_a_reason(client, body, reason):
    reply = client.post(INFER, json=body)
    assert (reply.status_code, list(reply.json())) == (400, ["error"])
    assert reason in reply.json()["error"]


def test_metadata_and_health_follow_the_protocol(client):
    assert client.get("/v2/health/live").json() == {"live": True}
    assert client.get("/v2/health/ready").json() == {"ready": True}
    assert client.get("/v2").json()["name"] == "lepton"
    model = {
        "name": "tiny",
        "versions": ["7"],
        "platform": "onnxruntime_onnx",
        "inputs": [{"name": "image", "datatype": "UINT8", "shape": [-1, SIDE, SIDE, 1]}],
        "outputs": [{"name": "probabilities", "datatype": "FP32", "shape": [-1, 2]}],
    }
    for path in ("/v2/models/tiny", "/v2/models/tiny/versions/7"):
        assert client.get(path).json() == model
        assert client.get(f"{path}/ready").json() == {"name": "tiny", "ready": True}
    reply = client.get("/v2/models/tiny/versions/6/ready")
    assert reply.status_code == 404
    assert "Version 7 is served" in reply.json()["error"]


def test_the_admin_api_wants_its_token(client, home):
    assert (home / "admin.token").stat().st_mode & 0o777 == 0o600
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Bearer \u00e9".encode()}):
        reply = client.delete("/admin/models/tiny", headers=headers)
        assert (reply.status_code, reply.headers["www-authenticate"]) == (401, "Bearer")
    assert client.get("/v1/models/tiny").status_code == 200


def test_an_ill_formed_deployment_names_the_field(client, home):
    headers = {"Authorization": f"Bearer {(home / 'admin.token').read_text().strip()}"}
    reply = client.post("/admin/models/tiny", json={"package": "/x", "version": "1"}, headers=headers)
    assert reply.status_code == 400
    assert "body.digest: Field required" in reply.json()["error"]
    body = {"package": "/x", "version": "../1", "digest": "0" * 64}
    reply = client.post("/admin/models/tiny", json=body, headers=headers)
    assert reply.status_code == 422
    assert "'../1' is not a version" in reply.json()["error"]


def test_metrics_count_by_model_version_and_status(client):
    def counted():
        lines = client.get("/metrics").text.splitlines()
        return {line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in lines if not line.startswith("#")}

    before = counted()
    client.post(PREDICT, content=picture(1), headers=PNG)
    client.post(PREDICT, content=b"x", headers=PNG)
    client.post("/v1/models/made_up/predict", content=b"x", headers=PNG)
    after = counted()
    labels = 'api="v1",model="tiny",status="{}",version="7"'
    for name in ("lepton_requests_total", "lepton_errors_total"):
        key = f"{name}{{{labels.format(400)}}}"
        assert after[key] == before.get(key, 0) + 1
    key = f"lepton_requests_total{{{labels.format(200)}}}"
    assert after[key] == before.get(key, 0) + 1
    assert after['lepton_request_seconds_count{api="v1",model="tiny",version="7"}'] >= 2
    assert any(key.startswith('lepton_model_info{digest="') for key in after)
    assert not any("made_up" in key for key in after)


def test_metrics_tell_which_share_of_the_requests_a_version_answers(tmp_path):
    (tmp_path / "home").mkdir()
    with TestClient(create_app(tmp_path / "home")) as client:
        headers = {"Authorization": f"Bearer {(tmp_path / 'home' / 'admin.token').read_text().strip()}"}
        for version in ("1", "2"):
            digest = make_package(tmp_path / version, offset=int(version) / 10)
            body = {"package": str(tmp_path / version), "version": version, "digest": digest}
            body["rollout"] = {"kind": "canary", "steps": [10, 100]}
            assert client.post("/admin/models/tiny", json=body, headers=headers).status_code == 200
        lines = client.get("/metrics").text.splitlines()
    shares = {line for line in lines if line.startswith("lepton_model_share{")}
    assert shares == {f'lepton_model_share{{model="tiny",version="{v}"}} {share}' for v, share in ((1, 0.9), (2, 0.1))}


def test_every_sample_is_logged_with_what_it_was_and_what_was_answered(tmp_path):
    digest = make_package(tmp_path / "package")
    (tmp_path / "home").mkdir()
    with TestClient(create_app(tmp_path / "home")) as client:
        headers = {"Authorization": f"Bearer {(tmp_path / 'home' / 'admin.token').read_text().strip()}"}
        body = {"package": str(tmp_path / "package"), "version": "7", "digest": digest}
        client.post("/admin/models/tiny", json=body, headers=headers)
        client.post(PREDICT, json={"instances": [image(51), image(255)]})
        client.post(PREDICT, content=b"broken", headers={**PNG, "lepton-probe": "smoke_test"})
    first, second, third = read_requests(tmp_path / "home" / "requests", "tiny")
    assert (first["version"], first["status"], first["mean"], first["std"]) == ("7", 200, 51.0, 0.0)
    assert first["values"] == {"brightness": 0.2, "contrast": 0.0}
    assert (first["label"], first["probability"]) == ("dark", pytest.approx(0.9, abs=1e-6))
    assert second["mean"] == 255.0
    assert (third["status"], third["probe"]) == (400, "smoke_test")
    assert "not a picture" in third["error"]
    assert third["bytes"] == len(b"broken")
    assert 0 < first["seconds"] < 60


def test_the_page_lists_itself_without_the_network(client):
    page = client.get("/docs")
    assert page.headers["content-type"].startswith("text/html")
    assert "http://" not in page.text
    assert "https://" not in page.text
    api = client.get("/openapi.json").json()
    assert {PREDICT.replace("tiny", "{name}"), INFER.replace("tiny", "{name}"), "/metrics"} <= set(api["paths"])
    content = api["paths"]["/v1/models/{name}/predict"]["post"]["requestBody"]["content"]
    assert set(content) == {"multipart/form-data", "image/*", "text/plain", "application/json"}


def test_importing_the_server_pulls_in_nothing_heavy():
    code = "import json, sys, lepton_tasks.serving.server; print(json.dumps(sorted(sys.modules)))"
    names = json.loads(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout)
    heavy = {"torch", "mlflow", "dask", "distributed", "great_expectations", "pandas", "pyarrow", "matplotlib"}
    assert heavy.isdisjoint(name.partition(".")[0] for name in names)


def test_a_version_can_be_asked_for_by_its_number(client):
    path = "/v1/models/tiny/versions/{}/predict"
    reply = client.post(path.format(7), content=picture(100), headers=PNG)
    assert (reply.status_code, reply.json()["version"]) == (200, "7")
    reply = client.post(path.format(8), content=picture(100), headers=PNG)
    assert (reply.status_code, "Version 7 is served" in reply.json()["error"]) == (404, True)


def test_made_up_requests_do_not_count_for_a_canary(client):
    tally = client.app.state.handler._table.get("tiny").tally
    before = tally.figures().requests
    for probe, more in (("smoke_test", 0), ("", 1)):
        assert client.post(PREDICT, content=picture(9), headers=PNG | {"lepton-probe": probe}).status_code == 200
        assert tally.figures().requests == before + more


def test_metadata_name_every_version_that_can_be_asked_for(tmp_path):
    digests = {version: make_package(tmp_path / version, offset=float(version) / 10) for version in ("1", "2")}
    with TestClient(create_app(tmp_path)) as client:
        for version, digest in digests.items():
            body = {"package": str(tmp_path / version), "version": version, "digest": digest}
            headers = {"Authorization": f"Bearer {admin_token(tmp_path)}"}
            assert client.post("/admin/models/tiny", json=body, headers=headers).status_code == 200
        for path in ("/v2/models/tiny", "/v2/models/tiny/versions/1"):
            assert client.get(path).json()["versions"] == ["2", "1"]
        assert client.get("/v2/models/tiny/versions/3").status_code == 404


def test_what_was_answered_is_logged_whatever_else_fails_at_the_end(tmp_path, monkeypatch):
    digest = make_package(tmp_path / "package")
    monkeypatch.setattr(ModelTable, "close", lambda _: 1 / 0)
    client = TestClient(create_app(tmp_path))
    client.__enter__()
    headers = {"Authorization": f"Bearer {admin_token(tmp_path)}"}
    body = {"package": str(tmp_path / "package"), "version": "7", "digest": digest}
    assert client.post("/admin/models/tiny", json=body, headers=headers).status_code == 200
    assert client.post(PREDICT, content=picture(9), headers=PNG).status_code == 200
    with pytest.raises(ZeroDivisionError):
        client.__exit__(None, None, None)
    assert len(list(read_requests(tmp_path / "requests", "tiny"))) == 1


def test_an_empty_admin_token_opens_nothing(tmp_path):
    (tmp_path / "admin.token").touch()
    with pytest.raises(ConfigError, match="admin token is empty"):
        create_app(tmp_path)
    (tmp_path / "admin.token").unlink()
    first = admin_token(tmp_path)
    assert (len(first), admin_token(tmp_path)) == (43, first)
    assert [(path.name, path.stat().st_mode & 0o777) for path in tmp_path.iterdir()] == [("admin.token", 0o600)]
