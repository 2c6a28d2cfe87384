"""Loaded versions of a model, and the choice between them."""

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
        """Public information about the version."""
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
    """The loaded versions of one model; replaced as a whole, so that a request never sees a mixture.

    Attributes:
        state: State as stored on disk.
        champion: Serves the requests.
        challenger: Serves a share of the requests (canary) or copies of them (shadow).
        previous: The champion after a rollback; None if there is none, or it is on disk only.
    """

    state: State
    champion: Live
    challenger: Live | None = None
    previous: Live | None = None

    @functools.cached_property
    def weight(self) -> float:
        """Share of requests served by the challenger."""
        return self.state.challenger.weight if self.state.challenger else 0.0

    @functools.cached_property
    def _salt(self) -> bytes:
        """Differs per challenger, so that each starts with different keys."""
        return self.challenger.release.digest.encode() if self.challenger else b""

    def versions(self) -> list[Live]:
        """All loaded versions, the champion first."""
        return [live for live in (self.champion, self.challenger, self.previous) if live]

    def route(self, key: str | None) -> Live:
        """The version that serves a request with this key."""
        if self.weight and self.challenger is not None and bucket(key, self._salt) < self.weight:
            return self.challenger
        return self.champion

    def receives_traffic(self, live: Live) -> bool:
        """Whether requests without a version may be routed to this version."""
        return live is self.champion or (live is self.challenger and self.weight > 0)

    def to_dict(self) -> dict[str, Any]:
        """Public information about the model."""
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


def bucket(key: str | None, salt: bytes) -> float:
    """A number in [0, 1): random without a key, else a hash of key and salt."""
    if key is None:
        return random.random()
    digest = hashlib.blake2b(salt + key.encode(), digest_size=_BITS // 8).digest()
    return float(int.from_bytes(digest, "little") / 2**_BITS)


class Loader:
    """Loads versions from a server's state folder.

    Args:
        releases: The stored packages.
        workers: Inference threads per version.
        previous: Whether to load the previous champion, too.
        observer: Returns, for a model and version, the function called with the timings of its batches.
    """

    def __init__(self, releases: Releases, *, workers: int, previous: bool, observer: Observer | None) -> None:
        self._releases, self._workers, self._keep_previous = releases, workers, previous
        self._observer = observer

    async def load(
        self, name: str, state: State, old: Served | None, *, previous: bool = True
    ) -> tuple[Served, list[Live]]:
        """The loaded versions of `state`, and those of `old` that are not part of it.

        Args:
            name: The model.
            state: Versions to load.
            old: Versions already loaded.
            previous: False to skip the previous champion.

        Raises:
            ArtifactError: champion or challenger cannot be used; nothing new stays loaded.
        """
        known = {live.release.folder: live for live in old.versions()} if old else {}
        loaded = dict(known)
        try:
            champion = await self._load_version(name, state.current, loaded)
            challenger = await self._load_version(name, state.challenger.release, loaded) if state.challenger else None
        except BaseException:
            close(live for folder, live in loaded.items() if folder not in known)
            raise
        previous_version = await self._load_previous(name, state, loaded) if previous else None
        served = Served(state, champion, challenger, previous_version)
        return served, [live for live in known.values() if live not in served.versions()]

    async def _load_version(self, name: str, release: Release, loaded: dict[str, Live]) -> Live:
        if release.folder not in loaded:
            package, calibration = await asyncio.to_thread(_load_and_calibrate, self._releases.folder(name, release))
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

    async def _load_previous(self, name: str, state: State, loaded: dict[str, Live]) -> Live | None:
        if state.previous is None or not self._keep_previous:
            return None
        try:
            return await self._load_version(name, state.previous, loaded)
        except (LeptonError, OSError) as error:  # reported again by a rollback
            _log.error("version %s of %s cannot be loaded: %s", state.previous.version, name, error)
            return None


def close(versions: Iterable[Live]) -> None:
    """Finish the queued jobs of these versions, and stop their threads."""
    for live in versions:
        live.batcher.close()


def _load_and_calibrate(folder: Path) -> tuple[Package, Calibration]:
    """Load a package and calibrate it on its own example."""
    package = load_package(folder)
    try:
        return package, calibrate(package)
    except Exception as error:  # a package that fails on its example must not be served
        reason = " ".join(str(error).split())
        raise ArtifactError(f"the model does not answer: {reason}.", where=str(folder)) from error
