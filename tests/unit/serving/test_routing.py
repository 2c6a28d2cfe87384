import asyncio
import contextlib
import json

import numpy as np
import pytest
from tiny_packages import expected, make_package, picture

from lepton_tasks.core.errors import ArtifactError, ConfigError, UnavailableError
from lepton_tasks.core.rollout import Rollout
from lepton_tasks.core.store import digest_of, sha256_file
from lepton_tasks.serving.errors import ConflictError, UnknownModelError
from lepton_tasks.serving.inference.samples import SampleJob
from lepton_tasks.serving.versions.controller import Controller
from lepton_tasks.serving.versions.routing import ModelTable


@pytest.fixture
def packages(tmp_path):
    """Three packages and their digests; package i answers with an offset of i / 10."""
    return [(tmp_path / f"p{i}", make_package(tmp_path / f"p{i}", offset=i / 10)) for i in range(3)]


def on_table(home, scenario):
    home.mkdir(exist_ok=True)

    async def run():
        table = ModelTable(home, workers=1)
        try:
            return await scenario(table)
        finally:
            await table.close()

    return asyncio.run(run())


async def deploy(table, packages, i, rollout=None):
    folder, digest = packages[i]
    return await table.deploy("tiny", folder, version=str(i), digest=digest, rollout=rollout)


async def light(table):
    answer = await table.get("tiny").batcher.submit_future(SampleJob(picture(0)))
    return round(answer["probabilities"]["light"], 4)


def records(home):
    lines = (home / "deployments.jsonl").read_text().splitlines()
    return [(r["action"], r["version"]) for r in map(json.loads, lines)]


def test_a_newer_version_takes_over_and_rollback_brings_the_old_one_back(tmp_path, packages):
    home = tmp_path / "home"

    async def scenario(table):
        first = await deploy(table, packages, 1)
        assert (first["version"], first["previous"], first["changed"], await light(table)) == ("1", None, True, 0.1)
        second = await deploy(table, packages, 2)
        assert (second["version"], second["previous"], await light(table)) == ("2", "1", 0.2)
        back = await table.rollback("tiny")
        assert (back["version"], back["previous"], await light(table)) == ("1", None, 0.1)
        with pytest.raises(ConflictError, match="no previous version"):
            await table.rollback("tiny")
        assert await light(table) == 0.1

    on_table(home, scenario)
    assert records(home) == [("deploy", "1"), ("deploy", "2"), ("rollback", "1")]


def test_deploying_what_is_served_changes_nothing(tmp_path, packages):
    async def scenario(table):
        await deploy(table, packages, 1)
        await deploy(table, packages, 2)
        live = table.get("tiny")
        again = await deploy(table, packages, 2)
        assert (again["changed"], again["previous"]) == (False, "1")
        assert table.get("tiny") is live

    on_table(tmp_path / "home", scenario)


def test_only_the_current_and_the_previous_package_are_kept(tmp_path, packages):
    home = tmp_path / "home"

    async def scenario(table):
        for i in range(3):
            await deploy(table, packages, i)

    on_table(home, scenario)
    kept = sorted(path.name for path in (home / "models" / "tiny").iterdir())
    assert kept == [f"1-{packages[1][1][:8]}", f"2-{packages[2][1][:8]}", "deployed.json"]


def damaged_manifest(folder):
    (folder / "card.md").write_text("another text")


def refused_graph(folder):
    make_package(folder, onnx_bytes=b"not a graph")


def unknown_codec(folder):
    spec = json.loads((folder / "package.json").read_text())
    spec["input_codec"]["name"] = "smell"
    (folder / "package.json").write_text(json.dumps(spec))
    reseal(folder)


def unanswerable_example(folder):
    (folder / "example.png").write_bytes(b"not a picture")
    reseal(folder)


def reseal(folder):
    manifest = {p.name: sha256_file(p) for p in folder.iterdir() if p.name != "manifest.json"}
    (folder / "manifest.json").write_text(json.dumps(manifest))


def digest_of_folder(folder):
    return digest_of({p.name: sha256_file(p) for p in folder.iterdir()})


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (damaged_manifest, "card.md"),
        (refused_graph, "ONNX Runtime refuses"),
        (unknown_codec, "'smell'"),
        (unanswerable_example, "does not answer"),
    ],
)
def test_a_package_that_cannot_be_used_leaves_the_current_one_alone(tmp_path, packages, harm, reason):
    home = tmp_path / "home"
    harm(packages[2][0])

    async def scenario(table):
        await deploy(table, packages, 1)
        with pytest.raises(ArtifactError, match=reason):
            await table.deploy("tiny", packages[2][0], version="2", digest=digest_of_folder(packages[2][0]))
        assert await light(table) == 0.1
        assert json.loads((home / "models" / "tiny" / "deployed.json").read_text())["current"]["version"] == "1"

    on_table(home, scenario)
    on_table(home, restored_light)
    assert records(home) == [("deploy", "1")]


