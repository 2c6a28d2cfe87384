import asyncio
import json

import pytest
from registry_server import model_registry
from tiny_packages import make_package

from lepton_tasks.core.errors import ArtifactError, UnavailableError
from lepton_tasks.core.rollout import Rollout
from lepton_tasks.serving.versions.follow import Follower, Following
from lepton_tasks.serving.versions.routing import ModelTable
from lepton_tasks.tracking import registry as mlflow_registry


@pytest.fixture
def registry(tmp_path):
    """Versions 1 to 3 of "tiny", and one that is damaged, 4."""
    with model_registry() as registry:
        for i in range(1, 5):
            registry.add("tiny", str(i), tmp_path / f"p{i}", make_package(tmp_path / f"p{i}", offset=i / 10))
        (tmp_path / "p4" / "card.md").write_text("another text")
        yield registry


def following(home, registry, scenario, **options):
    home.mkdir(exist_ok=True)

    async def run():
        table = ModelTable(home, workers=1)
        await table.restore()
        follower = Follower(table, home, Following(registry.url, **options))

        async def look(times=2):
            for _ in range(times):
                await follower.poll()
            return table.about("tiny")["version"] if table.names() else None

        try:
            return await scenario(table, look)
        finally:
            await table.close()

    return asyncio.run(run())


def actions(home):
    lines = (home / "deployments.jsonl").read_text().splitlines()
    return [(r["action"], r["version"], r["by"]) for r in map(json.loads, lines)]


def test_the_champion_is_deployed_once_its_alias_has_moved(tmp_path, registry):
    home = tmp_path / "home"

    async def scenario(table, look):
        assert await look() is None
        registry.aliases["tiny"]["champion"] = "1"
        assert await look(1) is None  # it could be in the middle of a run that deploys by itself
        assert await look(1) == "1"
        assert await look() == "1"
        registry.aliases["tiny"]["champion"] = "2"
        assert await look() == "2"
        registry.aliases["tiny"]["champion"] = "1"  # back, as somebody does in MLflow's page
        assert await look() == "1"

    async def restarted(table, look):
        assert table.about("tiny")["version"] == "1"
        registry.aliases["tiny"]["champion"] = "3"
        assert await look() == "3"

    following(home, registry, scenario)
    following(home, registry, restarted)
    assert actions(home) == [("deploy", v, "registry") for v in ("1", "2", "1", "3")]


def test_a_server_that_starts_acts_at_once_and_one_without_a_champion_serves_no_more(tmp_path, registry):
    home = tmp_path / "home"

    async def scenario(table, look):
        registry.aliases["tiny"]["champion"] = "1"
        assert await look(1) == "1"
        del registry.aliases["tiny"]["champion"]
        assert await look(1) == "1"
        assert await look(1) is None

    following(home, registry, scenario, start="first")
    assert actions(home) == [("deploy", "1", "registry"), ("remove", "1", "registry")]


def test_a_damaged_package_is_refused_once_with_the_reason_and_the_last_good_one_answers(tmp_path, registry):
    async def scenario(table, look):
        registry.aliases["tiny"]["champion"] = "1"
        await look()
        registry.aliases["tiny"]["champion"] = "4"
        assert await look() == "1"
        refused = table.about("tiny")["refused"]
        assert (refused["version"], "card.md is missing or differs" in refused["reason"]) == ("4", True)
        asked = len(registry.calls)
        await look(3)
        assert len(registry.calls) == asked + 3  # the aliases only
        registry.aliases["tiny"]["champion"] = "2"
        assert await look() == "2"
        assert "refused" not in table.about("tiny")
        registry.aliases["tiny"]["champion"] = "9"
        (tmp_path / "empty").mkdir()
        registry.packages["tiny", "9"] = (tmp_path / "empty", "0" * 64)
        assert await look() == "2"
        assert "no model package" in table.about("tiny")["refused"]["reason"]
        registry.aliases["tiny"]["champion"] = "2"  # given up
        await look(1)
        assert "refused" not in table.about("tiny")
        registry.packages["tiny", "9"] = registry.packages["tiny", "3"]
        registry.aliases["tiny"]["champion"] = "9"  # and tried anew
        assert await look() == "9"

    following(tmp_path / "home", registry, scenario)
    assert not list((tmp_path / "home").glob(".fetched-*"))


def test_a_first_version_that_was_refused_and_given_up_is_tried_anew(tmp_path, registry):
    async def scenario(table, look):
        await look(1)
        registry.aliases["tiny"]["champion"] = "4"
        assert await look() is None
        assert "card.md" in table.unready()["tiny"]
        del registry.aliases["tiny"]["champion"]
        await look(1)
        assert table.unready() == {}
        registry.packages["tiny", "4"] = registry.packages["tiny", "3"]
        registry.aliases["tiny"]["champion"] = "4"
        assert await look() == "4"

    following(tmp_path / "home", registry, scenario)


