import re
import runpy
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml

from lepton_tasks.core.environment import load_environment
from lepton_tasks.serving.app import STOP_SECONDS

PROJECT = Path(__file__).parents[3]
TEXT = (PROJECT / "docker" / "compose.yaml").read_text()
COMPOSE = yaml.safe_load(TEXT)
SERVICES = COMPOSE["services"]
make_env = runpy.run_path(str(PROJECT / "docker" / "make_env.py"))


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_is_contained_limited_and_watched(name):
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert set(service["deploy"]["resources"]["limits"]) == {"cpus", "memory"}
    if name == "airflow-init":  # runs once, then is gone
        assert service["restart"] == "no"
    else:
        assert service["restart"] == "unless-stopped"
        assert service["healthcheck"]["test"][0] == "CMD"


def test_ports_are_open_to_this_machine_only():
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert len(ports) == 3
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_the_databases_are_out_of_reach_of_what_does_not_need_them():
    assert COMPOSE["networks"]["database"] == {"internal": True}
    assert SERVICES["postgres"]["networks"] == ["database"]
    assert SERVICES["serving"]["networks"] == ["lepton"]


def test_every_secret_comes_from_make_env_and_none_has_a_default():
    written = {line.partition("=")[0] for line in make_env["lines"]()}
    asked = set(re.findall(r"\$\{([A-Z_]+):\?[^}]*\}", TEXT))
    assert asked == written
    assert not {name for name in re.findall(r"\$\{([A-Z_]+):-", TEXT) if re.search("PASSWORD|SECRET|KEY|TOKEN", name)}


def test_make_env_writes_new_secrets_once(tmp_path, capsys):
    assert make_env["main"](tmp_path / ".env") == 0
    first = (tmp_path / ".env").read_text()
    assert (tmp_path / ".env").stat().st_mode & 0o777 == 0o600
    assert make_env["main"](tmp_path / ".env") == 1
    assert (tmp_path / ".env").read_text() == first
    (tmp_path / ".env").write_text(first.replace("LEPTON_API_KEY", "#"))  # as before servers asked for one
    assert make_env["main"](tmp_path / ".env") == 0
    assert re.fullmatch(r"LEPTON_API_KEY=[\w-]{64}", (tmp_path / ".env").read_text().splitlines()[-1])
    values = [line.partition("=")[2] for line in first.splitlines()]
    assert len(set(values)) == len(values)
    assert not set(values) & {line.partition("=")[2] for line in make_env["lines"]()}
    assert all(re.fullmatch(r"[\w=-]{16,}", value) for value in values)
    assert not any(value in "".join(capsys.readouterr()) for value in values)


def test_the_environment_names_services_and_their_ports(tmp_path):
    file = PROJECT / "configs" / "environments" / "compose.yaml"
    environment = load_environment({"LEPTON_ENVIRONMENT": str(file), "LEPTON_HOME": str(tmp_path)})
    for url in (environment.airflow_url, environment.tracking_url, environment.serving_url):
        address = urlsplit(url)
        (port,) = SERVICES[address.hostname]["ports"]
        assert port.rpartition(":")[2] == str(address.port)
        assert "lepton" in SERVICES[address.hostname]["networks"]
    scheduler = SERVICES["airflow-scheduler"]
    assert scheduler["environment"]["LEPTON_ENVIRONMENT"].endswith("configs/environments/compose.yaml")
    assert any(volume.endswith(f":{environment.data_root}:ro") for volume in scheduler["volumes"])


def test_the_server_is_killed_only_after_it_had_time_to_answer_what_it_took():
    assert int(SERVICES["serving"]["stop_grace_period"].removesuffix("s")) > STOP_SECONDS