async def restored_light(table):
    await table.restore()
    assert await light(table) == 0.1


def test_another_digest_or_a_missing_folder_is_refused(tmp_path, packages):
    async def scenario(table):
        with pytest.raises(ArtifactError, match="digest is"):
            await table.deploy("tiny", packages[1][0], version="1", digest=packages[2][1])
        with pytest.raises(ArtifactError, match="cannot be copied"):
            await table.deploy("tiny", tmp_path / "nowhere", version="1", digest=packages[1][1])
        with pytest.raises(UnknownModelError, match="None is deployed yet"):
            table.get("tiny")

    on_table(tmp_path / "home", scenario)


@pytest.mark.parametrize(("name", "version"), [("../x", "1"), ("tiny", "../1"), (".tiny", "1"), ("tiny", "")])
def test_names_that_would_leave_the_folder_are_refused(tmp_path, packages, name, version):
    async def scenario(table):
        with pytest.raises(ConfigError):
            await table.deploy(name, packages[1][0], version=version, digest=packages[1][1])

    on_table(tmp_path / "home", scenario)


def test_a_restart_serves_the_same_and_can_still_roll_back(tmp_path, packages):
    home = tmp_path / "home"

    async def before(table):
        await deploy(table, packages, 1)
        await deploy(table, packages, 2)

    async def after(table):
        assert not table.restored
        await table.restore()
        assert table.restored
        assert await light(table) == 0.2
        assert (await table.rollback("tiny"))["version"] == "1"
        assert await light(table) == 0.1

    on_table(home, before)
    on_table(home, after)
    on_table(home, restored_light)


def test_a_package_damaged_on_disk_is_reported_and_stops_no_other_model(tmp_path, packages):
    home = tmp_path / "home"

    async def before(table):
        await deploy(table, packages, 1)
        await table.deploy("other", packages[2][0], version="2", digest=packages[2][1])

    async def after(table):
        await table.restore()
        with pytest.raises(UnavailableError, match=r"model\.onnx is missing"):
            table.get("other")
        assert await light(table) == 0.1
        served = await table.deploy("other", packages[2][0], version="2", digest=packages[2][1])
        assert (served["ready"], table.unready()) == (True, {})

    on_table(home, before)
    (home / "models" / "other" / f"2-{packages[2][1][:8]}" / "model.onnx").unlink()
    on_table(home, after)


def test_a_removed_model_is_gone_after_a_restart_too(tmp_path, packages):
    home = tmp_path / "home"

    async def before(table):
        await deploy(table, packages, 1)
        await table.remove("tiny")
        with pytest.raises(UnknownModelError):
            table.get("tiny")
        with pytest.raises(UnknownModelError):
            await table.remove("tiny")

    async def after(table):
        await table.restore()
        assert table.active_versions() == []

    on_table(home, before)
    on_table(home, after)
    assert records(home) == [("deploy", "1"), ("remove", "1")]


def test_requests_taken_in_before_a_swap_are_answered_by_what_they_met(tmp_path, packages):
    async def scenario(table):
        await deploy(table, packages, 1)
        early = [table.get("tiny").batcher.submit_future(SampleJob(picture(0))) for _ in range(100)]
        await deploy(table, packages, 2)
        late = [table.get("tiny").batcher.submit_future(SampleJob(picture(0))) for _ in range(100)]
        answers = await asyncio.gather(*early, *late)
        values = [round(answer["probabilities"]["light"], 4) for answer in answers]
        assert values == [expected(0, 0.1)["probabilities"]["light"]] * 100 + [0.2] * 100

    on_table(tmp_path / "home", scenario)


HALF = Rollout(kind="canary", steps=(50, 100), step_seconds=60, min_requests=100)