def test_while_the_registry_is_away_what_is_served_still_is(tmp_path, registry):
    async def scenario(table, look):
        registry.aliases["tiny"]["champion"] = "1"
        await look()
        registry.away = True
        with pytest.raises(UnavailableError):
            await look()
        assert table.about("tiny")["version"] == "1"
        registry.aliases["tiny"]["champion"] = "2"
        registry.away = False
        assert await look(3) == "2"

    following(tmp_path / "home", registry, scenario)


def test_the_follower_backs_off_and_comes_back(tmp_path, registry):
    async def scenario(table, _):
        (tmp_path / ".fetched-killed").mkdir()
        follower = Follower(table, tmp_path, Following(registry.url, every=0.01))
        registry.away = True
        task = asyncio.create_task(follower.run())
        await asyncio.sleep(0.5)
        assert 3 <= len(registry.calls) <= 8  # after 0.01, 0.02, 0.04, ... seconds, not 50 times
        registry.away = False
        registry.aliases["tiny"]["champion"] = "1"
        async with asyncio.timeout(5):
            while not table.names():
                await asyncio.sleep(0.01)
        task.cancel()
        assert not (tmp_path / ".fetched-killed").exists()

    following(tmp_path / "home", registry, scenario)


def test_what_the_server_decided_itself_is_told_to_the_registry(tmp_path, registry):
    home = tmp_path / "home"

    async def scenario(table, look):
        registry.aliases["tiny"]["champion"] = "1"
        await look()
        folder, digest = registry.packages["tiny", "2"]
        rollout = Rollout(kind="canary")
        await table.deploy("tiny", folder, version="2", digest=digest, rollout=rollout)
        await look()
        assert registry.aliases["tiny"] == {"champion": "1"}
        registry.aliases["tiny"]["challenger"] = "2"
        await table.promote("tiny")
        assert await look() == "2"
        assert registry.aliases["tiny"] == {"champion": "2", "previous": "1"}
        await table.rollback("tiny")
        assert await look() == "1"
        assert registry.aliases["tiny"] == {"champion": "1"}

    following(home, registry, scenario)


@pytest.mark.parametrize("challenger", ["off", "canary"])
def test_a_canary_that_is_taken_back_is_no_challenger_in_the_registry_either(tmp_path, registry, challenger):
    async def scenario(table, look):
        registry.aliases["tiny"] |= {"champion": "1"}
        await look()
        folder, digest = registry.packages["tiny", "2"]
        await table.deploy("tiny", folder, version="2", digest=digest, rollout=Rollout(kind="canary"))
        registry.aliases["tiny"]["challenger"] = "2"
        await look(3)
        await table.rollback("tiny", by="rollout")
        await look(3)
        assert registry.aliases["tiny"] == {"champion": "1"}
        assert table.about("tiny")["challenger"] is None
        assert not table.state("tiny").withdrawn

    following(tmp_path / "home", registry, scenario, challenger=challenger)


def test_a_run_that_deploys_and_then_moves_the_alias_is_not_interfered_with(tmp_path, registry):
    async def scenario(table, look):
        for version in ("1", "2"):
            folder, digest = registry.packages["tiny", version]
            await table.deploy("tiny", folder, version=version, digest=digest)
            registry.aliases["tiny"]["champion"] = version
            assert await look(3) == version
        await table.remove("tiny")  # its smoke test failed
        assert await look(3) is None

    following(tmp_path / "home", registry, scenario)


def test_an_unregistered_version_is_served_all_the_same(tmp_path, registry):
    async def scenario(table, look):
        registry.aliases["tiny"]["champion"] = "1"
        await look()
        folder, digest = registry.packages.pop(("tiny", "3"))
        await table.deploy("tiny", folder, version="3", digest=digest)
        assert await look(3) == "3"
        assert registry.aliases["tiny"] == {"champion": "1"}

    following(tmp_path / "home", registry, scenario)


def test_the_challenger_alias_is_followed_as_asked(tmp_path, registry):
    async def scenario(table, look):
        registry.aliases["tiny"]["challenger"] = "2"
        assert await look() is None  # there is no champion yet
        registry.aliases["tiny"]["champion"] = "1"
        await look()
        assert await look() == "1"
        assert (table.about("tiny")["challenger"]["version"], table.get("tiny", "2").release.version) == ("2", "2")
        registry.aliases["tiny"]["challenger"] = "3"
        await look()
        assert table.about("tiny")["challenger"]["version"] == "3"
        del registry.aliases["tiny"]["challenger"]
        await look()
        assert table.about("tiny")["challenger"] is None

    following(tmp_path / "home", registry, scenario, challenger="hold")


def test_a_package_is_not_written_beside_its_folder(tmp_path, monkeypatch):
    listed = {"files": [{"path": "package/..", "is_dir": True}]}
    monkeypatch.setattr(mlflow_registry, "request_json", lambda *_, **__: listed)
    with pytest.raises(ArtifactError, match=r"'package/\.\.' has no name"):
        mlflow_registry.download("http://127.0.0.1:1", "run", tmp_path / "here")
