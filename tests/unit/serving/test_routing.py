import asyncio
import json

import pytest
from tiny_packages import expected, make_package, picture

from lepton_tasks.core.errors import ArtifactError, ConfigError, UnavailableError
from lepton_tasks.core.store import digest_of, sha256_file
from lepton_tasks.serving.errors import ConflictError, UnknownModelError
from lepton_tasks.serving.routing import ModelTable
from lepton_tasks.serving.samples import SampleJob


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


async def deploy(table, packages, i):
    folder, digest = packages[i]
    return await table.deploy("tiny", folder, version=str(i), digest=digest)


async def light(table):
    answer = await table.get("tiny").batcher.ask(SampleJob(picture(0)))
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
        assert table.live() == []

    on_table(home, before)
    on_table(home, after)
    assert records(home) == [("deploy", "1"), ("remove", "1")]


def test_requests_taken_in_before_a_swap_are_answered_by_what_they_met(tmp_path, packages):
    async def scenario(table):
        await deploy(table, packages, 1)
        early = [table.get("tiny").batcher.ask(SampleJob(picture(0))) for _ in range(100)]
        await deploy(table, packages, 2)
        late = [table.get("tiny").batcher.ask(SampleJob(picture(0))) for _ in range(100)]
        answers = await asyncio.gather(*early, *late)
        values = [round(answer["probabilities"]["light"], 4) for answer in answers]
        assert values == [expected(0, 0.1)["probabilities"]["light"]] * 100 + [0.2] * 100

    on_table(tmp_path / "home", scenario)
