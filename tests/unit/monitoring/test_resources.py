import collections
import dataclasses
import datetime as dt

import psutil
import pytest
from watched_model import package, use_case

from lepton_tasks.core.context import RunContext
from lepton_tasks.core.errors import ConfigError
from lepton_tasks.monitoring import resources, server_metrics
from lepton_tasks.monitoring.resources import Resources
from lepton_tasks.monitoring.server_metrics import parse, read_server

USE_CASE = use_case()
MIB = 2**20


def metrics(*, cpu=10.0, memory=300, files=40, ok=100, refused=0, queue=0, started=1_000.0, version="1"):
    """Metrics of a server of two processes, as they are merged; the second one serves another model alone."""
    lines = []
    for process, share in (("0", 0.75), ("1", 0.25)):
        labels = f'process="{process}"'
        lines += [
            f"process_cpu_seconds_total{{{labels}}} {cpu * share}",
            f"process_resident_memory_bytes{{{labels}}} {memory * MIB * share}",
            f"process_open_fds{{{labels}}} {files}",
            f"process_max_fds{{{labels}}} 100",
            f"process_start_time_seconds{{{labels}}} {started + int(process)}",
        ]
    mine = f'model="people",version="{version}",process="0"'
    lines += [
        f'lepton_requests_total{{{mine},api="v1",status="200"}} {ok}',
        f'lepton_requests_total{{{mine},api="v1",status="429"}} {refused}',
        'lepton_requests_total{model="other",version="1",process="1",api="v1",status="200"} 1000',
        f'lepton_stage_seconds_sum{{{mine},stage="run"}} 3',
        f'lepton_stage_seconds_sum{{{mine},stage="queue"}} 100',
        'lepton_stage_seconds_sum{model="other",version="1",process="1",stage="decode"} 1',
        f"lepton_queue_depth{{{mine}}} {queue}",
        f"lepton_model_info{{{mine}}} 1",
    ]
    kinds = {"lepton_requests": "counter", "process_cpu_seconds": "counter", "lepton_stage_seconds": "histogram"}
    return "".join(f"# TYPE {name} {kind}\n" for name, kind in kinds.items()) + "\n".join(lines) + "\n"


def test_processes_are_added_up_and_models_kept_apart():
    server = parse(metrics(refused=5, queue=2), "people")
    assert server.since({}) == {"cpu": 10, "requests": 105, "answers": 100, "refused": 5, "busy": 3, "busy_all": 4}
    assert (server.queue, server.started, server.served) == (2, 1_000, ("people 1",))
    assert sum(process["memory"] for process in server.processes) == 300 * MIB


def test_a_process_that_was_started_anew_counts_from_its_start():
    before = parse(metrics(cpu=10), "people").counts
    assert parse(metrics(cpu=14, ok=130), "people").since(before)["cpu"] == 4
    anew = parse(metrics(cpu=2, ok=7, started=2_000), "people").since(before)
    assert (anew["cpu"], anew["answers"]) == (2, 7)


class Clock:
    def __init__(self):
        self.now = 1_100.0

    def __call__(self):
        return dt.datetime.fromtimestamp(self.now, dt.UTC)


@pytest.fixture
def watch(tmp_path, monkeypatch):
    """Checks, 100 s apart, of a server that tells these metrics."""
    memory = collections.namedtuple("memory", "available total")(50 * 2**30, 100 * 2**30)
    disk = collections.namedtuple("disk", "free")(20 * 2**30)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    monkeypatch.setattr(psutil, "disk_usage", lambda _: disk)
    monkeypatch.setattr(resources.os, "cpu_count", lambda: 2)
    clock = Clock()
    ctx = dataclasses.replace(RunContext.local(tmp_path), clock=clock)
    endpoint = package(tmp_path, {"package.json": {}})

    def check(text, **limits):
        monkeypatch.setattr(server_metrics, "read_server", lambda server, model, home: parse(text, model))
        clock.now += 100
        return Resources(**limits).check(USE_CASE, ctx, endpoint)

    check.ctx, check.endpoint = ctx, endpoint
    return check


def test_all_figures_are_told_with_their_units(watch):
    watch(metrics())
    findings = watch(metrics(cpu=30, memory=310, ok=250))
    assert {finding.severity for finding in findings} == {"ok"}
    assert [finding.message for finding in findings] == [
        "20.0 GiB of disk space are free for the state folder (at least 1 GiB)",
        "50.0 of 100.0 GiB of the machine's memory are available: 50.0% (at least 5.0%)",
        "the server answers",
        "the server uses 310 MiB of memory in 2 processes",
        "the server's memory has changed by +10 MiB since the first check with these processes and versions "
        "(limit 512 MiB), by +10 MiB since the last check",
        "the server uses 0.20 of 2 cores, on average (limit 1.8)",
        "0.0% of 150 requests were refused under load (limit 1.0%)",
        "0 requests are waiting for a worker (limit 100)",
        "a process of the server has 40 of 100 files open (limit 80%)",
    ]
    assert (watch.ctx.root / "monitoring" / "people" / "resources.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("after", "limits", "subject", "severity", "value"),
    [
        ({"memory": 900}, {}, "memory growth", "warning", 600),
        ({"memory": 310}, {"max_memory_mib": 305}, "memory", "warning", 310),
        ({"cpu": 200}, {}, "cpu", "warning", 1.9),
        ({"files": 85}, {}, "open files", "warning", 0.85),
        ({"queue": 101}, {}, "queue", "warning", 101),
        ({"ok": 170, "refused": 30}, {}, "refused", "warning", 0.3),
        ({}, {"min_disk_gib": 21}, "disk", "critical", 20),
        ({}, {"min_memory": 0.6}, "machine memory", "critical", 0.5),
    ],
)
def test_each_limit_that_is_passed_is_a_finding(watch, after, limits, subject, severity, value):
    watch(metrics())
    (found,) = [one for one in watch(metrics(**after), **limits) if one.severity != "ok"]
    assert (found.subject, found.severity, found.value) == (subject, severity, pytest.approx(value))
    assert found.limit is not None


def test_memory_of_other_versions_or_processes_has_not_grown(watch):
    def growth(**server):
        return next(one for one in watch(metrics(**server)) if one.subject == "memory growth")

    assert growth().value == 0
    assert growth(memory=900, version="2").value == 0
    assert growth(memory=1_500, version="2", started=2_000).value == 0
    slowly, leak = (growth(memory=memory, version="2", started=2_000) for memory in (1_900, 2_100))
    assert (slowly.severity, leak.severity, leak.value) == ("ok", "warning", 600)
    assert leak.message.endswith("by +200 MiB since the last check")


def test_few_requests_do_not_tell_which_share_is_refused(watch):
    watch(metrics())
    (found,) = [one for one in watch(metrics(ok=105, refused=20)) if one.subject == "refused"]
    assert (found.severity, found.value) == ("ok", None)


def test_a_server_that_does_not_answer_is_critical_and_one_that_does_not_tell_is_not(watch, monkeypatch):
    def refuse(server, model, home):
        raise ConfigError("the server answers 403 to a request for its metrics.", where=server.url)

    monkeypatch.setattr(server_metrics, "read_server", read_server)
    *_, away = Resources().check(USE_CASE, watch.ctx, watch.endpoint)
    assert (away.severity, away.subject) == ("critical", "server")
    assert "does not answer" in away.message
    monkeypatch.setattr(server_metrics, "read_server", refuse)
    *_, told = Resources().check(USE_CASE, watch.ctx, watch.endpoint)
    assert (told.severity, "answers 403" in told.message) == ("ok", True)
