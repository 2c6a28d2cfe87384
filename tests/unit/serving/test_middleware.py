import base64
import hashlib

import pytest
from starlette.testclient import TestClient
from tiny_packages import make_package, picture

from lepton_tasks.core.access import own_key
from lepton_tasks.core.errors import ConfigError
from lepton_tasks.serving.access.keys import KEYS_FILE, add_key
from lepton_tasks.serving.app import create_app
from lepton_tasks.serving.http.middleware import Cors, model_of_path

PREDICT = "/v1/models/tiny/predict"
SHOP = "https://shop.example"


def bearer(token):
    return {"Authorization": f"Bearer {token}"}


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    home, folder = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("package")
    keys = {
        name: add_key(home / KEYS_FILE, name, now=0, models=[pattern])[0]
        for name, pattern in {"a": "t*", "b": "x", "c": "/metrics"}.items()
    }
    app = create_app(home, origins=[SHOP])

    @app.get("/v1/boom")
    async def boom():
        raise ZeroDivisionError

    with TestClient(app, raise_server_exceptions=False) as client:
        client.keys, client.token, client.home = keys, (home / "admin.token").read_text().strip(), home
        body = {"package": str(folder), "version": "7", "digest": make_package(folder)}
        assert client.post("/admin/models/tiny", json=body, headers=bearer(client.token)).status_code == 200
        yield client


def predict(client, key=None, **headers):
    headers = {"content-type": "image/png", **(bearer(key) if key else {}), **headers}
    return client.post(PREDICT, content=picture(100), headers=headers)


def test_predictions_want_a_key_of_their_model(served):
    assert predict(served, served.keys["a"]).json()["predictions"][0]["label"] == "dark"
    for key, status, reason in (
        (None, 401, "no API key"),
        (served.keys["b"], 403, "not for 'tiny'"),
        ("x", 401, "is unknown"),
    ):
        reply = predict(served, key)
        assert (reply.status_code, list(reply.json())) == (status, ["error"])
        assert reason in reply.json()["error"]


def test_the_admin_token_and_the_keys_are_apart(served):
    assert predict(served, served.token).status_code == 401
    for key in (served.keys["a"], own_key(served.home)):
        assert served.post("/admin/models/tiny/rollback", headers=bearer(key)).status_code == 401
        assert served.get("/v1/models/tiny/gallery", headers=bearer(key)).status_code == 401
    assert (
        served.get("/v1/models/tiny/gallery", headers=bearer(served.token)).status_code == 409
    )  # let in; no embeddings


def test_stages_of_the_same_state_folder_need_no_key_of_their_own(served):
    assert predict(served, own_key(served.home)).status_code == 200


@pytest.mark.parametrize("path", ["/v2", "/v2/health/live", "/v2/health/ready", "/docs", "/openapi.json"])
def test_health_and_documentation_are_open(served, path):
    assert served.get(path).status_code == 200


@pytest.mark.parametrize(
    ("path", "wanted"),
    [
        ("/v1/models/tiny", "tiny"),
        ("/v1/models/tiny/predict", "tiny"),
        ("/v2/models/tiny/versions/7/infer", "tiny"),
        ("/v1/models/tiny/identify", "tiny"),
        ("/v1/models/tiny/enrol", None),
        ("/v2/models/tiny/enrol", "tiny"),
        ("/admin/models/tiny", None),
        ("/administrator", ""),
        ("/v1/models", ""),
        ("/metrics", "/metrics"),
        ("/v1/new", ""),
        ("/", ""),
        ("", ""),
        ("//docs", ""),
    ],
)
def test_which_model_a_path_is_about(path, wanted):
    assert model_of_path(path) == wanted


def test_metrics_are_for_those_who_may_read_them(served):
    assert [served.get("/metrics", headers=bearer(served.keys[name])).status_code for name in "abc"] == [403, 403, 200]
    refused = served.app.state.access.guard.refused[403]
    assert (
        f'lepton_refused{{status="403"}} {refused}.0' in served.get("/metrics", headers=bearer(served.keys["c"])).text
    )
    assert predict(served, served.keys["c"]).status_code == 403


@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/tiny", "/nope", "/v1/boom", "/v2/health/live", "/docs"])
@pytest.mark.parametrize("with_key", [True, False])
def test_every_reply_is_safe(served, path, with_key):
    reply = served.get(path, headers=bearer(served.keys["a"]) if with_key else {})
    assert reply.headers["x-content-type-options"] == "nosniff"
    assert reply.headers["cache-control"] == "no-store"
    assert "frame-ancestors 'none'" in reply.headers["content-security-policy"]
    assert reply.headers["referrer-policy"] == "no-referrer"
    assert len(reply.headers.get_list("content-security-policy")) == 1
    if path == "/v1/boom" and with_key:
        assert (reply.status_code, "ZeroDivision" in reply.text) == (500, False)


def test_the_page_runs_its_own_script_and_no_other(served):
    reply = served.get("/docs")
    policy = reply.headers["content-security-policy"]
    script = reply.text.split("<script>")[1].split("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}';" in policy
    assert "unsafe" not in policy
    assert "style=" not in reply.text  # which no hash allows


def test_pages_of_listed_origins_may_ask(served):
    asked = {"origin": SHOP, "access-control-request-method": "POST", "access-control-request-headers": "authorization"}
    reply = served.options(PREDICT, headers=asked)
    assert (reply.status_code, reply.headers["access-control-allow-origin"]) == (204, SHOP)
    assert {"authorization", "lepton-key"} <= set(reply.headers["access-control-allow-headers"].split(", "))
    assert predict(served, served.keys["a"], origin=SHOP).headers["access-control-allow-origin"] == SHOP
    assert (
        predict(served, origin=SHOP).headers["access-control-allow-origin"] == SHOP
    )  # so that the page reads the reason
    assert "access-control-allow-credentials" not in reply.headers


def test_pages_of_other_origins_may_not(served):
    asked = {"origin": "https://evil.example", "access-control-request-method": "POST"}
    reply = served.options(PREDICT, headers=asked)
    assert reply.status_code == 403
    assert "access-control-allow-origin" not in reply.headers
    assert "access-control-allow-origin" not in predict(served, served.keys["a"], origin="https://evil.example").headers


def test_other_origins_are_off_by_default():
    assert Cors().headers(b"https://shop.example") == ()
    for wrong in ("shop.example", "https://shop.example/", "https://*.example"):
        with pytest.raises(ConfigError, match="not an origin"):
            Cors([wrong])
