import itertools

import pytest
from starlette.testclient import TestClient
from tiny_packages import make_package, picture

from lepton_tasks.serving.app import create_app
from lepton_tasks.serving.observing.redact import REDACT_FILE
from lepton_tasks.serving.observing.request_log import read_outcomes, read_requests
from lepton_tasks.serving.versions.comparison import compare

PREDICT, FEEDBACK, PNG = "/v1/models/tiny/predict", "/v1/models/tiny/feedback", {"content-type": "image/png"}


@pytest.fixture
def serve(tmp_path):
    def start(redact=None):
        home = tmp_path / "home"
        home.mkdir()
        if redact:
            (home / REDACT_FILE).write_text(redact)
        client = TestClient(create_app(home))
        client.__enter__()
        headers = {"Authorization": f"Bearer {(home / 'admin.token').read_text().strip()}"}
        digest = make_package(tmp_path / "package")
        body = {"package": str(tmp_path / "package"), "version": "7", "digest": digest}
        assert client.post("/admin/models/tiny", json=body, headers=headers).status_code == 200
        return client, home / "requests"

    return start


@pytest.mark.parametrize("redact", [None, '{"tiny": {"answer": "hash"}}'])
def test_what_was_right_is_joined_with_what_was_answered(serve, redact):
    client, folder = serve(redact)
    ids = [client.post(PREDICT, content=picture(value), headers=PNG).json()["id"] for value in (51, 255, 60)]
    two = client.post(PREDICT, files=[("file", picture(51)), ("file", picture(255))]).json()
    assert len({*ids, two["id"]}) == 4
    assert client.post(FEEDBACK, json={"id": ids[0], "label": "dark"}).json() == {"model": "tiny", "taken": 1}
    several = [{"id": ids[1], "label": "dark"}, {"id": f"{two['id']}/1", "label": "light"}, {"id": "none", "label": 3}]
    assert client.post(FEEDBACK, json={"outcomes": several}).json()["taken"] == 3
    client.__exit__(None, None, None)
    told = {one["id"]: one["label"] for one in read_outcomes(folder, "tiny")}
    assert ("dark" in told.values()) == (redact is None)
    found = compare(read_requests(folder, "tiny"), truths=told)["versions"]["7"]
    assert (found["judged"], found["answers"], found["accuracy"]) == (3, 5, pytest.approx(2 / 3))


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({"label": "dark"}, "id: Field required"),
        ({"id": "a", "label": None}, "label: "),
        ({"id": "a" * 81, "label": "x"}, "id: String should have at most 80"),
        ({"outcomes": []}, "outcomes: List should have at least 1"),
        ({"outcomes": [{"id": "a", "label": "x"}, {"id": "a", "labl": 1}]}, "outcomes.1.label: Field required"),
        ([], "object"),
    ],
)
def test_what_is_no_outcome_is_refused_with_its_place(serve, body, reason):
    client, folder = serve()
    reply = client.post(FEEDBACK, json=body)
    client.__exit__(None, None, None)
    assert reply.status_code == 400
    assert reason in reply.json()["error"]
    assert list(read_outcomes(folder, "tiny")) == []


def test_outcomes_are_for_models_that_are_served(serve):
    client, _ = serve()
    assert client.post("/v1/models/tinny/feedback", json={"id": "a", "label": 1}).status_code == 404
    client.__exit__(None, None, None)


def records(version, errors):
    shared = {"time": 1.0, "version": version, "status": 200, "seconds": 0.01}
    return [{**shared, "id": f"{version}-{i}", "value": 10.0 + error} for i, error in enumerate(errors)]


def test_of_numbers_the_mean_errors_are_compared():
    near, far = itertools.cycle([0.5, -1.0, 0.7]), itertools.cycle([2.0, -3.0])
    asked = [*records("1", itertools.islice(near, 60)), *records("2", itertools.islice(far, 60))]
    found = compare(asked, base="1", truths={record["id"]: "10" for record in asked[:-2]})
    assert found["versions"]["1"]["mean_error"] == pytest.approx(2.2 / 3)
    other = found["against"]["2"]
    assert other["error_difference"] == pytest.approx(2.5 - 2.2 / 3, abs=0.02)
    assert other["error_p"] < 1e-6
    assert other["verdict"] == "its errors are larger"
    same = compare(
        [*records("1", [1.0, 2.0, 3.0]), *records("2", [2.0, 1.0, 3.1])],
        truths={f"{v}-{i}": 10 for v in "12" for i in range(3)},
    )
    assert next(iter(same["against"].values()))["error_p"] > 0.5


def test_a_number_beyond_64_bits_is_kept_as_one_of_floating_point(serve):
    client, folder = serve()
    assert client.post(FEEDBACK, content=b'{"id": "a", "label": 1' + b"0" * 40 + b"}").status_code == 200
    assert client.post(FEEDBACK, json={"id": "b", "label": 7}).status_code == 200
    client.__exit__(None, None, None)
    assert {one["id"]: one["label"] for one in read_outcomes(folder, "tiny")} == {"a": 1e40, "b": 7}
