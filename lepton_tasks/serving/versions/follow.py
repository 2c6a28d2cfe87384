"""Follow the aliases of the model registry, and report the server's own decisions to it."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import logging
import shutil
import tempfile
from pathlib import Path
from typing import Literal

from lepton_tasks.core.errors import ArtifactError, LeptonError, UnavailableError
from lepton_tasks.core.rollout import Rollout
from lepton_tasks.core.store import write_json
from lepton_tasks.serving.versions.releases import State
from lepton_tasks.serving.versions.routing import ModelTable
from lepton_tasks.tracking import registry

_BY = "registry"
_SEEN_FILE, _FETCHED = "followed.json", ".fetched-"
_LONGEST_PAUSE_SECONDS = 60.0

_log = logging.getLogger("lepton.serving.follow")


@dataclasses.dataclass(frozen=True)
class Following:
    """Which registry is followed, and how.

    Attributes:
        url: MLflow's address.
        challenger: How a version with the alias ``challenger`` is served.
        every: Seconds between two looks.
    """

    url: str
    challenger: Literal["off", "hold", "shadow", "canary"] = "off"
    every: float = 5.0


class Follower:
    """Deploys what the aliases ``champion`` and ``challenger`` point to whenever they are moved.

    Only a move counts, seen twice in a row: whoever deploys to the server and then moves the aliases, as a run does, is
    not interfered with. While the registry is away, what is served still is.

    Args:
        table: The models.
        home: State folder of the server.
        following: What is followed, and how.
    """

    def __init__(self, table: ModelTable, home: Path, following: Following) -> None:
        self._table, self._home, self._url, self._every = table, home, following.url, following.every
        self._challenger = following.challenger
        self._seen: dict[str, dict[str, str]] = {}
        self._before: dict[str, dict[str, str]] = {}

    async def run(self) -> None:
        """Look again and again until cancelled; ever more seldom while the registry does not answer."""
        pause = self._every
        while True:
            await asyncio.sleep(pause)
            if not (self._table.restored and self._table.leads()):
                continue
            try:
                await asyncio.to_thread(self._clear)
                await self.poll()
                pause = self._every
            except Exception as error:  # noqa: BLE001  # whatever it is, the server goes on, and looks again
                if pause == self._every:
                    _log.warning("the model registry cannot be followed; what is served still is: %s", error)
                pause = min(_LONGEST_PAUSE_SECONDS, max(2 * pause, self._every))

    async def poll(self) -> None:
        """Look once, and act on what has changed.

        Raises:
            UnavailableError: the registry does not answer.
        """
        self._seen = await asyncio.to_thread(self._read)
        found = await asyncio.to_thread(registry.aliases, self._url)
        for name, aliases in found.items():
            await self._follow_champion(name, aliases.get(registry.CHAMPION))
            await self._withdraw(name, aliases.get(registry.CHALLENGER))
            if self._challenger != "off":
                await self._follow_challenger(name, aliases.get(registry.CHALLENGER))
        self._before = found

    async def _follow_champion(self, name: str, wanted: str | None) -> None:
        state = self._table.state(name)
        current = state.current.version if state else None
        if wanted is not None and wanted == current:
            await self._note(name, registry.CHAMPION, wanted)
            if state and state.unannounced:
                await self._table.announced(name)
        elif state and state.unannounced and wanted == self._seen.get(name, {}).get(registry.CHAMPION, wanted):
            await self._note(name, registry.CHAMPION, await self._tell(name, state) or wanted or "")
            await self._table.announced(name)
        elif wanted is not None and self._moved(name, registry.CHAMPION, wanted):
            await self._deploy(name, wanted, Rollout(), registry.CHAMPION)

    async def _tell(self, name: str, state: State) -> str | None:
        """Move the aliases to what is served; returns the champion, or None if the registry does not know it."""
        champion, previous = state.current.version, state.previous.version if state.previous else None
        try:
            await asyncio.to_thread(registry.crown, self._url, name, champion, previous)
        except ArtifactError as error:  # it was never registered
            _log.warning("the registry is not told of version %s of %s: %s", champion, name, error)
            return None
        _log.info("the registry's champion of %s is version %s now", name, champion)
        return champion

    async def _withdraw(self, name: str, wanted: str | None) -> None:
        """Take the alias ``challenger`` from a version that was taken back here."""
        state = self._table.state(name)
        if state is None or not state.withdrawn or state.unannounced:
            return
        if wanted == state.withdrawn:
            await self._note(name, registry.CHALLENGER, wanted)  # so that it is not followed once more
            await asyncio.to_thread(registry.set_alias, self._url, name, registry.CHALLENGER, None)
        await self._table.announced(name)

    async def _follow_challenger(self, name: str, wanted: str | None) -> None:
        state = self._table.state(name)
        if state is None:
            return
        running = state.challenger.release.version if state.challenger else None
        if wanted in (running, state.current.version) and wanted is not None:
            await self._note(name, registry.CHALLENGER, wanted)
        elif wanted is None and running is not None and running == self._seen.get(name, {}).get(registry.CHALLENGER):
            await self._table.rollback(name, by=_BY, only=running)
            await self._note(name, registry.CHALLENGER, "")
        elif wanted is None:
            await self._note(name, registry.CHALLENGER, "")
        elif self._moved(name, registry.CHALLENGER, wanted):
            if state.challenger is not None and state.challenger.plan.kind == "canary":
                return  # it is being judged; the next one's turn comes later
            await self._deploy(name, wanted, Rollout(kind=self._kind()), registry.CHALLENGER)

    def _kind(self) -> Literal["hold", "shadow", "canary"]:
        return "hold" if self._challenger == "off" else self._challenger

    def _moved(self, name: str, alias: str, wanted: str) -> bool:
        """Whether the alias points elsewhere than when it was last acted on, and did so a moment ago, too."""
        return wanted != self._seen.get(name, {}).get(alias) and wanted == self._before.get(name, {}).get(alias)

    async def _deploy(self, name: str, version: str, rollout: Rollout, alias: str) -> None:
        """Fetch and deploy a version; one that cannot be used is not tried again until the alias is moved."""
        try:
            found = await asyncio.to_thread(registry.version, self._url, name, version)
            digest = found["tags"].get("lepton.package_digest") if found else None
            if found is None or digest is None:
                raise ArtifactError("it has no model package.", where=f"version {version} of {name} in {self._url}")
            with tempfile.TemporaryDirectory(dir=self._home, prefix=_FETCHED) as folder:
                await asyncio.to_thread(registry.download, self._url, found["run_id"], Path(folder))
                await self._table.deploy(
                    name, Path(folder), version=version, digest=digest, by=_BY, rollout=rollout, announce=False
                )
            self._table.refused.pop(name, None)
            _log.info("version %s of %s is deployed, as the registry's %s", version, name, alias)
        except UnavailableError:
            raise
        except LeptonError as error:
            self._table.refused[name] = {"version": version, "reason": str(error)}
            _log.error("version %s of %s is refused; what is served still is: %s", version, name, error)
        await self._note(name, alias, version)

    async def _note(self, name: str, alias: str, version: str) -> None:
        """Remember what the alias was acted on for, over a restart, too."""
        if self._seen.get(name, {}).get(alias) != version:
            self._seen.setdefault(name, {})[alias] = version
            await asyncio.to_thread(write_json, self._home / _SEEN_FILE, self._seen)

    def _clear(self) -> None:
        """Remove what a process that was killed had fetched; only one fetches, and not now."""
        for left in self._home.glob(f"{_FETCHED}*"):
            shutil.rmtree(left, ignore_errors=True)

    def _read(self) -> dict[str, dict[str, str]]:
        try:
            found: dict[str, dict[str, str]] = json.loads((self._home / _SEEN_FILE).read_text())
            return found
        except FileNotFoundError:
            return {}
