"""Follow the aliases of the model registry, and report the server's own decisions to it."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import logging
import shutil
import tempfile
import time
from pathlib import Path
from typing import Literal

from lepton_tasks.core.errors import ArtifactError, LeptonError, UnavailableError
from lepton_tasks.core.rollout import Rollout
from lepton_tasks.core.store import write_json
from lepton_tasks.serving.versions.releases import State
from lepton_tasks.serving.versions.routing import ModelTable
from lepton_tasks.tracking import registry

_BY = "registry"
_HANDLED_FILE, _CAUGHT_UP_FILE, _FETCHED = "followed.json", "caught-up", ".fetched-"
_MAX_PAUSE_SECONDS, _MAX_STARTUP_PAUSE_SECONDS = 60.0, 5.0  # the second while nobody is answered
_LOADING_SECONDS = 0.1

_log = logging.getLogger("lepton.serving.follow")


@dataclasses.dataclass(frozen=True)
class Following:
    """Which registry is followed, and how.

    Attributes:
        url: MLflow's address.
        challenger: How a version with the alias ``challenger`` is served.
        every: Seconds between two looks.
        start: Tells this start of the server from those before; the same in all its processes.
    """

    url: str
    challenger: Literal["off", "hold", "shadow", "canary"] = "off"
    every: float = 5.0
    start: str = ""


class Follower:
    """Deploys what the aliases ``champion`` and ``challenger`` point to whenever they are moved.

    Only a move counts, seen twice in a row: whoever deploys to the server and then moves the aliases, as a run does, is
    not interfered with. A server that has just started acts at once, and is not ready before it serves every champion:
    see `behind`. While the registry is away, what is served still is.

    Args:
        table: The models.
        home: State folder of the server.
        following: What is followed, and how.
    """

    def __init__(self, table: ModelTable, home: Path, following: Following) -> None:
        self._table, self._home, self._url, self._every = table, home, following.url, following.every
        self._challenger, self._start = following.challenger, following.start
        self._current, self._behind = False, "the model registry has not been polled yet."
        self._without_package: set[str] = set()  # models whose champion has no package of ours
        self._handled: dict[str, dict[str, str]] = {}
        self._last_poll: dict[str, dict[str, str]] = {}

    def behind(self) -> str:
        """Why the server does not yet serve what the registry said when it started; empty once it does.

        Once it did, it stays so: a version that is refused later, or a registry that goes away, ends no service.
        """
        if not self._current:
            self._current = self._caught_up() == self._start
        return "" if self._current else self._behind

    async def run(self) -> None:
        """Look again and again until cancelled; ever more seldom while the registry does not answer."""
        while not self._table.restored:
            await asyncio.sleep(_LOADING_SECONDS)
        pause, failing = 0.0, False
        while True:
            await asyncio.sleep(pause)
            if not self._table.is_leader():
                pause = self._every
                continue
            try:
                await asyncio.to_thread(self._remove_leftovers)
                await self.poll()
                pause, failing = self._every, False
            except Exception as error:  # noqa: BLE001  # whatever it is, the server goes on, and looks again
                if not failing:
                    _log.warning("the model registry cannot be followed; serving is unchanged: %s", error)
                failing, self._behind = True, f"the model registry cannot be followed: {error}"
                if (
                    self.behind() and self._caught_up() is not None
                ):  # an earlier start of this server has left what to serve
                    await asyncio.to_thread(self._set_caught_up)
                longest = _MAX_STARTUP_PAUSE_SECONDS if self.behind() else _MAX_PAUSE_SECONDS
                pause = min(longest, max(2 * pause, self._every))

    async def poll(self) -> None:
        """Look once, and act on what has changed.

        Raises:
            UnavailableError: the registry does not answer.
        """
        self._handled = await asyncio.to_thread(self._read_handled)
        found = await asyncio.to_thread(registry.aliases, self._url)
        for name, aliases in found.items():
            await self._follow_champion(name, aliases.get(registry.CHAMPION))
            await self._withdraw(name, aliases.get(registry.CHALLENGER))
            if self._challenger != "off":
                await self._follow_challenger(name, aliases.get(registry.CHALLENGER))
        self._last_poll = found
        if self.behind():
            missing = [
                name
                for name, aliases in found.items()
                if registry.CHAMPION in aliases
                and name not in self._without_package
                and self._table.state(name) is None
            ]
            self._behind = f"not served: {'; '.join(self._table.unready().get(name, name) for name in missing)}"
            if not missing:
                await asyncio.to_thread(self._set_caught_up)

    async def _follow_champion(self, name: str, wanted: str | None) -> None:
        state = self._table.state(name)
        current = state.current.version if state else None
        if wanted is not None and wanted == current:
            await self._remember(name, registry.CHAMPION, wanted)
            if name in self._table.refused:
                await self._table.publish_status(name, "refused", None)
            if state and state.unannounced:
                await self._table.mark_announced(name)
        elif state and state.unannounced and wanted == self._handled.get(name, {}).get(registry.CHAMPION, wanted):
            await self._remember(name, registry.CHAMPION, await self._update_registry(name, state) or wanted or "")
            await self._table.mark_announced(name)
        elif wanted is not None and self._moved(name, registry.CHAMPION, wanted):
            await self._deploy(name, wanted, Rollout(), registry.CHAMPION)
        elif wanted is None and name in self._table.refused:
            await self._table.publish_status(name, "refused", None)
            await self._remember(name, registry.CHAMPION, "")
        elif state and wanted is None and self._alias_removed(name, state):
            await self._table.remove(name, by=_BY)
            await self._remember(name, registry.CHAMPION, "")
            _log.warning("%s is served no more: nothing is its champion in the registry", name)

    async def _update_registry(self, name: str, state: State) -> str | None:
        """Move the aliases to what is served; returns the champion, or None if the registry does not know it."""
        champion, previous = state.current.version, state.previous.version if state.previous else None
        try:
            await asyncio.to_thread(registry.set_champion, self._url, name, champion, previous)
        except ArtifactError as error:  # it was never registered
            _log.warning("the registry was not updated to version %s of %s: %s", champion, name, error)
            return None
        _log.info("the registry's champion of %s is version %s now", name, champion)
        return champion

    async def _withdraw(self, name: str, wanted: str | None) -> None:
        """Take the alias ``challenger`` from a version that was taken back here."""
        state = self._table.state(name)
        if state is None or not state.withdrawn or state.unannounced:
            return
        if wanted == state.withdrawn:
            await self._remember(name, registry.CHALLENGER, wanted)  # so that it is not followed once more
            await asyncio.to_thread(registry.set_alias, self._url, name, registry.CHALLENGER, None)
        await self._table.mark_announced(name)

    async def _follow_challenger(self, name: str, wanted: str | None) -> None:
        state = self._table.state(name)
        if state is None:
            return
        running = state.challenger.release.version if state.challenger else None
        if wanted in (running, state.current.version) and wanted is not None:
            await self._remember(name, registry.CHALLENGER, wanted)
        elif wanted is None and running is not None and running == self._handled.get(name, {}).get(registry.CHALLENGER):
            await self._table.rollback(name, by=_BY, only=running)
            await self._remember(name, registry.CHALLENGER, "")
        elif wanted is None:
            await self._remember(name, registry.CHALLENGER, "")
        elif self._moved(name, registry.CHALLENGER, wanted):
            if state.challenger is not None and state.challenger.plan.kind == "canary":
                return  # it is being judged; the next one's turn comes later
            await self._deploy(name, wanted, Rollout(kind=self._kind()), registry.CHALLENGER)

    def _kind(self) -> Literal["hold", "shadow", "canary"]:
        return "hold" if self._challenger == "off" else self._challenger

    def _moved(self, name: str, alias: str, wanted: str) -> bool:
        """Whether the alias points elsewhere than when it was last acted on, and did so a moment ago, too.

        When the server has just started, nobody is in the middle of deploying to it; and what it lacks, it tries once.
        """
        seen = self._handled.get(name, {}).get(alias)
        if not self.behind():
            return wanted != seen and wanted == self._last_poll.get(name, {}).get(alias)
        lacks = self._table.state(name) is None and self._table.refused.get(name, {}).get("version") != wanted
        return wanted != seen or lacks

    def _alias_removed(self, name: str, state: State) -> bool:
        """Whether the alias ``champion`` pointed to what is served, and is gone, and was so a moment ago, too."""
        followed = self._handled.get(name, {}).get(registry.CHAMPION) == state.current.version and not state.unannounced
        return followed and registry.CHAMPION not in self._last_poll.get(name, {registry.CHAMPION: ""})

    async def _deploy(self, name: str, version: str, rollout: Rollout, alias: str) -> None:
        """Fetch and deploy a version; one that cannot be used is not tried again until the alias is moved."""
        try:
            found = await asyncio.to_thread(registry.version, self._url, name, version)
            digest = found["tags"].get("lepton.package_digest") if found else None
            (self._without_package.discard if digest else self._without_package.add)(name)
            if found is None or digest is None:
                raise ArtifactError("it has no model package.", where=f"version {version} of {name} in {self._url}")
            with tempfile.TemporaryDirectory(dir=self._home, prefix=_FETCHED) as folder:
                await asyncio.to_thread(registry.download, self._url, found["run_id"], Path(folder))
                await self._table.deploy(
                    name, Path(folder), version=version, digest=digest, by=_BY, rollout=rollout, announce=False
                )
            await self._table.publish_status(name, "refused", None)
            _log.info("version %s of %s is deployed, as the registry's %s", version, name, alias)
        except UnavailableError:
            raise
        except LeptonError as error:
            # The time tells this refusal from an earlier one of the same version.
            refused = {"version": version, "reason": str(error), "time": time.time()}
            await self._table.publish_status(name, "refused", refused)
            _log.error("version %s of %s is refused; serving is unchanged: %s", version, name, error)
        await self._remember(name, alias, version)

    async def _remember(self, name: str, alias: str, version: str) -> None:
        """Remember what the alias was acted on for, over a restart, too."""
        if self._handled.get(name, {}).get(alias) != version:
            self._handled.setdefault(name, {})[alias] = version
            await asyncio.to_thread(write_json, self._home / _HANDLED_FILE, self._handled)

    def _remove_leftovers(self) -> None:
        """Remove what a process that was killed had fetched; only one fetches, and not now."""
        for left in self._home.glob(f"{_FETCHED}*"):
            shutil.rmtree(left, ignore_errors=True)

    def _caught_up(self) -> str | None:
        """The start of the server that last served what the registry said; None if none ever did."""
        try:
            return (self._home / _CAUGHT_UP_FILE).read_text()
        except FileNotFoundError:
            return None

    def _set_caught_up(self) -> None:
        """Let all processes of the server know that it may be asked now."""
        part = self._home / f"{_CAUGHT_UP_FILE}.part"
        part.write_text(self._start)
        part.replace(self._home / _CAUGHT_UP_FILE)
        self._current = True

    def _read_handled(self) -> dict[str, dict[str, str]]:
        try:
            found: dict[str, dict[str, str]] = json.loads((self._home / _HANDLED_FILE).read_text())
            return found
        except FileNotFoundError:
            return {}
