import pydantic
import pytest
from free_ports import free_port

from lepton_tasks.core.catalogue import DEPLOY_TARGETS
from lepton_tasks.core.components import deploy_target_of, deploy_target_spec
from lepton_tasks.core.context import RunContext
from lepton_tasks.core.environment import Environment
from lepton_tasks.core.errors import ConfigError, UnavailableError
from lepton_tasks.core.use_case import parse_use_case

VALUES = {"name": "tiny", "task": "image_classification", "data": {"source": "s"}, "features": "f", "model": "m"}
USE_CASE = parse_use_case(VALUES, where="")


@pytest.mark.parametrize("name", DEPLOY_TARGETS.names())
def test_a_target_whose_servers_are_away_can_be_retried(name, tmp_path, monkeypatch):
    monkeypatch.setattr("lepton_tasks.deployment.followers._SETTLE_SECONDS", 0)
    url = f"http://127.0.0.1:{free_port()}"
    environment = {"serving_url": url, "tracking_url": url, "serving": {"target": name, "replicas": [url]}}
    ctx = RunContext.local(tmp_path, **environment)
    target = deploy_target_of(USE_CASE, ctx.environment)
    assert [server.url for server in target.addresses(ctx)] == [url]
    for call in (target.health, target.rollback, target.remove):
        with pytest.raises(UnavailableError):
            call(USE_CASE, ctx)
    with pytest.raises((UnavailableError, ConfigError), match=r"lepton (up|deploy tiny VERSION)"):
        target.promote(USE_CASE, ctx)


def test_the_environment_names_the_target_unless_the_use_case_does():
    elsewhere = Environment.model_validate({"serving": {"target": "followers", "replicas": "http://all.svc:8100"}})
    assert deploy_target_spec(USE_CASE, Environment()).name == "process"
    assert deploy_target_spec(USE_CASE, elsewhere).name == "followers"
    named = parse_use_case({**VALUES, "deploy": {"target": "process"}}, where="")
    assert deploy_target_spec(named, elsewhere).name == "process"
    wrong = Environment.model_validate({"serving": {"target": "follower"}})
    with pytest.raises(ConfigError, match=r"environment: serving\.target.*'follower'.*Did you mean 'followers'"):
        deploy_target_of(USE_CASE, wrong)


@pytest.mark.parametrize(
    ("serving", "says"),
    [({"target": "followers"}, "needs `replicas`"), ({"replicas": ["serving:8100"]}, "is not an address such as")],
)
def test_replicas_are_addresses_and_not_missing(serving, says):
    with pytest.raises(pydantic.ValidationError, match=says):
        Environment.model_validate({"serving": serving})
