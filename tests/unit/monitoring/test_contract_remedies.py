"""Every line of the catalogue's REMEDIES, and when each of them acts."""

import json

import pytest
from alerts import BEGIN, USE_CASE, at, drift, errors
from registry_server import model_registry

from lepton_tasks.core.catalogue import DEPLOY_TARGETS, REMEDIES
from lepton_tasks.core.context import RunContext
from lepton_tasks.core.errors import ConfigError, StageError, UnavailableError
from lepton_tasks.core.finding import Finding
from lepton_tasks.core.use_case import parse_use_case
from lepton_tasks.core.watch_protocols import PastRepair, Situation
from lepton_tasks.monitoring import remediate
from lepton_tasks.monitoring.book import read_book

HOUR, DAY = 3600.0, 24 * 3600.0
NOW = BEGIN.timestamp()
SERVED = {"version": "3", "previous": "2", "challenger": None}


class Trainer:
    """Starts runs at once, unless told otherwise."""

    def __init__(self, obstacle="", same=False, error=None):
        self.hindered, self.same, self.error, self.started = obstacle, same, error, []

    def obstacle(self):
        return self.hindered

    def unchanged(self):
        return self.same

    def start(self, why):
        self.started.append(why)
        if self.error:
            raise self.error
        return "run 7 is started."


def situation(
    tmp_path, *findings, risen=NOW, served=SERVED, since=NOW - HOUR, past=(), trainer=None, use_case=USE_CASE
):
    return Situation(
        use_case=use_case,
        ctx=at(RunContext.local(tmp_path), 0),
        findings=[(finding, risen) for finding in findings],
        served=served,
        version_since=since,
        past=list(past),
        trainer=trainer or Trainer(),
        now=NOW,
    )


def done(remedy, hours_ago, version="3", state="done"):
    return PastRepair(f"{remedy}{hours_ago}", NOW - hours_ago * HOUR, remedy, version, state, "what", "why")


@pytest.mark.parametrize("name", REMEDIES.names())
def test_a_remedy_leaves_alone_what_is_none_of_its_business(name, tmp_path):
    remedy = REMEDIES.build(name, {})
    other = Finding(monitor="energy", severity="critical", message="hot", value=1.0)
    assert remedy.applies(situation(tmp_path, other, errors("warning"), drift("warning"))) is None
    assert remedy.applies(situation(tmp_path)) is None


@pytest.mark.parametrize("name", REMEDIES.names())
def test_a_remedy_names_the_findings_it_answers_and_what_it_would_do(name, tmp_path):
    plan = REMEDIES.build(name, {}).applies(situation(tmp_path, errors(), drift("warning")))
    assert plan.findings == (errors(),)
    assert plan.obstacle == ""
    assert plan.what in ("train again", "go back from version 3 to 2")


@pytest.mark.parametrize("name", REMEDIES.names())
def test_whom_a_remedy_answers_is_a_matter_of_its_params(name, tmp_path):
    remedy = REMEDIES.build(name, {"monitors": ["drift"], "severity": "warning"})
    assert remedy.applies(situation(tmp_path, errors(), drift("warning"))).findings == (drift("warning"),)


@pytest.mark.parametrize("name", REMEDIES.names())
def test_a_monitor_that_does_not_exist_is_refused(name):
    with pytest.raises(ConfigError, match=r"no monitor named 'drfit'\. Did you mean 'drift'"):
        REMEDIES.build(name, {"monitors": ["drfit"]})


# Retrain


@pytest.mark.parametrize(
    ("past", "told"),
    [
        ([done("retrain", 3)], "the last retraining began 3.0 h ago; 24 h must pass."),
        ([done("retrain", 3, state="failed")], "the last retraining began 3.0 h ago"),
        ([done("retrain", 3, state="begun")], "the last retraining began 3.0 h ago"),
        ([done("retrain", 100), done("retrain", 50)], "there were 2 retrainings in the last seven days"),
        ([done("retrain", 200), done("retrain", 50)], ""),
        ([done("rollback", 3)], ""),
    ],
)
def test_retrainings_are_rare(past, told, tmp_path):
    plan = REMEDIES.build("retrain", {}).applies(situation(tmp_path, drift("critical"), past=past))
    assert plan.obstacle.startswith(told)
    assert bool(plan.obstacle) == bool(told)


def test_the_same_data_are_not_learned_again(tmp_path):
    plan = REMEDIES.build("retrain", {}).applies(situation(tmp_path, drift("critical"), trainer=Trainer(same=True)))
    assert plan.obstacle.endswith("unchanged since the last training: retraining would produce the same model.")


def test_nothing_is_started_while_a_run_goes_on(tmp_path):
    trainer = Trainer("a run of wine is in progress.")
    plan = REMEDIES.build("retrain", {}).applies(situation(tmp_path, drift("critical"), trainer=trainer))
    assert plan.obstacle == "a run of wine is in progress."


def test_nothing_is_trained_that_could_not_be_deployed(tmp_path):
    plan = REMEDIES.build("retrain", {}).applies(situation(tmp_path, drift("critical"), served=None))
    assert plan.obstacle == "the server does not answer, so nothing could be deployed."


