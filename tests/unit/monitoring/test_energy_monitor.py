import dataclasses
import datetime as dt

import pytest
from test_resources import metrics
from watched_model import package, use_case

from lepton_tasks.core.context import RunContext
from lepton_tasks.core.energy import WATTS_PER_CORE
from lepton_tasks.monitoring import energy, server_metrics
from lepton_tasks.monitoring.energy import Energy
from lepton_tasks.monitoring.server_metrics import parse

USE_CASE = use_case()


@pytest.fixture
def watch(tmp_path, monkeypatch):
    """Checks of a server that tells these metrics, at these times; RAPL's counters are files of a folder."""
    monkeypatch.setattr(energy, "ZONES", tmp_path / "powercap")
    endpoint = package(tmp_path, {"profile.json": {"training": {"energy_estimate_wh": 0.25}}})

    def check(text, at, **limits):
        monkeypatch.setattr(server_metrics, "read_server", lambda server, model, home: parse(text, model))
        ctx = dataclasses.replace(RunContext.local(tmp_path), clock=lambda: dt.datetime.fromtimestamp(at, dt.UTC))
        return {finding.subject: finding for finding in Energy(**limits).check(USE_CASE, ctx, endpoint)}

    check.root = tmp_path
    return check


def zone(root, joules, most=262_143):
    folder = root / "powercap" / "intel-rapl:0"
    folder.mkdir(exist_ok=True, parents=True)
    (folder / "name").write_text("package-0\n")
    (folder / "energy_uj").write_text(f"{joules * 1_000_000}\n")
    (folder / "max_energy_range_uj").write_text(f"{most * 1_000_000}\n")


def test_cpu_seconds_are_an_estimate_shared_out_by_the_time_of_computing(watch):
    """Of 40 CPU seconds three quarters are the model's: it computed 3 of 4 s."""
    found = watch(metrics(cpu=40, ok=1_000), at=1_000 + 3_600)
    wh = 40 * WATTS_PER_CORE * 0.75 / 3600
    assert found["answers"].value == pytest.approx(wh)
    assert found["day"].value == pytest.approx(wh * 24)
    assert found["answers"].unit == "Wh per 1,000 answers (energy_estimate_wh)"
    assert "(energy_estimate_wh: 40.0 CPU seconds at 3.5 W, 75.0% of it for this model; 1,000 answers)" in (
        found["answers"].message
    )
    assert {finding.severity for finding in found.values()} == {"ok"}


def test_a_later_check_counts_what_came_since_and_limits_are_held(watch):
    watch(metrics(cpu=40, ok=1_000), at=4_600)
    found = watch(
        metrics(cpu=140, ok=1_500),
        at=5_600,
        max_wh_per_1000=0.1,
        max_wh_per_day=10,
        max_training_wh=0.2,
        grams_per_kwh=400,
    )
    wh = 100 * WATTS_PER_CORE / 3600  # since then nothing was computed for anybody, so there is nothing to share out
    assert (found["answers"].severity, found["answers"].value) == ("warning", pytest.approx(wh * 2))
    assert found["answers"].message.startswith("1,000 answers take 0.194 Wh, 0.0778 g of CO2 (energy_estimate_wh")
    assert found["answers"].message.endswith("; limit 0.1 Wh")
    assert (found["day"].severity, found["day"].value) == ("ok", pytest.approx(wh * 86.4))
    assert (found["training"].severity, found["training"].value, found["training"].unit) == (
        *("warning", 0.25),
        "energy_estimate_wh",
    )
    assert (watch.root / "monitoring" / "people" / "energy.png").stat().st_size > 10_000


def test_counters_of_the_hardware_are_taken_where_they_cannot_have_gone_round_twice(watch):
    zone(watch.root, 262_000)
    first = watch(metrics(ok=1_000), at=4_600)
    assert "energy_estimate_wh" in first["day"].message  # what they counted before the first look is not known
    zone(watch.root, 3_457)  # 3,600 J on, past the end
    found = watch(metrics(ok=2_000), at=4_900)
    assert (found["answers"].value, found["answers"].unit) == (pytest.approx(1.0), "Wh per 1,000 answers (energy_wh)")
    assert "(energy_wh: counters of the whole machine; 1,000 answers)" in found["answers"].message
    zone(watch.root, 7_057)
    assert "energy_estimate_wh" in watch(metrics(ok=3_000), at=8_500)["day"].message


def test_few_answers_and_short_times_tell_nothing(watch):
    short = watch(metrics(), at=1_030)
    assert short["serving"].message == "30 s of serving are too few for an estimate (minimum: 60 s)"
    few = watch(metrics(ok=20), at=4_600)
    assert few["answers"].message == "20 answers are too few to estimate the energy per 1,000 (minimum: 100)"
    assert few["day"].value > 0


def test_without_the_servers_metrics_the_training_is_told_all_the_same(tmp_path):
    endpoint = package(tmp_path, {"profile.json": {}})
    found = {one.subject: one for one in Energy().check(USE_CASE, RunContext.local(tmp_path), endpoint)}
    assert "is unknown: " in found["serving"].message
    assert found["training"].message == "the model package does not record its training energy"
    assert {finding.severity for finding in found.values()} == {"ok"}
