"""All changes of the served versions: deployment, challengers, rollback, restart, in all processes of a server."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import os
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Literal

from lepton_tasks.core.errors import LeptonError
from lepton_tasks.core.rollout import Rollout
from lepton_tasks.serving.errors import ConflictError
from lepton_tasks.serving.versions.fleet import Channel, Fleet
from lepton_tasks.serving.versions.live import Loader, Observer, Served
from lepton_tasks.serving.versions.lookup import Lookup, Topic
from lepton_tasks.serving.versions.releases import Challenge, Release, Releases, State
from lepton_tasks.serving.versions.shadow import ShadowFigures
from lepton_tasks.serving.versions.tally import Figures

_log = logging.getLogger("lepton.serving")


class ModelTable(Lookup):
    """The models of one server, with all changes of the served versions.

    All methods must be called in the event loop; files and graphs are read in threads.

    Args:
        home: State folder, see `Releases`.
        workers: Inference threads per version.
        previous: Whether the previous champion stays ``loaded``, for an instant rollback, or is on ``disk`` only, which
            saves its memory.
        observer: Returns, for a model and version, the function called with the timings of its batches.
        changed: Called after each change of the served versions.
        fleet: The other processes of the server, if there are several.
    """

    def __init__(
        self,
        home: Path,
        *,
        workers: int | None = None,
        previous: Literal["loaded", "disk"] = "loaded",
        observer: Observer | None = None,
        changed: Callable[[], None] = lambda: None,
        fleet: Fleet | None = None,
    ) -> None:
        super().__init__(changed)
        self._releases = Releases(home)
        workers = workers or max(1, min(8, (os.cpu_count() or 2) - 1))
        self._loader = Loader(self._releases, workers=workers, previous=previous == "loaded", observer=observer)
        self._fleet = fleet
        self._lock = asyncio.Lock()  # one change at a time

    async def restore(self) -> None:
        """Load the models served before the restart; one that fails does not affect the others.

        Previous versions are loaded last, when the server is already ready.
        """
        async with self._locked(shared=True):
            if self._fleet is not None:
                await self._fleet.listen(self._handle_message)
            names = self._releases.names()
            self._unready |= dict.fromkeys(names, "it is being loaded.")
            for name in names:
                try:
                    await self._restore(name, self._releases.read(name))
                except (LeptonError, OSError, ValueError, KeyError, TypeError) as error:
                    self._unready[name] = str(error)
                    _log.error("%s is not served: %s", name, error)
            self.restored = True
            for served in self.models():
                if served.state.previous is not None:
                    await self._add_previous(served)

    async def deploy(
        self,
        name: str,
        source: Path,
        *,
        version: str,
        digest: str,
        by: str = "",
        rollout: Rollout | None = None,
        announce: bool = True,
    ) -> dict[str, Any]:
        """Copy, verify, load and warm up a package, then serve it according to the rollout plan (immediate by default).

        The first version of a model is always served immediately.

        Args:
            name: The model.
            source: Folder of the package; not used if the version is already loaded.
            version: Version number in the model registry.
            digest: Expected digest of the package.
            by: Initiator, for the record.
            rollout: Rollout plan.
            announce: Whether to report a new champion to the model registry.

        Returns:
            The served model; ``changed`` is False if it was already served like this.

        Raises:
            ArtifactError: the package cannot be used; nothing has changed.
            ConfigError: the name or version is invalid.
        """
        plan = rollout or Rollout()
        async with self._locked():
            old = self._served.get(name)
            known = [live.release for live in old.versions()] if old else []
            release = next((r for r in known if (r.version, r.digest) == (version, digest)), None)
            if old and release is not None and _is_served(old.state, release, plan):
                return {**self.about(name), "changed": False}
            if release is None:
                release = await asyncio.to_thread(self._releases.place, name, source, version, digest)
            if old is None or plan.kind == "immediate":
                state = State(release, old.state.current if old else None, unannounced=announce)
                return await self._change(name, state, "deploy", release, by)
            spare = old.state.previous if old.state.previous != release else None
            challenge = Challenge(release, plan)
            state = dataclasses.replace(old.state, previous=spare, challenger=challenge, withdrawn="")
            return await self._change(name, state, plan.kind, release, by, plan=plan.model_dump(mode="json"))

    async def promote(self, name: str, *, by: str = "", only: str | None = None, **figures: Any) -> dict[str, Any]:
        """Make the challenger the champion.

        Args:
            name: The model.
            by: Initiator, for the record.
            only: Expected version of the challenger.
            figures: For the record.

        Raises:
            ConflictError: there is no challenger, or a different one.
        """
        async with self._locked():
            state, challenge = self._require_challenger(name, only)
            new = State(challenge.release, state.current, unannounced=True)
            return await self._change(name, new, "promote", challenge.release, by, **figures)

    async def step(
        self, name: str, step: int, *, by: str = "", only: str | None = None, **figures: Any
    ) -> dict[str, Any]:
        """Move the challenger to a step of its plan; arguments as for `promote`."""
        async with self._locked():
            state, challenge = self._require_challenger(name, only)
            new = dataclasses.replace(state, challenger=dataclasses.replace(challenge, step=step))
            return await self._change(name, new, "step", challenge.release, by, **figures)

    async def rollback(self, name: str, *, by: str = "", only: str | None = None, **figures: Any) -> dict[str, Any]:
        """Undo the last change: remove the challenger, or restore the previous champion.

        Args:
            name: The model.
            by: Initiator, for the record.
            only: Expected version to undo; None for the last one.
            figures: For the record.

        Raises:
            ConflictError: there is neither, or a different version; after a rollback there is no previous champion.
        """
        began = time.perf_counter()
        async with self._locked():
            state = self._served[name].state if name in self._served else await self._on_disk(name)
            last = state.challenger.release if state.challenger else state.current
            if only is not None and last.version != only:
                raise ConflictError(f"the last version of {name!r} is {last.version}, not {only}.")
            if state.challenger is not None:
                new, action = dataclasses.replace(state, challenger=None, withdrawn=last.version), "back"
            elif state.previous is not None:
                new, action = State(state.previous, unannounced=True), "rollback"
            else:
                raise ConflictError(f"{name!r} has no previous version to go back to.")
            release = last if action == "back" else new.current
            back = await self._change(name, new, action, release, by, **figures)
            return {**back, "undone": last.version, "seconds": round(time.perf_counter() - began, 4)}

    async def figures(self, name: str) -> dict[str, Figures]:
        """Recent figures of each loaded version of a model, over all processes of the server."""
        found = {live.release.version: live.tally.figures() for live in self.served(name).versions()}
        for reply in await self._fleet.broadcast(op="figures", name=name) if self._fleet else []:
            for version, figures in reply.items():
                found[version] = found.get(version, Figures()).plus(Figures.from_dict(figures))
        return found

    async def shadow_figures(self, name: str) -> ShadowFigures:
        """Comparison of the champion and its shadow, over all processes of the server."""
        found = self.shadow(name)
        for reply in await self._fleet.broadcast(op="shadow", name=name) if self._fleet else []:
            found = found.plus(ShadowFigures.from_dict(reply))
        return found

    async def publish_status(self, name: str, what: Topic, value: dict[str, Any] | None) -> None:
        """Set the rollout progress or refused version of a model in all processes; None clears it."""
        self.set_status(name, what, value)
        if self._fleet is not None:
            await self._fleet.broadcast(op="note", name=name, what=what, value=value)

    def is_leader(self) -> bool:
        """Whether this process decides for all processes of the server."""
        return self._fleet is None or self._fleet.is_leader()

    async def mark_announced(self, name: str) -> None:
        """Record that the model registry knows the champion and the withdrawn challenger."""
        async with self._locked():
            served = self.served(name)
            state = dataclasses.replace(served.state, unannounced=False, withdrawn="")
            self._releases.write(name, state)
            self._served[name] = dataclasses.replace(served, state=state)

    async def remove(self, name: str, *, by: str = "") -> None:
        """Stop serving a model and delete its packages."""
        async with self._locked():
            if name not in self._unready:
                self.served(name)
            served = self._served.get(name)
            if self._fleet is not None:
                await self._fleet.broadcast(op="remove", name=name)
            self.forget(name)
            await asyncio.to_thread(self._releases.remove, name)
            self._releases.record("remove", name, served.champion.release if served else None, by)

    async def close(self) -> None:
        """Finish the queued jobs, then stop."""
        batchers = [live.batcher for served in self.models() for live in served.versions()]
        for batcher in batchers:
            batcher.close()
        for batcher in batchers:
            await asyncio.to_thread(batcher.join)

    def _require_challenger(self, name: str, only: str | None) -> tuple[State, Challenge]:
        state = self.served(name).state
        if state.challenger is None or only not in (None, state.challenger.release.version):
            raise ConflictError(f"{name!r} has no challenger{f' of version {only}' if only else ''}.")
        return state, state.challenger

    async def _restore(self, name: str, state: State) -> None:
        """Serve the stored state; a challenger that cannot be loaded is dropped."""
        try:
            await self._serve(name, state, previous=False, notify=False)
        except LeptonError as error:
            if state.challenger is None:
                raise
            await self._serve(name, dataclasses.replace(state, challenger=None), previous=False, notify=False)
            self._releases.record("back", name, state.challenger.release, "restart", reason=str(error))

    async def _add_previous(self, served: Served) -> None:
        """Load the previous champion; if that fails, a rollback tries again."""
        try:
            await self._serve(served.champion.model, served.state, notify=False)
        except (LeptonError, OSError) as error:
            _log.error("the previous version of %s is not loaded: %s", served.champion.model, error)

    async def _on_disk(self, name: str) -> State:
        """The stored state of a model whose champion could not be loaded."""
        try:
            return await asyncio.to_thread(self._releases.read, name)
        except FileNotFoundError:
            self.served(name)
            raise

    async def _change(
        self, name: str, state: State, action: str, release: Release, by: str, **figures: Any
    ) -> dict[str, Any]:
        """Serve `state` and record the change."""
        if not figures and name in self.progress:
            figures = {"progress": self.progress[name]}  # known at the time of a manual decision
        served = await self._serve(name, state)
        await asyncio.to_thread(self._releases.tidy, name, state)
        self._releases.record(action, name, release, by, **figures)
        return {**served.to_dict(), "changed": True}

    async def _serve(self, name: str, state: State, *, previous: bool = True, notify: bool = True) -> Served:
        """Load the versions in `state`, here and, with `notify`, in the other processes; then swap."""
        served, retired = await self._loader.load(name, state, self._served.get(name), previous=previous)
        try:
            async with contextlib.AsyncExitStack() as others:
                if self._fleet is not None and notify:
                    await others.enter_async_context(self._fleet.prepare(op="serve", name=name, state=state.to_dict()))
                self._releases.write(name, state)  # before the swap, so that a restart serves the same
        except BaseException:
            self.drop(name, served)
            raise
        return self.swap(name, served, retired)

    @contextlib.asynccontextmanager
    async def _locked(self, *, shared: bool = False) -> AsyncIterator[None]:
        """Lock the served versions, here and in the other processes; `shared`: there for reading only."""
        async with contextlib.AsyncExitStack() as stack:
            if self._fleet is not None:  # before the own lock, which changes by other processes need, too
                await stack.enter_async_context(self._fleet.lock(shared=shared))
            await stack.enter_async_context(self._lock)
            yield

    async def _handle_message(self, channel: Channel, message: dict[str, Any]) -> None:
        """Handle a message of another process of the server."""
        name = message["name"]
        if message["op"] == "remove":
            async with self._lock:
                self.forget(name)
            await channel.send({})
        elif message["op"] == "figures":
            found = self._served.get(name)
            versions = {live.release.version: live.tally.figures() for live in found.versions()} if found else {}
            await channel.send({version: dataclasses.asdict(figures) for version, figures in versions.items()})
        elif message["op"] == "note":
            self.set_status(name, message["what"], message["value"])
            await channel.send({})
        elif message["op"] == "shadow":
            await channel.send(dataclasses.asdict(self.shadow(name)))
        elif message["op"] == "serve":
            async with self._lock:
                await self._prepare_and_swap(channel, name, State.from_dict(message["state"]))

    async def _prepare_and_swap(self, channel: Channel, name: str, state: State) -> None:
        """Load the state of another process, and swap when it commits."""
        try:
            served, retired = await self._loader.load(name, state, self._served.get(name))
        except (LeptonError, OSError) as error:
            await channel.send({"error": str(error)})
            return
        await channel.send({})
        # If it exits before committing, the state on disk shows whether it had decided.
        if await channel.receive() is not None or await asyncio.to_thread(self._is_committed, name, state):
            self.swap(name, served, retired)
            await channel.send({})
        else:
            self.drop(name, served)

    def _is_committed(self, name: str, state: State) -> bool:
        try:
            return self._releases.read(name) == state
        except (OSError, ValueError, KeyError, TypeError):
            return False


def _is_served(state: State, release: Release, plan: Rollout) -> bool:
    """Whether the release is already the champion, or the challenger with this plan."""
    challenge = state.challenger
    return release == state.current or (
        challenge is not None and (challenge.release, challenge.plan) == (release, plan)
    )
