"""Table of models and their loaded versions, swapped atomically."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Literal

from lepton_tasks.core.errors import UnavailableError
from lepton_tasks.core.registry import did_you_mean
from lepton_tasks.serving.errors import UnknownModelError
from lepton_tasks.serving.versions.live import Live, Served, close
from lepton_tasks.serving.versions.releases import State
from lepton_tasks.serving.versions.shadow import Shadow, ShadowFigures

KEY_HEADER = "lepton-key"  # requests with the same key go to the same version while the split is unchanged
VERSION_HEADER = "lepton-version"  # in every response: the version that served it

Topic = Literal["progress", "refused"]


class Lookup:
    """The models that a process serves. Each request is routed once, so it never sees two versions.

    Args:
        changed: Called after each change of the served versions.
    """

    def __init__(self, changed: Callable[[], None]) -> None:
        self._changed = changed
        self._served: dict[str, Served] = {}
        self._unready: dict[str, str] = {}
        self.restored = False
        self.stopping = False
        self.behind: Callable[[], str] = lambda: ""
        """Why the served versions lag behind the model registry; empty if they do not, or without a registry."""
        self.progress: dict[str, dict[str, Any]] = {}
        """Rollout progress by model, set by the `Controller`."""
        self.refused: dict[str, dict[str, Any]] = {}
        """By model, the version in the registry that cannot be used, with the reason."""
        self._shadows: dict[str, Shadow] = {}

    def route(self, name: str, *, key: str | None = None, version: str | None = None) -> Live:
        """The version that serves a request (hot path). Must not be kept across an ``await``.

        Args:
            name: The model.
            key: Text of the header ``lepton-key``: equal keys get the same version; without one, it is random.
            version: The requested version, if any.

        Raises:
            UnavailableError: the model is known, but not loaded.
            UnknownModelError: there is no such model or version.
        """
        served = self._served.get(name)
        if served is None or version is not None:
            return self.get(name, version)
        return served.route(key)

    def only_version(self, name: str) -> Live | None:
        """The version that serves all requests without a version; None during a canary, or if there is none."""
        served = self._served.get(name)
        return None if served is None or served.weight else served.champion

    def get(self, name: str, version: str | None = None) -> Live:
        """The champion, or the given loaded version.

        Raises:
            UnavailableError: the model is known, but not loaded.
            UnknownModelError: there is no such model or version.
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
        """The stored state of a model; None if it is not served."""
        served = self._served.get(name)
        return served.state if served else None

    def models(self) -> list[Served]:
        """All served models by name."""
        return [self._served[name] for name in sorted(self._served)]

    def names(self) -> list[str]:
        """Names of all served models."""
        return sorted(self._served)

    def active_versions(self) -> list[tuple[Live, float]]:
        """All champions and canaries, by model name, with their share of the requests."""
        found = (
            (served, live) for served in self.models() for live in served.versions() if served.receives_traffic(live)
        )
        return [(live, 1 - served.weight if live is served.champion else served.weight) for served, live in found]

    def about(self, name: str) -> dict[str, Any]:
        """Public information about a model, with its rollout progress."""
        about = self.served(name).to_dict()
        if about["challenger"] is not None:
            about["challenger"]["progress"] = self.progress.get(name)
        if name in self.refused:
            about["refused"] = self.refused[name]
        return about

    def unready(self) -> dict[str, str]:
        """Why known models are not served, by name."""
        refused = {
            name: f"version {version['version']} is refused: {version['reason']}"
            for name, version in self.refused.items()
            if name not in self._served
        }
        return refused | self._unready

    def set_status(self, name: str, what: Topic, value: dict[str, Any] | None) -> None:
        """Set the progress or refused version of a model; None clears it."""
        known: dict[str, dict[str, Any]] = self.progress if what == "progress" else self.refused
        if value is None:
            known.pop(name, None)
        else:
            known[name] = value

    def unready_reason(self) -> str:
        """Why the server is not ready for requests; empty if it is."""
        if not self.restored:
            return "the deployed models are being loaded."
        return "the server is stopping." if self.stopping else self.behind()

    def swap(self, name: str, served: Served, retired: Iterable[Live]) -> Served:
        """Serve these versions, and close the retired ones once they have finished their requests."""
        self._served[name] = served
        self._unready.pop(name, None)
        self.progress.pop(name, None)
        for live in served.versions():
            live.tally.reset()
            live.package.observe = live.tally.outputs if served.weight else None
        self._start_shadow(name, served)
        close(retired)  # submissions happen in this event loop, so none can follow
        self._changed()
        return served

    def shadow(self, name: str) -> ShadowFigures:
        """Comparison of the champion and its shadow in this process."""
        shadow = self._shadows.get(name)
        return shadow.figures() if shadow else ShadowFigures()

    def _start_shadow(self, name: str, served: Served) -> None:
        self._stop_shadow(name)
        challenge = served.state.challenger
        for live in served.versions():
            live.batcher.mirror = None
        if challenge is not None and challenge.plan.kind == "shadow" and served.challenger is not None:
            shadow = Shadow(served.champion.package, served.challenger.package, challenge.plan.share / 100)
            served.champion.batcher.mirror = shadow.offer
            self._shadows[name] = shadow

    def _stop_shadow(self, name: str) -> None:
        if shadow := self._shadows.pop(name, None):
            shadow.close()

    def drop(self, name: str, served: Served) -> None:
        """Close versions that were loaded but not swapped in."""
        kept = self._served[name].versions() if name in self._served else []
        close(live for live in served.versions() if live not in kept)

    def forget(self, name: str) -> None:
        """Stop serving a model."""
        served = self._served.pop(name, None)
        self._unready.pop(name, None)
        self._stop_shadow(name)
        close(served.versions() if served else ())
        self._changed()