def test_a_canary_answers_its_share_and_a_key_always_meets_the_same_version(tmp_path, packages):
    home = tmp_path / "home"
    keys = [f"user {i}" for i in range(2000)]
    split = {}

    async def scenario(table):
        await deploy(table, packages, 1)
        first = await deploy(table, packages, 2, HALF)
        assert (first["version"], first["changed"]) == ("1", True)
        assert (first["challenger"]["version"], first["challenger"]["weight"]) == ("2", 0.5)
        split["before"] = [table.route("tiny", key=key).release.version for key in keys]
        assert split["before"] == [table.route("tiny", key=key).release.version for key in keys]
        assert 900 < split["before"].count("2") < 1100  # 4.5 standard deviations
        assert 900 < sum(table.route("tiny").release.version == "2" for _ in keys) < 1100
        assert {table.route("tiny", version=v, key="x").release.version for v in "12"} == {"1", "2"}
        assert not (await deploy(table, packages, 2, HALF))["changed"]
        await table.step("tiny", 1)
        assert {table.route("tiny", key=key).release.version for key in keys} == {"2"}
        assert [(live.release.version, share) for live, share in table.active_versions()] == [("1", 0), ("2", 1)]
        await deploy(table, packages, 2, HALF.model_copy(update={"steps": (10, 50, 100)}))
        small = [table.route("tiny", key=key).release.version for key in keys]
        assert 140 < small.count("2") < 260
        assert all(b == "2" for a, b in zip(small, split["before"], strict=True) if a == "2")  # a ramp takes none away

    async def restarted(table):
        await table.restore()
        assert table.about("tiny")["challenger"]["steps"] == [10, 50, 100]
        await table.step("tiny", 1)
        assert [table.route("tiny", key=key).release.version for key in keys] == split["before"]

    on_table(home, scenario)
    on_table(home, restarted)
    actions = [("deploy", "1"), ("canary", "2"), ("step", "2"), ("canary", "2"), ("step", "2")]
    assert records(home) == actions


def test_a_challenger_is_promoted_or_taken_away_without_being_loaded_again(tmp_path, packages):
    home = tmp_path / "home"

    async def scenario(table):
        with pytest.raises(UnknownModelError):
            await table.promote("tiny")
        await deploy(table, packages, 1, HALF)  # the first one answers at once
        assert table.about("tiny")["challenger"] is None
        with pytest.raises(ConflictError, match="no challenger"):
            await table.promote("tiny")
        await deploy(table, packages, 2, Rollout(kind="hold"))
        challenger = table.get("tiny", "2")
        assert {table.route("tiny").release.version for _ in range(50)} == {"1"}
        with pytest.raises(ConflictError, match="version 9"):
            await table.promote("tiny", only="9")
        await table.promote("tiny")
        assert table.get("tiny") is challenger
        assert table.about("tiny")["previous"] == "1"
        assert table.get("tiny", "1").release.version == "1"
        await deploy(table, packages, 0, HALF)
        await table.rollback("tiny", only="0")
        assert (table.get("tiny"), table.about("tiny")["previous"]) == (challenger, "1")
        with pytest.raises(ConflictError, match="is 2, not 0"):
            await table.rollback("tiny", only="0")
        before = table.get("tiny", "1")
        await table.rollback("tiny")
        assert table.get("tiny") is before
        await deploy(table, packages, 2, Rollout(kind="hold"))
        held = table.get("tiny", "2")
        await deploy(table, packages, 2)  # at once, now
        assert table.get("tiny") is held
        with pytest.raises(UnknownModelError, match="no version '0' here"):
            table.route("tiny", version="0")

    on_table(home, scenario)
    kept = {path.name[0] for path in (home / "models" / "tiny").iterdir()}
    assert kept == {"1", "2", "d"}


def test_a_challenger_that_cannot_be_loaded_changes_nothing_and_is_left_out_of_a_restart(tmp_path, packages):
    home = tmp_path / "home"

    async def scenario(table):
        await deploy(table, packages, 1)
        refused_graph(tmp_path / "bad")
        digest = digest_of_folder(tmp_path / "bad")
        with pytest.raises(ArtifactError, match="ONNX Runtime refuses"):
            await table.deploy("tiny", tmp_path / "bad", version="3", digest=digest, rollout=HALF)
        assert table.about("tiny")["challenger"] is None
        await deploy(table, packages, 2, HALF)

    async def restarted(table):
        await table.restore()
        assert (table.about("tiny")["version"], table.about("tiny")["challenger"]) == ("1", None)

    on_table(home, scenario)
    next((home / "models" / "tiny").glob("2-*/model.onnx")).unlink()
    on_table(home, restarted)
    assert records(home)[-1] == ("back", "2")


def test_a_previous_version_on_disk_only_is_loaded_by_the_rollback(tmp_path, packages):
    async def scenario():
        table = ModelTable(tmp_path, workers=1, previous="disk")
        await deploy(table, packages, 1)
        await deploy(table, packages, 2)
        with pytest.raises(UnknownModelError):
            table.get("tiny", "1")
        await table.rollback("tiny")
        assert await light(table) == 0.1
        await table.close()

    asyncio.run(scenario())


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def answered(table, version, requests, *, errors=0, light=0.1):
    """What the tallies would hold after so many requests."""
    tally = table.get("tiny", version).tally
    for i in range(requests):
        tally.request(500 if i < errors else 200, 0.01 + i / 1e5)
    tally.outputs({"probabilities": np.tile(np.float32([[1 - light, light]]), (requests, 1))})


