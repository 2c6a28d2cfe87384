import asyncio
import contextlib

import pytest
from tiny_packages import make_package

from lepton_tasks.core.errors import ArtifactError, UnavailableError
from lepton_tasks.serving.versions import fleet
from lepton_tasks.serving.versions.fleet import Fleet
from lepton_tasks.serving.versions.routing import ModelTable


def together(home, answer, talk):
    """What `talk` gives, of a process beside one that answers with `answer`."""

    async def scenario():
        one, other = Fleet(home, 0, 2), Fleet(home, 1, 2)
        await other.listen(answer)
        try:
            return await asyncio.wait_for(talk(one), 10)
        finally:
            other.close()
            one.close()

    return asyncio.run(scenario())


async def serve(one):
    async with one.prepare(op="serve", name="tiny"):
        return "decided"


async def hangs(line, message):
    await asyncio.sleep(3600)


def test_one_that_hangs_is_not_waited_for(tmp_path):
    assert together(tmp_path, hangs, lambda one: one.broadcast(op="figures", seconds=0.05)) == []


def test_one_that_is_gone_says_nothing(tmp_path):
    async def goes(line, message):
        line.close()

    assert together(tmp_path, goes, lambda one: one.broadcast(op="figures")) == []
    assert together(tmp_path, goes, serve) == "decided"


def test_one_that_dies_or_hangs_once_it_is_decided_changes_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(fleet, "_REPLY_TIMEOUT", 0.05)

    async def dies(line, message):
        await line.send({})
        line.close()

    async def sticks(line, message):
        await line.send({})
        await asyncio.sleep(3600)

    assert together(tmp_path, dies, serve) == "decided"
    assert together(tmp_path, sticks, serve) == "decided"


def test_what_one_cannot_serve_none_does(tmp_path, monkeypatch):
    async def refuses(line, message):
        await line.send({"error": "no such graph"})

    with pytest.raises(ArtifactError, match="no such graph"):
        together(tmp_path, refuses, serve)
    monkeypatch.setattr(fleet, "_PREPARE_TIMEOUT", 0.05)
    with pytest.raises(UnavailableError, match="does not answer"):
        together(tmp_path, hangs, serve)


@pytest.mark.parametrize(("decided", "served"), [(True, ["tiny"]), (False, [])])
def test_of_one_that_died_in_between_the_disk_knows_what_it_decided(tmp_path, decided, served):
    class Dying(Fleet):
        @contextlib.asynccontextmanager
        async def prepare(self, **message):
            async with self._connect() as (line,):
                assert await line.request(message, seconds=30) == {}
                if not decided:
                    raise UnavailableError("killed")
                yield  # the state is written, and nobody is told

    async def scenario():
        first, second = Dying(tmp_path, 0, 2), Fleet(tmp_path, 1, 2)
        one, other = (ModelTable(tmp_path, workers=1, fleet=fleet) for fleet in (first, second))
        await other.restore()
        with contextlib.nullcontext() if decided else pytest.raises(UnavailableError, match="killed"):
            await one.deploy("tiny", tmp_path / "package", version="1", digest=digest)
        for _ in range(200):
            if other.names() == served and not other._lock.locked():
                break
            await asyncio.sleep(0.01)
        found = other.names()
        for table, member in ((one, first), (other, second)):
            await table.close()
            member.close()
        return found

    digest = make_package(tmp_path / "package")
    assert asyncio.run(scenario()) == served


def test_one_leads_until_it_has_ended(tmp_path):
    one, other = Fleet(tmp_path, 0, 2), Fleet(tmp_path, 1, 2)
    assert (one.is_leader(), other.is_leader(), one.is_leader()) == (True, False, True)
    one.close()
    assert other.is_leader()
    other.close()
