"""What is deployed is found, checked, and told to the remedies."""

import pytest
from alerts import BEGIN, USE_CASE, at, drift
from registry_server import wine_registry

from lepton_tasks.core.artifacts import DatasetRef
from lepton_tasks.core.catalogue import DEPLOY_TARGETS
from lepton_tasks.core.context import RunContext
from lepton_tasks.core.errors import DataError, UnavailableError
from lepton_tasks.monitoring.alert import record
from lepton_tasks.stages import watch
from lepton_tasks.stages.running import is_running, running

SERVED = {"url": "http://127.0.0.1:1", "version": "3", "digest": "d" * 64, "previous": "2", "challenger": None}
NOTHING = {**SERVED, "version": None, "digest": None, "previous": None, "ready": False}


class Target:
    """A deployment target that says what it is told to."""

    def __init__(self):
        self.served = SERVED

    def health(self, use_case, ctx):
        if self.served is None:
            raise UnavailableError("the serving process does not answer.")
        return self.served


@pytest.fixture
def target(monkeypatch):
    made = Target()
    monkeypatch.setattr(DEPLOY_TARGETS, "build", lambda *arguments, **more: made)
    return made


@pytest.fixture
def registry():
    with wine_registry() as running:
        yield running


@pytest.fixture
def ctx(tmp_path, registry):
    return at(RunContext.local(tmp_path, tracking_url=registry.url), 0)


def findings(book):
    return [(one.monitor, one.severity, one.message) for one in book.findings]


def test_the_champion_is_an_endpoint_with_its_facts(target, ctx):
    facts = watch.deployed(USE_CASE, ctx).facts
    assert (facts["version"], facts["previous_version"], facts["role"]) == ("3", "2", "champion")
    assert watch.deployed(USE_CASE, ctx) == watch.deployed(USE_CASE, ctx)


def test_monitors_do_without_a_registry_that_is_away(target, ctx, registry):
    registry.away = True
    assert watch.deployed(USE_CASE, ctx).facts["package_uri"] is None


def test_a_package_that_was_known_is_found_while_the_registry_is_away(target, ctx, registry):
    registry.tags["wine", "3"] = {"lepton.package_uri": "store://export/p"}
    assert watch.deployed(USE_CASE, ctx).facts["package_uri"] == "store://export/p"
    registry.away = True
    assert watch.deployed(USE_CASE, ctx).facts["package_uri"] == "store://export/p"
    target.served = {**SERVED, "version": "4"}
    assert watch.deployed(USE_CASE, ctx).facts["package_uri"] is None


@pytest.mark.parametrize("served", [NOTHING, None])
def test_what_was_never_deployed_is_not_checked(served, target, ctx, registry):
    target.served, registry.aliases = served, {"wine": {}}
    assert watch.check(USE_CASE, ctx, pytest.fail) is None


def test_a_server_that_is_away_is_a_finding_if_something_was_deployed(target, ctx, registry):
    target.served, registry.aliases = None, {"wine": {"champion": "3"}}
    (found,) = findings(watch.check(USE_CASE, ctx, pytest.fail))
    assert found == ("endpoint", "critical", "the serving process does not answer.")


def test_a_model_that_the_server_lost_is_a_finding(target, ctx):
    record(USE_CASE, ctx, [drift("ok")], version="3")
    target.served = NOTHING
    (found,) = findings(watch.check(USE_CASE, ctx, pytest.fail))
    assert found == ("endpoint", "critical", "the server serves no version of it; 3 was served.")


def test_the_monitors_find_and_the_book_keeps(target, ctx):
    book = watch.check(
        USE_CASE, ctx, lambda end: record(USE_CASE, ctx, [drift("critical")], version=end.facts["version"])
    )
    assert (book.version, sorted(book.lasting)) == ("3", ["drift/alcohol"])


def test_monitors_that_fail_are_a_finding_and_nothing_is_done_about_older_ones(target, ctx):
    record(USE_CASE, ctx, [drift("critical")], version="3")
    assert [one for one, _ in watch.situation(USE_CASE, ctx, None).findings] == [drift("critical")]

    def fail(endpoint):
        raise DataError("no profile.")

    with pytest.raises(DataError):
        watch.check(USE_CASE, ctx, fail)
    assert watch.situation(USE_CASE, ctx, None).findings == []
    record(USE_CASE, ctx, [drift("critical")], version="3")
    assert len(watch.situation(USE_CASE, ctx, None).findings) == 1


def test_findings_about_another_version_are_left_out(target, ctx):
    record(USE_CASE, ctx, [drift("critical")], version="2")
    assert watch.situation(USE_CASE, ctx, None).findings == []


def test_remedies_are_told_since_when(target, ctx):
    record(USE_CASE, ctx, [drift("critical")], version="3", deployed_at=BEGIN.timestamp() - 60)
    told = watch.situation(USE_CASE, at(ctx, 90), None)
    assert (told.findings[0][1], told.version_since, told.now) == (
        BEGIN.timestamp(),
        BEGIN.timestamp() - 60,
        BEGIN.timestamp() + 90,
    )


@pytest.mark.parametrize(("fresh", "same"), [(set(), True), ({"ingest"}, False), ({"train"}, False), ({"gate"}, True)])
def test_a_training_that_would_be_reused_is_unchanged(fresh, same, ctx, monkeypatch):
    def planned(name, use_case, ctx, refs):
        return None if name in fresh else DatasetRef(uri=f"store://{name}/1", digest="1", stage=name)

    monkeypatch.setattr(watch, "plan_stage", planned)
    assert watch.unchanged(USE_CASE, ctx) is same


def test_a_run_that_goes_on_is_seen_until_it_ends(tmp_path):
    assert not is_running(tmp_path, "wine")
    with running(tmp_path, "wine"), running(tmp_path, "wine"):
        assert is_running(tmp_path, "wine")
        assert not is_running(tmp_path, "beer")
    assert not is_running(tmp_path, "wine")
