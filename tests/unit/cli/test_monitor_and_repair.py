import json
import sys
import time

import pytest
from alerts import drift

from lepton_tasks.cli import app as cli
from lepton_tasks.cli import run as cli_run
from lepton_tasks.cli import watch
from lepton_tasks.core.artifacts import EndpointRef
from lepton_tasks.core.context import RunContext
from lepton_tasks.core.environment import project_root
from lepton_tasks.core.use_case_file import load_use_case
from lepton_tasks.monitoring.alert import record
from lepton_tasks.stages import runner
from lepton_tasks.stages import watch as steps

USE_CASE = load_use_case(project_root() / "configs" / "use_cases" / "wine.yaml")
ENDPOINT = EndpointRef(uri="store://deploy/1", digest="1" * 64, stage="deploy", facts={"version": "3"})
SERVED = {"version": "3", "previous": None, "challenger": None}


@pytest.fixture
def lepton(monkeypatch, capsys):
    def run(*arguments):
        """Exit status and standard output of the command."""
        monkeypatch.setattr(sys, "argv", ["lepton", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return ended.value.code, capsys.readouterr().out

    return run


@pytest.fixture
def ctx(tmp_path, monkeypatch):
    monkeypatch.setenv("LEPTON_HOME", str(tmp_path))
    monkeypatch.setattr(steps, "deployed", lambda *_: ENDPOINT)
    monkeypatch.setattr(steps, "target_of", lambda *_: type("Target", (), {"health": lambda *_: SERVED})())
    monkeypatch.setattr(steps, "unchanged", lambda *_: False)
    return RunContext.from_env("test")


@pytest.mark.parametrize(("severity", "code"), [("ok", 0), ("warning", 0), ("critical", 1)])
def test_monitor_shows_findings_with_units_and_fails_on_critical_ones(severity, code, ctx, lepton, monkeypatch):
    def found(name, use_case, ctx, refs):
        assert (name, refs) == ("monitor", {"endpoint": ENDPOINT})
        record(use_case, ctx, [drift(severity)], version="3")

    monkeypatch.setattr(runner, "run_stage", found)
    status, out = lepton("monitor", "wine")
    assert status == code
    assert " ".join(out.splitlines()[2].split()) == f"{severity} drift 0.31 0.2 PSI PSI is 0.31 (limit 0.2)"
    status, out = lepton("monitor", "wine", "--json")
    told = json.loads(out.splitlines()[-1])
    assert (told["ok"], told["version"], told["findings"]) == (not code, "3", [drift(severity).as_json()])


def test_monitor_says_that_nothing_is_deployed(ctx, lepton, monkeypatch):
    monkeypatch.setattr(steps, "deployed", lambda *_: None)
    assert lepton("monitor", "wine") == (0, "wine: nothing is deployed\n")


def test_repair_tells_what_it_would_do_and_then_does_it(ctx, lepton, monkeypatch):
    runs = []

    def ran(file, overrides, **options):
        runs.append(file.name)
        return {"run_id": "wine-1", "stages": {"deploy": {"state": "success"}}, "model_version": "4"}

    monkeypatch.setattr(cli_run, "run_use_case", ran)
    record(USE_CASE, ctx, [drift("critical")], version="3")
    code, out = lepton("repair", "wine", "--dry-run")
    assert (code, out.splitlines()[-1]) == (0, "retrain: would train again. Reason: PSI is 0.31 (limit 0.2)")
    assert runs == []
    code, out = lepton("repair", "wine")
    assert (code, runs) == (0, ["wine.yaml"])
    assert out.splitlines()[-1] == "retrain: run wine-1 deployed version 4. Reason: PSI is 0.31 (limit 0.2)"
    _, out = lepton("repair", "wine", "--json")
    assert "the last retraining began 0.0 h ago" in json.loads(out.splitlines()[-1])["repairs"][0]["obstacle"]


@pytest.mark.parametrize(("kind", "code"), [("GateError", 0), ("DataError", 1)])
def test_a_candidate_that_the_gate_refuses_is_no_failure_of_the_repair(kind, code, ctx, lepton, monkeypatch):
    stages = {"gate": {"state": "failed", "error": {"type": kind, "what": "accuracy is 0.5."}}}
    monkeypatch.setattr(cli_run, "run_use_case", lambda *_, **__: {"run_id": "wine-1", "stages": stages})
    record(USE_CASE, ctx, [drift("critical")], version="3")
    assert lepton("repair", "wine")[0] == code


def test_status_tells_the_latest_check_in_a_line(ctx):
    assert watch.check_line(ctx.root, "wine") == ""
    record(USE_CASE, ctx, [drift("warning"), drift("critical"), drift("ok")], version="3")
    assert watch.check_line(ctx.root, "wine") == "checked now: 1 critical, 1 warning; drift: PSI is 0.31 (limit 0.2)"
    record(USE_CASE, ctx, [drift("ok")], version="3")
    assert watch.check_line(ctx.root, "wine") == "checked now: ok"
    assert watch._ago(time.time() - 7300) == "2 h ago"
