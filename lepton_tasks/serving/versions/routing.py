"""Every change of what a server serves: deployment, challengers, rollback, restart, in all its processes."""

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
from lepton_tasks.serving.versions.fleet import Fleet, Line
from lepton_tasks.serving.versions.live import Loader, Observer, Served
from lepton_tasks.serving.versions.lookup import Lookup, Topic
from lepton_tasks.serving.versions.releases import Challenge, Release, Releases, State
from lepton_tasks.serving.versions.shadow import ShadowFigures
from lepton_tasks.serving.versions.tally import Figures

_log = logging.getLogger("lepton.serving")


class ModelTable(Lookup):
    """The models of one server, and every change of what is served.

    Every method runs in the event loop; files and graphs are read in threads.

    Args:
        home: State folder, see `Releases`.
        workers: Inference threads of each version.
        previous: Whether the version before the champion stays ``loaded``, for a rollback in a moment, or lies on
            ``disk`` only, which saves its memory.
        observer: Gives, for a model and a version, what is told of its batches.
        changed: Called after each change of what is served.
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
        """Load what was served when the server last ran; one that cannot be loaded stops no other.

        Previous versions come last, when the server is ready already.
        """
        async with self._changing(shared=True):
            if self._fleet is not None:
                await self._fleet.listen(self._told)
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
        """Copy, check, load and warm up a package, then let it answer as the rollout says; without one, at once.

        A model's first version answers at once whatever the rollout.

        Args:
            name: The model.
            source: Folder of the package; not looked at if the version is loaded already.
            version: Version number in the model registry.
            digest: What the package's digest must be.
            by: Who asks, for the record.
            rollout: How it takes over.
            announce: Whether the model registry is to be told if it is the champion.

        Returns:
            The model; ``changed`` says whether it was served otherwise before.

        Raises:
            ArtifactError: the package cannot be used; nothing has changed.
            ConfigError: the name or version is none.
        """
        plan = rollout or Rollout()
        async with self._changing():
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
        """Let the challenger be the champion.

        Args:
            name: The model.
            by: Who asks, for the record.
            only: The version that the challenger must be.
            figures: For the record.

        Raises:
            ConflictError: there is no challenger, or another one.
        """
        async with self._changing():
            state, challenge = self._challenged(name, only)
            new = State(challenge.release, state.current, unannounced=True)
            return await self._change(name, new, "promote", challenge.release, by, **figures)

    async def step(
        self, name: str, step: int, *, by: str = "", only: str | None = None, **figures: Any
    ) -> dict[str, Any]:
        """Let the challenger answer the share of this step of its plan; else like `promote`."""
        async with self._changing():
            state, challenge = self._challenged(name, only)
            new = dataclasses.replace(state, challenger=dataclasses.replace(challenge, step=step))
            return await self._change(name, new, "step", challenge.release, by, **figures)

    async def rollback(self, name: str, *, by: str = "", only: str | None = None, **figures: Any) -> dict[str, Any]:
        """Undo the last change: take the challenger away, or let the version before the champion answer again.

        Args:
            name: The model.
            by: Who asks, for the record.
            only: The version to take away; None for whatever came last.
            figures: For the record.

        Raises:
            ConflictError: there is neither, or another one; after a rollback there is no version before the champion.
        """
        began = time.perf_counter()
        async with self._changing():
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
        """What each loaded version of a model did lately, in all processes of the server."""
        found = {live.release.version: live.tally.figures() for live in self.served(name).versions()}
        for reply in await self._fleet.ask(op="figures", name=name) if self._fleet else []:
            for version, figures in reply.items():
                found[version] = found.get(version, Figures()).plus(Figures.from_dict(figures))
        return found

    async def shadows(self, name: str) -> ShadowFigures:
        """How a challenger in the champion's shadow compares, in all processes of the server."""
        found = self.shadow(name)
        for reply in await self._fleet.ask(op="shadow", name=name) if self._fleet else []:
            found = found.plus(ShadowFigures.from_dict(reply))
        return found

    async def tell(self, name: str, what: Topic, value: dict[str, Any] | None) -> None:
        """Let all processes of the server know how a rollout goes, or which version is refused; None: none is."""
        self.note(name, what, value)
        if self._fleet is not None:
            await self._fleet.ask(op="note", name=name, what=what, value=value)

    def leads(self) -> bool:
        """Whether this process is the one that decides for all processes of the server."""
        return self._fleet is None or self._fleet.leads()

    async def announced(self, name: str) -> None:
        """Note that the model registry was told of the champion, and of a challenger that was taken back."""
        async with self._changing():
            served = self.served(name)
            state = dataclasses.replace(served.state, unannounced=False, withdrawn="")
            self._releases.write(name, state)
            self._served[name] = dataclasses.replace(served, state=state)

    async def remove(self, name: str, *, by: str = "") -> None:
        """Stop serving a model and forget its packages."""
        async with self._changing():
            if name not in self._unready:
                self.served(name)
            served = self._served.get(name)
            if self._fleet is not None:
                await self._fleet.ask(op="remove", name=name)
            self.forget(name)
            await asyncio.to_thread(self._releases.remove, name)
            self._releases.record("remove", name, served.champion.release if served else None, by)

    async def close(self) -> None:
        """Answer what is queued, then stop."""
        batchers = [live.batcher for served in self.models() for live in served.versions()]
        for batcher in batchers:
            batcher.close()
        for batcher in batchers:
            await asyncio.to_thread(batcher.join)

    def _challenged(self, name: str, only: str | None) -> tuple[State, Challenge]:
        state = self.served(name).state
        if state.challenger is None or only not in (None, state.challenger.release.version):
            raise ConflictError(f"{name!r} has no challenger{f' of version {only}' if only else ''}.")
        return state, state.challenger

    async def _restore(self, name: str, state: State) -> None:
        """Serve as before; a challenger that cannot be loaded is left out."""
        try:
            await self._serve(name, state, previous=False, tell=False)
        except LeptonError as error:
            if state.challenger is None:
                raise
            await self._serve(name, dataclasses.replace(state, challenger=None), previous=False, tell=False)
            self._releases.record("back", name, state.challenger.release, "restart", reason=str(error))

    async def _add_previous(self, served: Served) -> None:
        """Load the version before the champion, too; without it, a rollback loads it."""
        try:
            await self._serve(served.champion.model, served.state, tell=False)
        except (LeptonError, OSError) as error:
            _log.error("the previous version of %s is not loaded: %s", served.champion.model, error)

    async def _on_disk(self, name: str) -> State:
        """The state of a model whose champion could not be loaded."""
        try:
            return await asyncio.to_thread(self._releases.read, name)
        except FileNotFoundError:
            self.served(name)
            raise

    async def _change(
        self, name: str, state: State, action: str, release: Release, by: str, **figures: Any
    ) -> dict[str, Any]:
        """Serve what `state` says, and put it on record."""
        if not figures and name in self.progress:
            figures = {"progress": self.progress[name]}  # what was known when somebody decided by hand
        served = await self._serve(name, state)
        await asyncio.to_thread(self._releases.tidy, name, state)
        self._releases.record(action, name, release, by, **figures)
        return {**served.to_dict(), "changed": True}

    async def _serve(self, name: str, state: State, *, previous: bool = True, tell: bool = True) -> Served:
        """Load what `state` names and is not loaded yet, here and, with `tell`, in the other processes; then swap."""
        served, retired = await self._loader.load(name, state, self._served.get(name), previous=previous)
        try:
            async with contextlib.AsyncExitStack() as others:
                if self._fleet is not None and tell:
                    await others.enter_async_context(self._fleet.together(op="serve", name=name, state=state.to_dict()))
                self._releases.write(name, state)  # first: a restart right after the swap serves the same
        except BaseException:
            self.drop(name, served)
            raise
        return self.swap(name, served, retired)

    @contextlib.asynccontextmanager
    async def _changing(self, *, shared: bool = False) -> AsyncIterator[None]:
        """Nobody else changes what is served; `shared`: in this process only, others may read it, too."""
        async with contextlib.AsyncExitStack() as held:
            if self._fleet is not None:  # before our own lock, which another process's change needs, too
                await held.enter_async_context(self._fleet.alone(shared=shared))
            await held.enter_async_context(self._lock)
            yield

    async def _told(self, line: Line, message: dict[str, Any]) -> None:
        """Another process of the server says what is served from now on, or asks."""
        name = message["name"]
        if message["op"] == "remove":
            async with self._lock:
                self.forget(name)
            await line.send({})
        elif message["op"] == "figures":
            found = self._served.get(name)
            versions = {live.release.version: live.tally.figures() for live in found.versions()} if found else {}
            await line.send({version: dataclasses.asdict(figures) for version, figures in versions.items()})
        elif message["op"] == "note":
            self.note(name, message["what"], message["value"])
            await line.send({})
        elif message["op"] == "shadow":
            await line.send(dataclasses.asdict(self.shadow(name)))
        elif message["op"] == "serve":
            async with self._lock:
                await self._follow(line, name, State.from_dict(message["state"]))

    async def _follow(self, line: Line, name: str, state: State) -> None:
        """Load what another process says, and swap when it does."""
        try:
            served, retired = await self._loader.load(name, state, self._served.get(name))
        except (LeptonError, OSError) as error:
            await line.send({"error": str(error)})
            return
        await line.send({})
        # If it ends before it says so, the disk knows whether it had decided.
        if await line.receive() is not None or await asyncio.to_thread(self._decided, name, state):
            self.swap(name, served, retired)
            await line.send({})
        else:
            self.drop(name, served)

    def _decided(self, name: str, state: State) -> bool:
        try:
            return self._releases.read(name) == state
        except (OSError, ValueError, KeyError, TypeError):
            return False


def _is_served(state: State, release: Release, plan: Rollout) -> bool:
    """Whether it is the champion, or a challenger by this plan, already."""
    challenge = state.challenger
    return release == state.current or (
        challenge is not None and (challenge.release, challenge.plan) == (release, plan)
    )