def test_a_good_canary_becomes_the_champion_step_by_step(tmp_path, packages):
    home, clock = tmp_path / "home", Clock()

    async def scenario(table):
        controller = Controller(table, clock=clock)
        await deploy(table, packages, 1)
        await deploy(table, packages, 2, HALF)
        await controller.tick()
        assert table.about("tiny")["challenger"]["progress"]["reason"] == "0 of 100 requests, 0 of 60 s"
        answered(table, "1", 100)
        answered(table, "2", 100)
        clock.now = 59
        await controller.tick()
        assert table.about("tiny")["challenger"]["step"] == 0
        clock.now = 60
        await controller.tick()
        assert table.about("tiny")["challenger"]["step"] == 1
        await controller.tick()
        answered(table, "2", 100)  # alone, and judged beside what the champion did in the step before
        clock.now = 121
        await controller.tick()
        assert (table.about("tiny")["version"], table.about("tiny")["challenger"]) == ("2", None)

    on_table(home, scenario)
    assert records(home) == [("deploy", "1"), ("canary", "2"), ("step", "2"), ("promote", "2")]
    told = [json.loads(line) for line in (home / "deployments.jsonl").read_text().splitlines()]
    assert [t.get("weight") for t in told] == [None, None, 0.5, 1.0]
    assert told[-1]["figures"]["challenger"]["requests"] == told[-1]["figures"]["champion"]["requests"] == 100
    assert told[-1]["reason"] == "no problem found after 100 requests"


def test_a_bad_canary_is_taken_back_at_its_first_step_and_at_its_last(tmp_path, packages):
    home, clock = tmp_path / "home", Clock()

    async def scenario(table):
        controller = Controller(table, clock=clock)
        await deploy(table, packages, 1)
        await deploy(table, packages, 2, HALF)
        await controller.tick()
        answered(table, "1", 100)
        answered(table, "2", 20, errors=10)
        await controller.tick()
        assert table.about("tiny")["challenger"] is None
        await deploy(table, packages, 2, HALF)
        await controller.tick()
        answered(table, "1", 100)
        answered(table, "2", 100)
        clock.now = 60
        await controller.tick()
        await controller.tick()
        answered(table, "2", 100, light=0.9)
        await controller.tick()
        assert (table.about("tiny")["version"], table.about("tiny")["challenger"]) == ("1", None)

    on_table(home, scenario)
    told = [json.loads(line) for line in (home / "deployments.jsonl").read_text().splitlines()]
    backs = [t for t in told if t["action"] == "back"]
    assert [t["version"] for t in backs] == ["2", "2"]
    assert "50.0% of its requests failed" in backs[0]["reason"]
    assert "its labels differ" in backs[1]["reason"]


@contextlib.contextmanager
def meanwhile(monkeypatch, table, change):
    """Something changes just before the figures of a model are told."""
    figures = table.figures

    async def changed(name):
        await change(name)
        return await figures(name)

    with monkeypatch.context() as patch:
        patch.setattr(table, "figures", changed)
        yield


def test_what_changes_while_a_canary_is_judged_does_not_end_the_judging(tmp_path, packages, monkeypatch):
    async def scenario(table):
        controller = Controller(table, clock=Clock())
        await deploy(table, packages, 1)
        await deploy(table, packages, 2, HALF)
        with meanwhile(monkeypatch, table, table.rollback):
            await controller.tick()
        assert table.about("tiny")["challenger"] is None
        await deploy(table, packages, 2, HALF)
        await controller.tick()
        assert table.about("tiny")["challenger"]["progress"]["verdict"] == "wait"

    on_table(tmp_path / "home", scenario)


def test_figures_of_another_step_are_not_judged(tmp_path, packages, monkeypatch):
    async def scenario(table):
        controller = Controller(table, clock=Clock())
        await deploy(table, packages, 1)
        await deploy(table, packages, 2, HALF)
        with meanwhile(monkeypatch, table, lambda name: table.step(name, 1)):
            await controller.tick()
        assert "tiny" not in table.progress

    on_table(tmp_path / "home", scenario)


def test_a_shadow_that_ended_gets_no_more_copies(tmp_path, packages):
    async def scenario(table):
        await deploy(table, packages, 1)
        await deploy(table, packages, 2, Rollout(kind="shadow", share=100))
        assert table.get("tiny").batcher.mirror is not None
        await table.rollback("tiny")
        assert table.get("tiny").batcher.mirror is None

    on_table(tmp_path / "home", scenario)
