"""Monitors `resources` and `energy` where a model has several servers."""

import dataclasses
import datetime as dt

import pytest
from test_resources import metrics
from watched_model import package, use_case

from lepton_tasks.core.context import RunContext
from lepton_tasks.core.energy import WATTS_PER_CORE
from lepton_tasks.core.errors import ConfigError, UnavailableError
from lepton_tasks.monitoring import server_metrics
from lepton_tasks.monitoring.energy import Energy
from lepton_tasks.monitoring.notebook import Notebook
from lepton_tasks.monitoring.resources import Resources
from lepton_tasks.monitoring.server_metrics import parse

USE_CASE = use_case()
A, B, C = (f"http://10.0.0.{i}:8100" for i in (1, 2, 3))
AWAY = UnavailableError("the server does not answer: refused.", where=B)
WH = WATTS_PER_CORE / 3600  # of a CPU second


@pytest.fixture
def watch(tmp_path, monkeypatch):
    """Checks of servers by address, each of which tells these metrics or raises this error, at these times."""
    endpoint = package(tmp_path, {"profile.json": {}})

    def check(monitor, servers, at):
        def read(server, model, home):
            if isinstance(reply := servers[server.url], Exception):
                raise reply
            return parse(reply, model)

        monkeypatch.setattr(server_metrics, "read_server", read)
        monkeypatch.setattr(Notebook, "draw_course", lambda *_: None)  # takes most of the time
        ctx = RunContext.local(tmp_path, serving={"target": "followers", "replicas": list(servers)})
        ctx = dataclasses.replace(ctx, clock=lambda: dt.datetime.fromtimestamp(at, dt.UTC))
        return {finding.subject: finding for finding in monitor.check(USE_CASE, ctx, endpoint)}

    return check


def test_each_server_is_compared_with_itself_in_whatever_order_they_come(watch):
    """One has lived a thousand times as long; taken for the other it would have used 2,990 CPU seconds."""
    watch(Resources(), {A: metrics(cpu=10, ok=100), B: metrics(cpu=3_000, ok=90_000, refused=900)}, 5_000)
    later = {B: metrics(cpu=3_020, ok=90_080, refused=910), A: metrics(cpu=60, ok=160, refused=0)}
    found = watch(Resources(), later, 5_100)
    assert found["cpu"].message == f"{A} (worst of 2): the server uses 0.50 cores, on average"
    assert (found["refused"].value, found["refused"].severity) == (pytest.approx(10 / 150, abs=1e-5), "warning")
    assert found["refused"].message == (f"6.7% of 150 requests were refused under load (limit 1.0%), 10 of 10 by {B}")
    assert (found["server"].message, found["server"].value) == ("2 servers answer", 2)
    assert "machine memory" not in found  # of this machine, where none of them is


def test_the_worst_server_of_each_resource_is_named(watch):
    watch(Resources(), {A: metrics(), B: metrics()}, 5_000)
    found = watch(Resources(), {A: metrics(queue=101, memory=400), B: metrics(files=85, memory=900)}, 5_100)
    bad = {subject: one.message.split(" ")[0] for subject, one in found.items() if one.severity != "ok"}
    assert bad == {"queue": A, "open files": B, "memory growth": B}
    assert found["memory"].message == f"{B} (worst of 2): the server uses 900 MiB of memory in 2 processes"


def test_a_restarted_server_counts_from_its_start_and_a_new_one_over_its_life(watch):
    watch(Resources(), {A: metrics(cpu=900), B: metrics(cpu=900)}, 5_000)
    found = watch(Resources(), {A: metrics(cpu=30, started=5_050), B: metrics(cpu=910)}, 5_100)
    assert (found["cpu"].value, found["memory growth"].value) == (pytest.approx(0.3), 0)
    found = watch(Resources(), {A: metrics(cpu=40, started=5_050), C: metrics(cpu=50, started=5_100)}, 5_200)
    assert (found["cpu"].value, found["cpu"].message.split(" ")[0]) == (pytest.approx(0.5), C)


def test_a_server_that_was_away_goes_on_from_where_it_was(watch):
    watch(Resources(), {A: metrics(cpu=10), B: metrics(cpu=10)}, 5_000)
    found = watch(Resources(), {A: metrics(cpu=20), B: AWAY}, 5_100)
    assert (found["server"].severity, found["server"].value, found["server"].limit) == ("warning", 1, 2)
    assert found["server"].message == (
        f"1 of 2 servers do not tell their metrics: {B}: the server does not answer: refused."
    )
    assert (found["cpu"].value, found["cpu"].message) == (
        pytest.approx(0.1),
        f"{A} (worst of 1): the server uses 0.10 cores, on average",
    )
    found = watch(Resources(), {A: metrics(cpu=30), B: metrics(cpu=70)}, 5_200)
    assert (found["cpu"].value, found["cpu"].message.split(" ")[0]) == (pytest.approx(60 / 200), B)


def test_no_server_is_critical_unless_they_only_refuse_to_tell(watch):
    refusal = ConfigError("it answers 403.", where=A, fix="Set a key.")
    assert watch(Resources(), {A: refusal, B: AWAY}, 5_000)["server"].severity == "critical"
    quiet = watch(Resources(), {A: refusal, B: refusal}, 5_000)["server"]
    assert (quiet.severity, quiet.value) == ("ok", None)
    assert quiet.message.endswith(f"{A}: it answers 403. {B}: it answers 403. Set a key.")
    assert B in watch(Energy(), {A: refusal, B: AWAY}, 5_000)["serving"].message


def test_energy_and_answers_are_those_of_all_servers(watch):
    watch(Energy(), {A: metrics(cpu=10, ok=100), B: metrics(cpu=5_000, ok=90_000)}, 5_000)
    found = watch(Energy(), {B: metrics(cpu=5_030, ok=90_300), A: metrics(cpu=80, ok=300)}, 5_100)
    assert found["answers"].value == pytest.approx(100 * WH / 500 * 1_000)
    assert found["day"].value == pytest.approx(100 * WH * 864)
    assert "(energy_estimate_wh: 100.0 CPU seconds of 2 servers at 3.5 W; 500 answers)" in found["answers"].message
    assert set(found) == {"training", "answers", "day"}


def test_energy_of_a_server_that_is_away_is_named_and_counted_when_it_is_back(watch):
    watch(Energy(), {A: metrics(cpu=10, ok=100), B: metrics(cpu=10, ok=100)}, 5_000)
    found = watch(Energy(), {A: metrics(cpu=20, ok=300), B: AWAY}, 5_100)
    assert found["day"].value == pytest.approx(10 * WH * 864)
    assert found["server"].message.startswith("the energy is not that of all servers: 1 of 2 servers do not tell")
    assert B in found["server"].message
    found = watch(Energy(), {A: metrics(cpu=30, ok=500), B: metrics(cpu=50, ok=900)}, 5_200)
    assert found["answers"].value == pytest.approx(50 * WH / 1_000 * 1_000)
    assert found["day"].value == pytest.approx((10 / 100 + 40 / 200) * 86_400 * WH)
