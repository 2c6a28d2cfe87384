"""When a finding begins, gets worse, lasts and ends, and what people are told of it."""

import dataclasses

import pytest

from lepton_tasks.core.finding import Finding
from lepton_tasks.core.watch_settings import Watch
from lepton_tasks.monitoring.book import follow

HOUR = 3600.0
MONITORS = ("drift", "performance")


def finding(severity, subject="age", *, monitor="drift", value=0.3):
    return Finding(monitor=monitor, severity=severity, message=f"{severity} {subject}", value=value, subject=subject)


class Told:
    """Checks one after the other; each gives the events that are alerted."""

    def __init__(self, **watch):
        self.watch, self.lasting, self.now = Watch(**watch), {}, 1_000_000.0

    def __call__(self, *findings, after=HOUR):
        self.now += after
        self.lasting, changes = follow(
            self.lasting, findings, now=self.now, watch=self.watch, monitors=(*MONITORS, "endpoint")
        )
        return [(change.event, change.one.finding.subject) for change in changes]


@pytest.fixture
def told():
    return Told()


def test_a_finding_is_told_when_it_begins_gets_worse_and_ends_and_not_in_between(told):
    assert told(finding("warning")) == [("began", "age")]
    assert told(finding("warning")) == []
    assert told(finding("critical")) == [("rose", "age")]
    assert told(finding("critical")) == []
    assert told(finding("ok")) == [("ended", "age")]
    assert told(finding("ok")) == []
    assert told.lasting == {}


def test_to_and_fro_between_severities_is_no_storm(told):
    assert [told(finding(severity)) for severity in ("critical", "warning", "critical", "warning")] == [
        [("began", "age")],
        [],
        [],
        [],
    ]


def test_what_lasts_is_told_again_after_the_time_that_is_set():
    told = Told(remind_hours=3)
    events = [told(finding("warning")) for _ in range(8)]
    assert [len(one) for one in events] == [1, 0, 0, 1, 0, 0, 1, 0]
    assert events[3] == [("continues", "age")]


def test_only_what_is_severe_enough_is_told():
    told = Told(alert_from="critical")
    assert told(finding("warning")) == []
    assert told(finding("critical")) == [("began", "age")]
    assert told(finding("warning")) == [("ended", "age")]
    assert told(finding("ok")) == []


def test_a_finding_that_its_monitor_names_no_more_is_over(told):
    told(finding("warning"), finding("warning", "income"))
    assert told(finding("ok", "")) == [("ended", "age"), ("ended", "income")]


def test_a_monitor_that_could_measure_nothing_ends_nothing(told):
    told(finding("warning"), finding("warning", "", monitor="performance"))
    assert told(finding("ok", "", value=None), finding("ok", "", monitor="performance")) == [("ended", "")]
    assert list(told.lasting) == ["drift/age"]
    assert told(finding("ok", value=None)) == []
    assert told(finding("ok")) == [("ended", "age")]


def test_monitors_that_were_not_asked_end_nothing_and_those_that_are_gone_do(told):
    told(finding("warning"), finding("warning", monitor="formerly"))
    assert told(finding("critical", "", monitor="endpoint")) == [("began", ""), ("ended", "age")]
    assert sorted(told.lasting) == ["drift/age", "endpoint/"]
    assert told(finding("ok", "", monitor="endpoint"), finding("warning")) == [("ended", "")]


def test_of_several_findings_about_the_same_the_worst_counts(told):
    assert told(finding("warning"), finding("critical"), finding("warning")) == [("began", "age")]
    assert told.lasting["drift/age"].finding.severity == "critical"


def test_a_finding_that_is_named_among_others_goes_on(told):
    told(finding("critical"), finding("critical", "income"))
    rest = Finding(monitor="drift", severity="critical", message="2 more columns: age, ages", value=2.0)
    assert told(rest) == [("began", ""), ("ended", "income")]
    assert sorted(told.lasting) == ["drift/", "drift/age"]


def test_since_when_it_is_as_severe_as_it_is_is_kept(told):
    told(finding("warning"))
    begun = told.now
    told(finding("critical"))
    risen = told.now
    told(finding("critical"))
    one = told.lasting["drift/age"]
    assert (one.since, one.risen) == (begun, risen)
    assert dataclasses.replace(one, told=None) != one
