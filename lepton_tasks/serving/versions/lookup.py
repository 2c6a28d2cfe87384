"""Table of models and their active versions, swapped atomically."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Literal

from lepton_tasks.core.errors import UnavailableError
from lepton_tasks.core.registry import did_you_mean
from lepton_tasks.serving.errors import UnknownModelError
from lepton_tasks.serving.versions.live import Live, Served, close
from lepton_tasks.serving.versions.releases import State
from lepton_tasks.serving.versions.shadow import Shadow, ShadowFigures

KEY_HEADER = "lepton-key"  # requests of one key are answered by one version as long as the split stays
VERSION_HEADER = "lepton-version"  # in every reply: the version that answered

Topic = Literal["progress", "refused"]


class Lookup:
    """The models that a process serves. A request asks it once, so it never sees two versions.

    Args:
        changed: Called after each change of what is served.
    """

    def __init__(self, changed: Callable[[], None]) -> None:
        self._changed = changed
        self._served: dict[str, Served] = {}
        self._unready: dict[str, str] = {}
        self.restored = False
        self.leaving = False
        self.behind: Callable[[], str] = lambda: ""
        """Why what is served is not yet what the model registry says; empty once it is, and without a registry."""
        self.progress: dict[str, dict[str, Any]] = {}
        """How the rollout of a model goes, for those who ask; kept by who judges it."""
        self.refused: dict[str, dict[str, Any]] = {}
        """By model, the version that the registry wants and that cannot be used, and why."""
        self._shadows: dict[str, Shadow] = {}

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

    def sole(self, name: str) -> Live | None:
        """What answers every request for this model that names no version; None if chance decides, or nothing does."""
        served = self._served.get(name)
        return None if served is None or served.weight else served.champion

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

    def state(self, name: str) -> State | None:
        """What is served of a model as the disk knows it; None for nothing."""
        served = self._served.get(name)
        return served.state if served else None

    def models(self) -> list[Served]:
        """All that answer, by name."""
        return [self._served[name] for name in sorted(self._served)]

    def names(self) -> list[str]:
        """Names of all models that answer."""
        return sorted(self._served)

    def answering(self) -> list[tuple[Live, float]]:
        """All versions that answer, champions and canaries, by the name of their model; and the share of each."""
        found = ((served, live) for served in self.models() for live in served.versions() if served.answers(live))
        return [(live, 1 - served.weight if live is served.champion else served.weight) for served, live in found]

    def about(self, name: str) -> dict[str, Any]:
        """What a caller may know about a model, and how its rollout goes."""
        about = self.served(name).to_dict()
        if about["challenger"] is not None:
            about["challenger"]["progress"] = self.progress.get(name)
        if name in self.refused:
            about["refused"] = self.refused[name]
        return about

    def unready(self) -> dict[str, str]:
        """Why a known model does not answer, by name."""
        refused = {
            name: f"version {one['version']} is refused: {one['reason']}"
            for name, one in self.refused.items()
            if name not in self._served
        }
        return refused | self._unready

    def note(self, name: str, what: Topic, value: dict[str, Any] | None) -> None:
        """Remember something about a model for those who ask; None forgets it."""
        known: dict[str, dict[str, Any]] = self.progress if what == "progress" else self.refused
        if value is None:
            known.pop(name, None)
        else:
            known[name] = value

    def not_ready(self) -> str:
        """Why a load balancer must send no requests; empty if it may."""
        if not self.restored:
            return "the deployed models are being loaded."
        return "the server is stopping." if self.leaving else self.behind()

    def swap(self, name: str, served: Served, retired: Iterable[Live]) -> Served:
        """Let these versions answer, and the retired ones end once they have answered what they took."""
        self._served[name] = served
        self._unready.pop(name, None)
        self.progress.pop(name, None)
        for live in served.versions():
            live.tally.reset()
            live.package.observe = live.tally.outputs if served.weight else None
        self._cast_shadow(name, served)
        close(retired)  # submissions happen in this loop too, so none can come after this
        self._changed()
        return served

    def shadow(self, name: str) -> ShadowFigures:
        """How the challenger in the champion's shadow compares, in this process."""
        shadow = self._shadows.get(name)
        return shadow.figures() if shadow else ShadowFigures()

    def _cast_shadow(self, name: str, served: Served) -> None:
        self._end_shadow(name)
        challenge = served.state.challenger
        for live in served.versions():
            live.batcher.mirror = None
        if challenge is not None and challenge.plan.kind == "shadow" and served.challenger is not None:
            shadow = Shadow(served.champion.package, served.challenger.package, challenge.plan.share / 100)
            served.champion.batcher.mirror = shadow.offer
            self._shadows[name] = shadow

    def _end_shadow(self, name: str) -> None:
        if shadow := self._shadows.pop(name, None):
            shadow.close()

    def drop(self, name: str, served: Served) -> None:
        """Close what was loaded for nothing."""
        kept = self._served[name].versions() if name in self._served else []
        close(live for live in served.versions() if live not in kept)

    def forget(self, name: str) -> None:
        """Serve a model no more."""
        served = self._served.pop(name, None)
        self._unready.pop(name, None)
        self._end_shadow(name)
        close(served.versions() if served else ())
        self._changed()
