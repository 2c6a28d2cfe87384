import httpx
import pytest
from free_ports import free_port

from lepton_tasks.core.context import RunContext
from lepton_tasks.core.errors import ArtifactError, ConfigError, UnavailableError
from lepton_tasks.core.use_case import parse_use_case
from lepton_tasks.deployment.process import ProcessTarget

USE_CASE = parse_use_case(
    {"name": "tiny", "task": "image_classification", "data": {"source": "s"}, "features": "f", "model": "m"}, where=""
)


@pytest.fixture
def ctx(tmp_path):
    (tmp_path / "serving").mkdir()
    (tmp_path / "serving" / "admin.token").write_text("secret\n")
    return RunContext.local(tmp_path, run_id="r1", serving_url=f"http://127.0.0.1:{free_port()}")


def answering(monkeypatch, status, body):
    seen = {}

    def request(method, url, **options):
        seen.update(method=method, url=url, **options)
        return httpx.Response(status, json=body, request=httpx.Request(method, url))

    monkeypatch.setattr(httpx, "request", request)
    return seen


def test_nobody_at_the_address_can_be_retried_and_says_how_to_start_one(ctx):
    for call in (ProcessTarget().health, ProcessTarget().rollback):
        with pytest.raises(UnavailableError, match="lepton up") as caught:
            call(USE_CASE, ctx)
        assert caught.value.retryable


def test_without_a_token_no_server_was_started(tmp_path):
    ctx = RunContext.local(tmp_path)
    with pytest.raises(UnavailableError, match=r"no admin token.*lepton up"):
        ProcessTarget().rollback(USE_CASE, ctx)


@pytest.mark.parametrize(
    ("status", "kind"), [(422, ArtifactError), (401, ConfigError), (503, UnavailableError), (500, UnavailableError)]
)
def test_a_refusal_keeps_the_servers_reason(ctx, monkeypatch, status, kind):
    answering(monkeypatch, status, {"error": "card.md differs."})
    with pytest.raises(kind, match=r"card\.md differs"):
        ProcessTarget().rollback(USE_CASE, ctx)


def test_the_token_is_sent_and_who_asks(ctx, monkeypatch):
    seen = answering(monkeypatch, 200, {"version": "1"})
    assert ProcessTarget().rollback(USE_CASE, ctx) == {"url": ctx.environment.serving_url, "version": "1"}
    assert (seen["method"], seen["url"]) == ("POST", f"{ctx.environment.serving_url}/admin/models/tiny/rollback")
    assert seen["headers"] == {"Authorization": "Bearer secret"}
    assert seen["params"] == {"by": "r1"}


@pytest.mark.parametrize("status", [404, 503])
def test_nothing_served_is_not_an_error_of_health(ctx, monkeypatch, status):
    answering(monkeypatch, status, {"error": "no such model"})
    assert ProcessTarget().health(USE_CASE, ctx) == {
        "url": ctx.environment.serving_url,
        "version": None,
        "digest": None,
        "previous": None,
        "challenger": None,
        "ready": False,
    }
