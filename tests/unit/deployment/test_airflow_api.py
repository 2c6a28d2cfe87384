import datetime as dt
import functools

import httpx
import pytest

from lepton_tasks.core.errors import ConfigError, UnavailableError
from lepton_tasks.deployment import airflow_api
from lepton_tasks.deployment.airflow_api import AirflowClient


@pytest.fixture
def airflow(monkeypatch):
    """A client whose answers the test gives, in order; and the requests it made."""
    answers, asked = [httpx.Response(201, json={"access_token": "t"})], []

    def handle(request):
        asked.append(request)
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    transport = httpx.MockTransport(handle)
    monkeypatch.setattr(httpx, "Client", functools.partial(httpx.Client, transport=transport))
    monkeypatch.setattr(airflow_api.time, "sleep", lambda seconds: None)
    with AirflowClient("http://127.0.0.1:1", "admin", "secret") as client:
        yield client, answers, asked


def test_a_question_is_asked_again_and_an_order_is_not(airflow):
    client, answers, asked = airflow
    answers += [httpx.ReadTimeout("slow"), httpx.Response(200, json={"state": "running"})]
    assert client.run_state("digits", "a/b+c") == "running"
    assert asked[-1].url.raw_path == b"/api/v2/dags/digits/dagRuns/a%2Fb%2Bc"
    assert asked[-1].headers["Authorization"] == "Bearer t"
    answers += [httpx.ReadTimeout("slow")]
    with pytest.raises(UnavailableError, match="does not answer"):
        client.trigger("digits")
    assert answers == []


@pytest.mark.parametrize(
    ("status", "detail", "kind", "told"),
    [
        (400, "epochs: 0 is less than 1", ConfigError, "400: epochs: 0 is less than 1"),
        (401, "Invalid credentials", ConfigError, "does not accept the password"),
        (422, [{"loc": ["body", "conf"], "msg": "not a mapping"}], ConfigError, "body.conf: not a mapping"),
        (503, "starting", UnavailableError, "503: starting"),
    ],
)
def test_a_refusal_tells_what_airflow_told(airflow, status, detail, kind, told):
    client, answers, _ = airflow
    answers.append(httpx.Response(status, json={"detail": detail}))
    with pytest.raises(kind, match=told):
        client.trigger("digits", {"epochs": 0})


def test_tasks_come_in_the_order_they_started(airflow):
    client, answers, _ = airflow
    row = {"state": None, "start_date": None, "end_date": None, "try_number": 0}
    ran = {"state": "success", "end_date": "2026-01-01T00:00:09Z", "try_number": 1}
    tasks = [
        {**row, "task_id": "never"},
        {**ran, "task_id": "second", "start_date": "2026-01-01T00:00:05Z"},
        {**ran, "task_id": "first", "start_date": "2026-01-01T00:00:01Z"},
    ]
    answers.append(httpx.Response(200, json={"task_instances": tasks}))
    first, second, never = client.tasks("digits", "run")
    assert (first.task_id, first.seconds, first.tries) == ("first", 8.0, 1)
    assert second.start == dt.datetime(2026, 1, 1, 0, 0, 5, tzinfo=dt.UTC)
    assert (never.state, never.seconds) == (None, None)


def test_the_log_ends_with_the_errors(airflow):
    client, answers, _ = airflow
    content = [
        {"event": "hello"},
        {"event": "Task failed", "error_detail": [{"exc_type": "AirflowFailException", "exc_value": "no rows"}]},
    ]
    answers.append(httpx.Response(200, json={"content": content}))
    assert client.log("d", "r", "t") == "hello\nTask failed\nAirflowFailException: no rows"
