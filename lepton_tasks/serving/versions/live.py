"""Loaded versions, and which of them answers a request."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import hashlib
import logging
import random
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from lepton_tasks.core.errors import ArtifactError, LeptonError
from lepton_tasks.serving.inference.batching import Batcher, Timings
from lepton_tasks.serving.inference.calibration import Calibration, calibrate
from lepton_tasks.serving.package import Package, load_package
from lepton_tasks.serving.versions.releases import Release, Releases, State
from lepton_tasks.serving.versions.tally import Tally

Observer = Callable[[str, str], Callable[[Timings], None]]

_BITS = 56

_log = logging.getLogger("lepton.serving")


@dataclasses.dataclass(frozen=True)
class Live:
    """A loaded version."""

    model: str
    release: Release
    package: Package
    batcher: Batcher
    tally: Tally

    def to_dict(self) -> dict[str, Any]:
        """What a caller may know about it."""
        return {
            "name": self.model,
            "version": self.release.version,
            "digest": self.release.digest,
            "deployed_at": self.release.deployed_at,
            "task": self.package.spec.task,
            "accepts": self.package.codec.media_type,
            "labels": list(self.package.spec.labels),
            "metrics": self.package.spec.metrics,
            "max_batch": self.batcher.max_batch,
            "ready": True,
        }


@dataclasses.dataclass(frozen=True)
class Served:
    """The versions of one model; swapped whole, so that a request never sees a mixture.

    Attributes:
        state: What the disk says.
        champion: What answers.
        challenger: What answers a share, or copies.
        previous: What answers after a rollback; None if there is none, or if it lies on disk only.
    """

    state: State
    champion: Live
    challenger: Live | None = None
    previous: Live | None = None

    @functools.cached_property
    def weight(self) -> float:
        """Share of the requests that the challenger answers."""
        return self.state.challenger.weight if self.state.challenger else 0.0

    @functools.cached_property
    def _salt(self) -> bytes:
        """Other keys are the first to meet the next challenger."""
        return self.challenger.release.digest.encode() if self.challenger else b""

    def versions(self) -> list[Live]:
        """All that are loaded, the champion first."""
        return [live for live in (self.champion, self.challenger, self.previous) if live]

    def answering(self, key: str | None) -> Live:
        """What answers a request of this key."""
        if self.weight and self.challenger is not None and lot(key, self._salt) < self.weight:
            return self.challenger
        return self.champion

    def answers(self, live: Live) -> bool:
        """Whether requests meet this version without asking for it."""
        return live is self.champion or (live is self.challenger and self.weight > 0)

    def to_dict(self) -> dict[str, Any]:
        """What a caller may know about the model."""
        state, challenge = self.state, self.state.challenger
        about = {**self.champion.to_dict(), "previous": state.previous.version if state.previous else None}
        if challenge is None:
            return {**about, "challenger": None}
        return {
            **about,
            "challenger": {
                "version": challenge.release.version,
                "digest": challenge.release.digest,
                "kind": challenge.plan.kind,
                "weight": self.weight,
                "step": challenge.step,
                "steps": list(challenge.plan.steps),
            },
        }


def lot(key: str | None, salt: bytes) -> float:
    """A number in [0, 1): by chance without a key, else always the same for key and salt."""
    if key is None:
        return random.random()
    drawn = hashlib.blake2b(salt + key.encode(), digest_size=_BITS // 8).digest()
    return float(int.from_bytes(drawn, "little") / 2**_BITS)


class Loader:
    """Loads versions from a server's disk.

    Args:
        releases: Where they lie.
        workers: Inference threads of each.
        previous: Whether the version before the champion is loaded, too.
        observer: Gives, for a model and a version, what is told of its batches.
    """

    def __init__(self, releases: Releases, *, workers: int, previous: bool, observer: Observer | None) -> None:
        self._releases, self._workers, self._keep_previous = releases, workers, previous
        self._observer = observer

    async def load(
        self, name: str, state: State, old: Served | None, *, previous: bool = True
    ) -> tuple[Served, list[Live]]:
        """What `state` says, ready to answer, and those of `old` that are no part of it.

        Args:
            name: The model.
            state: What to serve.
            old: What is loaded already.
            previous: False leaves out the version before the champion for now.

        Raises:
            ArtifactError: the champion or the challenger cannot be used; nothing new stays loaded.
        """
        known = {live.release.folder: live for live in old.versions()} if old else {}
        loaded = dict(known)
        try:
            champion = await self._one(name, state.current, loaded)
            challenger = await self._one(name, state.challenger.release, loaded) if state.challenger else None
        except BaseException:
            close(live for folder, live in loaded.items() if folder not in known)
            raise
        spare = await self._spare(name, state, loaded) if previous else None
        served = Served(state, champion, challenger, spare)
        return served, [live for live in known.values() if live not in served.versions()]

    async def _one(self, name: str, release: Release, loaded: dict[str, Live]) -> Live:
        if release.folder not in loaded:
            package, calibration = await asyncio.to_thread(_load, self._releases.folder(name, release))
            observe = self._observer and self._observer(name, release.version)
            batcher = Batcher(
                package,
                max_batch=calibration.max_batch,
                burst_batch=calibration.burst_batch,
                workers=self._workers,
                inline_bytes=calibration.inline_bytes,
                inline_when_busy=calibration.inline_when_busy,
                rate=calibration.rate,
                observe=observe,
            )
            loaded[release.folder] = Live(name, release, package, batcher, Tally())
        return loaded[release.folder]

    async def _spare(self, name: str, state: State, loaded: dict[str, Live]) -> Live | None:
        if state.previous is None or not self._keep_previous:
            return None
        try:
            return await self._one(name, state.previous, loaded)
        except (LeptonError, OSError) as error:  # a rollback will say so; until then nobody needs it
            _log.error("version %s of %s cannot be loaded: %s", state.previous.version, name, error)
            return None


def close(versions: Iterable[Live]) -> None:
    """Let them answer what is queued, and end."""
    for live in versions:
        live.batcher.close()


def _load(folder: Path) -> tuple[Package, Calibration]:
    """A package that has answered its own example, and how fast it does."""
    package = load_package(folder)
    try:
        return package, calibrate(package)
    except Exception as error:  # whatever it is, this package must not be let at requests
        reason = " ".join(str(error).split())
        raise ArtifactError(f"the model does not answer: {reason}.", where=str(folder)) from error
