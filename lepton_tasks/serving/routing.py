"""Which version answers for which model: loading, the swap by one reference, challengers, rollback, restart."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from lepton_tasks.core.errors import LeptonError, UnavailableError
from lepton_tasks.core.registry import did_you_mean
from lepton_tasks.core.rollout import Rollout
from lepton_tasks.serving.errors import ConflictError, UnknownModelError
from lepton_tasks.serving.live import Live, Loader, Observer, Served, close
from lepton_tasks.serving.releases import Challenge, Release, Releases, State

KEY_HEADER = "lepton-key"  # requests of one key are answered by one version as long as the split stays
VERSION_HEADER = "lepton-version"  # in every reply: the version that answered

_log = logging.getLogger("lepton.serving")


class ModelTable:
    """The models of one server. A request asks it once, so it never sees two versions.

    Every method runs in the event loop; files and graphs are read in threads.

    Args:
        home: State folder, see `Releases`.
        workers: Inference threads of each version.
        previous: Whether the version before the champion stays ``loaded``, for a rollback in a moment, or lies on
            ``disk`` only, which saves its memory.
        observer: Gives, for a model and a version, what is told of its batches.
        changed: Called after each change of what is served.
    """

    def __init__(
        self,
        home: Path,
        *,
        workers: int | None = None,
        previous: Literal["loaded", "disk"] = "loaded",
        observer: Observer | None = None,
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        self._releases = Releases(home)
        workers = workers or max(1, min(8, (os.cpu_count() or 2) - 1))
        self._loader = Loader(self._releases, workers=workers, previous=previous == "loaded", observer=observer)
        self._changed = changed
        self._served: dict[str, Served] = {}
        self._unready: dict[str, str] = {}
        self._lock = asyncio.Lock()  # one change at a time
        self.restored = False
        self.progress: dict[str, dict[str, Any]] = {}
        """How the rollout of a model goes, for those who ask; kept by who judges it."""

    def route(self, name: str, *, key: str | None = None, version: str | None = None) -> Live:
        """What answers this request: the hot path's one question. Not to be kept across an ``await``.

        Args:
            name: The model.
            key: Text of the header ``lepton-key``: equal keys meet the same version; without one, chance decides.
            version: The version asked for, if the request names one.

        Raises:
            UnavailableError: it is known, but not loaded.
            UnknownModelError: nothing is served under the name, or not this version.
        """
        served = self._served.get(name)
        if served is None or version is not None:
            return self.get(name, version)
        return served.answering(key)

    def get(self, name: str, version: str | None = None) -> Live:
        """The champion, or another version that is loaded.

        Raises:
            UnavailableError: it is known, but not loaded.
            UnknownModelError: nothing is served under the name, or not this version.
        """
        served = self.served(name)
        if version is None:
            return served.champion
        for live in served.versions():
            if live.release.version == version:
                return live
        known = ", ".join(live.release.version for live in served.versions())
        raise UnknownModelError(f"{name!r} has no version {version!r} here.", fix=f"Version {known} is served.")

    def served(self, name: str) -> Served:
        """All versions of a model; raises as `get` does."""
        served = self._served.get(name)
        if served is not None:
            return served
        if name in self._unready:
            raise UnavailableError(f"the model {name!r} is not ready: {self._unready[name]}")
        known = [*self._served, *self._unready]
        fix = did_you_mean(name, known) if known else "None is deployed yet."
        raise UnknownModelError(f"no model named {name!r}.", fix=fix)

    def models(self) -> list[Served]:
        """All that answer, by name."""
        return [self._served[name] for name in sorted(self._served)]

    def names(self) -> list[str]:
        """Names of all models that answer."""
        return sorted(self._served)

    def live(self) -> list[Live]:
        """All versions that answer: champions and canaries, by the name of their model."""
        return [live for served in self.models() for live in served.versions() if served.answers(live)]

    def about(self, name: str) -> dict[str, Any]:
        """What a caller may know about a model, and how its rollout goes."""
        about = self.served(name).to_dict()
        if about["challenger"] is not None:
            about["challenger"]["progress"] = self.progress.get(name)
        return about

    def unready(self) -> dict[str, str]:
        """Why a known model does not answer, by name."""
        return dict(self._unready)

    async def restore(self) -> None:
        """Load what was served when the server last ran; one that cannot be loaded stops no other.

        Previous versions come last, when the server is ready already.
        """
        async with self._lock:
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
                    await self._serve(served.champion.model, served.state)

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
        async with self._lock:
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
            state = dataclasses.replace(old.state, previous=spare, challenger=Challenge(release, plan))
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
        async with self._lock:
            state, challenge = self._challenged(name, only)
            new = State(challenge.release, state.current, unannounced=True)
            return await self._change(name, new, "promote", challenge.release, by, **figures)

    async def step(
        self, name: str, step: int, *, by: str = "", only: str | None = None, **figures: Any
    ) -> dict[str, Any]:
        """Let the challenger answer the share of this step of its plan; else like `promote`."""
        async with self._lock:
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
        async with self._lock:
            state = self._served[name].state if name in self._served else await self._on_disk(name)
            last = state.challenger.release if state.challenger else state.current
            if only is not None and last.version != only:
                raise ConflictError(f"the last version of {name!r} is {last.version}, not {only}.")
            if state.challenger is not None:
                new, gone = dataclasses.replace(state, challenger=None), state.challenger.release
                return await self._change(name, new, "back", gone, by, **figures)
            if state.previous is None:
                raise ConflictError(f"{name!r} has no previous version to go back to.")
            new = State(state.previous, unannounced=True)
            return await self._change(name, new, "rollback", state.previous, by, **figures)

    async def announced(self, name: str) -> None:
        """Note that the model registry was told of the champion."""
        async with self._lock:
            served = self.served(name)
            state = dataclasses.replace(served.state, unannounced=False)
            self._releases.write(name, state)
            self._served[name] = dataclasses.replace(served, state=state)

    async def remove(self, name: str, *, by: str = "") -> None:
        """Stop serving a model and forget its packages."""
        async with self._lock:
            if name not in self._unready:
                self.served(name)
            served = self._served.pop(name, None)
            self._unready.pop(name, None)
            close(served.versions() if served else ())
            await asyncio.to_thread(self._releases.remove, name)
            self._releases.record("remove", name, served.champion.release if served else None, by)
            self._changed()

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
            await self._serve(name, state, previous=False)
        except LeptonError as error:
            if state.challenger is None:
                raise
            await self._serve(name, dataclasses.replace(state, challenger=None), previous=False)
            self._releases.record("back", name, state.challenger.release, "restart", reason=str(error))

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
        served = await self._serve(name, state)
        await asyncio.to_thread(self._releases.tidy, name, state)
        self._releases.record(action, name, release, by, **figures)
        return {**served.to_dict(), "changed": True}

    async def _serve(self, name: str, state: State, *, previous: bool = True) -> Served:
        """Load what `state` names and is not loaded yet, then swap."""
        served, retired = await self._loader.load(name, state, self._served.get(name), previous=previous)
        self._releases.write(name, state)  # first: a restart right after the swap serves the same
        self._served[name] = served
        self._unready.pop(name, None)
        self.progress.pop(name, None)
        for live in served.versions():
            live.tally.reset()
            live.package.observe = live.tally.outputs if served.weight else None
        close(retired)  # submissions happen in this loop too, so none can come after this
        self._changed()
        return served


def _is_served(state: State, release: Release, plan: Rollout) -> bool:
    """Whether it is the champion, or a challenger by this plan, already."""
    challenge = state.challenger
    return release == state.current or (
        challenge is not None and (challenge.release, challenge.plan) == (release, plan)
    )