# Rollback


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"risen": NOW - 2 * HOUR}, "it began before version 3 was deployed."),
        ({"since": NOW - 30 * DAY}, "it began 720 h after version 3 was deployed"),
        ({"served": {**SERVED, "previous": None}}, "there is no previous version."),
        ({"served": {**SERVED, "challenger": {"version": "4"}}}, "a rollout is in progress"),
        ({"served": None}, "the server does not report what it serves."),
        ({"past": [done("rollback", 100, version="2")]}, "version 2 was itself rolled back before."),
        ({"past": [done("rollback", 100, version="2", state="failed")]}, ""),
    ],
)
def test_a_rollback_is_for_trouble_that_came_with_the_version(change, told, tmp_path):
    plan = REMEDIES.build("rollback", {}).applies(situation(tmp_path, errors(), **change))
    assert plan.obstacle.startswith(told)
    assert bool(plan.obstacle) == bool(told)


@pytest.fixture
def registry():
    with model_registry() as running:
        running.add("wine", "2", None, "")
        running.add("wine", "3", None, "")
        running.aliases["wine"] = {"champion": "3", "previous": "2"}
        yield running


class Target:
    """A deployment target that goes back."""

    def __init__(self):
        self.calls = 0

    def rollback(self, use_case, ctx):
        self.calls += 1
        return {"version": "2", "previous": None, "undone": "3"}


def test_a_rollback_moves_the_server_and_the_registry_and_notes_why(tmp_path, registry, monkeypatch):
    target = Target()
    monkeypatch.setattr(DEPLOY_TARGETS, "build", lambda *arguments, **more: target)
    ctx = at(RunContext.local(tmp_path, tracking_url=registry.url), 0)
    asked = Situation(**{**vars(situation(tmp_path, errors())), "ctx": ctx})
    plan = REMEDIES.build("rollback", {}).applies(asked)
    assert REMEDIES.build("rollback", {}).act(plan, asked) == "version 2 is served again instead of version 3."
    assert target.calls == 1
    assert registry.aliases["wine"] == {"champion": "2"}
    assert registry.tags["wine", "3"] == {"lepton.rolled_back": errors().message}
    registry.away = True
    assert "The registry has not been updated yet" in REMEDIES.build("rollback", {}).act(plan, asked)


# All of them


def test_a_dry_run_tells_and_does_nothing(tmp_path):
    trainer = Trainer()
    asked = situation(tmp_path, drift("critical"), trainer=trainer)
    (repair,) = remediate.repair(asked, dry_run=True)
    assert repair.text == "retrain: would train again. Reason: PSI is 0.31 (limit 0.2)"
    assert trainer.started == []
    assert remediate.history(tmp_path, "wine") == []


def test_one_thing_is_done_at_a_time_and_it_is_kept_and_told(tmp_path, monkeypatch):
    trainer = Trainer()
    raw = USE_CASE.model_dump(mode="json", exclude_unset=True)
    twice = parse_use_case(raw | {"watch": {"remedies": ["retrain", "rollback"]}}, where="wine.yaml")
    asked = situation(tmp_path, errors(), trainer=trainer, use_case=twice)
    first, second = remediate.repair(asked)
    assert first.outcome == "run 7 is started."
    assert second.plan.obstacle == "the next check must first show whether retrain helped."
    assert trainer.started == ["7 % of answers failed"]
    (past,) = remediate.history(tmp_path, "wine")
    assert (past.remedy, past.state, past.version, past.outcome) == ("retrain", "done", "3", "run 7 is started.")
    (alert,) = read_book(tmp_path, "wine").outbox["log"].values()
    assert alert.finding.message == "retrain: run 7 is started. Reason: 7 % of answers failed"


def test_a_retraining_that_fails_is_kept_and_told_and_not_tried_again_at_once(tmp_path):
    trainer = Trainer(error=StageError("run 7 failed: no label."))
    asked = situation(tmp_path, drift("critical"), trainer=trainer)
    with pytest.raises(StageError):
        remediate.repair(asked)
    past = remediate.history(tmp_path, "wine")
    assert [(one.state, one.outcome) for one in past] == [("failed", "run 7 failed: no label.")]
    (again,) = remediate.repair(situation(tmp_path, drift("critical"), past=past, trainer=trainer))
    assert "the last retraining began 0.0 h ago" in again.text
    assert len(trainer.started) == 1


def test_a_retraining_that_did_not_begin_is_told_and_tried_again_at_the_next_check(tmp_path):
    fault = UnavailableError("no run of the Dag wine began.", fix="It is tried again at the next check.")
    for _ in range(3):  # one more than there may be retrainings in a week
        past = remediate.history(tmp_path, "wine")
        with pytest.raises(UnavailableError):
            remediate.repair(situation(tmp_path, drift("critical"), past=past, trainer=Trainer(error=fault)))
    past = remediate.history(tmp_path, "wine")
    assert [(one.state, one.outcome) for one in past] == 3 * [("failed", str(fault))]
    (told, *_) = read_book(tmp_path, "wine").outbox["log"].values()
    assert told.finding.message.startswith("retrain failed: no run of the Dag wine began. It is tried again")
    (again,) = remediate.repair(situation(tmp_path, drift("critical"), past=past))
    assert again.outcome == "run 7 is started."
    (limited,) = remediate.repair(situation(tmp_path, drift("critical"), past=remediate.history(tmp_path, "wine")))
    assert "the last retraining began 0.0 h ago" in limited.text


def test_a_line_that_a_crash_cut_off_costs_no_other(tmp_path):
    remediate.repair(situation(tmp_path, drift("critical")))
    path = tmp_path / "monitoring" / "wine" / remediate.HISTORY_FILE
    path.write_text(path.read_text() + json.dumps({"id": "x"})[:6])
    assert len(remediate.history(tmp_path, "wine")) == 1
    remediate.repair(situation(tmp_path, drift("critical")))
    assert len(path.read_text().splitlines()) == 5  # begun and done, twice, and the broken one by itself
