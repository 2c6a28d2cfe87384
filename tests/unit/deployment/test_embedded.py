import configparser
import json
import os
import socket
import sys

import psutil
import pytest
from free_ports import free_port
from stage_hosts import wait_for

from lepton_tasks.core.environment import load_environment
from lepton_tasks.core.errors import ConfigError, UnavailableError
from lepton_tasks.deployment import embedded
from lepton_tasks.deployment import embedded_processes as processes
from lepton_tasks.deployment import embedded_services as services

SERVER = """
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers(); self.wfile.write(b"{}")
    def log_message(self, *words): pass
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


@pytest.fixture
def ports(monkeypatch):
    """Free ports in the environment, and small servers in place of MLflow and serving."""
    for name in list(os.environ):
        if name.startswith("LEPTON_"):
            monkeypatch.delenv(name)
    chosen = {name: free_port() for name in ("MLFLOW", "SERVING", "AIRFLOW")}
    for name, port in chosen.items():
        monkeypatch.setenv(f"LEPTON_{name}_PORT", str(port))
    monkeypatch.setattr(
        services,
        "commands",
        lambda root, ports, tracking_url: {
            n: [sys.executable, "-S", "-c", SERVER, str(ports[n])] for n in ("mlflow", "serving", "airflow")
        },
    )
    return chosen


@pytest.fixture
def root(tmp_path):
    yield tmp_path / "state"
    embedded.down(tmp_path / "state", grace=1)


def up(root, **arguments):
    events = []
    arguments.setdefault("services", ("mlflow", "serving"))
    addresses = embedded.up(root, on_event=lambda *event: events.append(event[:2]), timeout=20, **arguments)
    return addresses, events


def test_up_starts_what_is_down_only(root, ports):
    addresses, events = up(root)
    assert addresses["tracking_url"] == f"http://127.0.0.1:{ports['MLFLOW']}"
    assert set(events) == {(n, s) for n in ("mlflow", "serving") for s in ("starting", "ready")}
    assert {about["state"] for about in embedded.status(root).values()} == {"running"}
    before = processes.recorded(root)

    psutil.Process(before["serving"].pid).kill()
    psutil.Process(before["serving"].pid).wait()
    assert embedded.status(root)["serving"]["state"] == "stopped"
    _, events = up(root)
    after = processes.recorded(root)
    assert set(events) == {("mlflow", "running"), ("serving", "starting"), ("serving", "ready")}
    assert after["mlflow"] == before["mlflow"]
    assert after["serving"].pid != before["serving"].pid


def test_what_outlived_a_killed_service_does_not_stand_in_its_way(root, ports, monkeypatch):
    parent = f"import subprocess, sys, time; subprocess.Popen([sys.executable, '-S', '-c', {SERVER!r}, sys.argv[1]]);"
    command = [sys.executable, "-S", "-c", parent + "time.sleep(600)", str(ports["MLFLOW"])]
    monkeypatch.setattr(services, "commands", lambda root, ports, tracking_url: {"mlflow": command})
    up(root, services=["mlflow"])
    before = psutil.Process(processes.recorded(root)["mlflow"].pid)
    before.kill()
    before.wait()
    up(root, services=["mlflow"])
    assert processes.recorded(root)["mlflow"].pid != before.pid
    assert len(processes.running_processes(root)) == 2


def test_later_commands_find_the_addresses_until_down(root, ports):
    up(root)
    found = load_environment({"LEPTON_HOME": str(root)})
    assert found.serving_url == f"http://127.0.0.1:{ports['SERVING']}"
    assert embedded.down(root) == ["mlflow", "serving"]
    assert embedded.down(root) == []
    assert processes.running_processes(root) == set()
    assert load_environment({"LEPTON_HOME": str(root)}).serving_url == "http://127.0.0.1:8100"
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", ports["SERVING"]))


def test_the_stage_host_goes_with_airflow(root, ports, monkeypatch):
    server = [sys.executable, "-S", "-c", SERVER, str(ports["AIRFLOW"])]
    host = [sys.executable, "-m", "lepton_tasks.stages.host", str(root), "json"]
    monkeypatch.setattr(services, "commands", lambda root, ports, tracking_url: {"airflow": server, "stages": host})
    monkeypatch.setattr(services, "probe", lambda name, url, since: True)

    def running():
        return embedded.status(root)["stages"]["state"] == "running"

    addresses, events = up(root, services=["airflow"])
    assert addresses["airflow_url"] == f"http://127.0.0.1:{ports['AIRFLOW']}"
    assert set(events) == {("airflow", "starting"), ("airflow", "ready"), ("stages", "starting")}
    wait_for(running)
    assert embedded.status(root)["stages"]["url"] == f"unix:{root}/run/stages.sock"
    before = processes.recorded(root)["stages"]
    psutil.Process(before.pid).kill()
    psutil.Process(before.pid).wait()
    assert embedded.status(root)["stages"]["state"] == "stopped"
    _, events = up(root, services=["airflow"])
    assert events == [("airflow", "running"), ("stages", "starting")]
    wait_for(running)
    assert embedded.down(root) == ["airflow", "stages"]
    assert processes.running_processes(root) == set()


def test_a_stage_host_that_does_not_start_stops_nothing(root, ports, monkeypatch):
    server = [sys.executable, "-S", "-c", SERVER, str(ports["AIRFLOW"])]
    broken = [sys.executable, "-S", "-c", "raise SystemExit('no sockets here')"]
    monkeypatch.setattr(services, "commands", lambda root, ports, tracking_url: {"airflow": server, "stages": broken})
    monkeypatch.setattr(services, "probe", lambda name, url, since: True)
    up(root, services=["airflow"])
    wait_for(lambda: "no sockets here" in processes.tail(processes.log_path(root, "stages")))
    wait_for(lambda: embedded.status(root)["stages"]["state"] == "stopped")
    assert embedded.status(root)["airflow"]["state"] == "running"


def test_a_taken_port_is_named_before_anything_starts(root, ports):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", ports["SERVING"]))
        taken.listen()
        with pytest.raises(ConfigError) as caught:
            up(root)
    text = str(caught.value)
    assert f"port {ports['SERVING']}" in text
    assert "serving" in text
    assert "LEPTON_SERVING_PORT=" in text
    assert processes.recorded(root) == {}


def test_a_service_that_dies_shows_its_log_and_takes_the_others_down(root, ports, monkeypatch):
    commands = services.commands(root, {"mlflow": ports["MLFLOW"], "serving": 0, "airflow": 0}, "http://127.0.0.1:9")
    broken = {**commands, "serving": [sys.executable, "-S", "-c", "raise SystemExit('no memory for pictures')"]}
    monkeypatch.setattr(services, "commands", lambda root, ports, tracking_url: broken)
    with pytest.raises(UnavailableError) as caught:
        up(root)
    assert "serving exited during start-up" in str(caught.value)
    assert "no memory for pictures" in str(caught.value)
    assert str(root / "logs" / "serving.log") in str(caught.value)
    assert processes.recorded(root) == {}


def test_a_service_of_another_machine_is_not_ours_to_start(root, ports, monkeypatch):
    monkeypatch.setenv("LEPTON_TRACKING_URL", "http://mlflow.example:5000")
    with pytest.raises(ConfigError, match=r"mlflow\.example.*not this machine"):
        up(root)


def test_airflow_is_configured_for_this_machine_alone_and_keeps_its_secrets(tmp_path):
    password = services.write_airflow_config(tmp_path, tmp_path / "100% project", 18080)
    first = (tmp_path / "airflow" / "secrets.json").read_text()
    assert services.write_airflow_config(tmp_path, tmp_path / "100% project", 18081) is None
    assert services.airflow_password(tmp_path) == password
    assert len(password) >= 12
    assert (tmp_path / "airflow" / "secrets.json").read_text() == first
    assert len(bytes.fromhex(json.loads(first)["jwt_secret"])) >= 64
    for name in ("secrets.json", "passwords.json", "airflow.cfg"):
        assert (tmp_path / "airflow" / name).stat().st_mode & 0o777 == 0o600
    config = configparser.ConfigParser()
    config.read(tmp_path / "airflow" / "airflow.cfg")
    assert config["api"]["host"] == "127.0.0.1"
    assert config["core"]["dags_folder"] == str(tmp_path / "100% project" / "dags")
    assert config["core"]["execution_api_server_url"] == "http://127.0.0.1:18081/execution/"


def test_services_see_our_folders_and_no_airflow_settings_of_the_shell(tmp_path, monkeypatch):
    monkeypatch.setenv("AIRFLOW__CORE__LOAD_EXAMPLES", "True")
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    urls = dict.fromkeys(("mlflow", "serving", "airflow"), "http://127.0.0.1:1")
    variables = services.child_environment(tmp_path, tmp_path, load_environment({}), urls)
    assert "PYTHONDONTWRITEBYTECODE" not in variables
    assert "AIRFLOW__CORE__LOAD_EXAMPLES" not in variables
    assert variables["AIRFLOW_HOME"] == str(tmp_path / "airflow")
    assert variables["LEPTON_HOME"] == str(tmp_path)
    # Otherwise MLflow starts processes of a job queue, `huey_consumer`, that nothing here uses.
    assert variables["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] == "false"


def test_what_begins_is_waited_for_later(root, ports):
    events = []
    finish = embedded.begin(root, services=["serving"], on_event=lambda *event: events.append(event[:2]), timeout=20)
    assert events == [("serving", "starting")]
    assert finish() == {"serving_url": f"http://127.0.0.1:{ports['SERVING']}"}
    assert events == [("serving", "starting"), ("serving", "ready")]
