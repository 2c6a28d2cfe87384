"""Which package answers for which model: loading, the swap by one reference, rollback, and what survives a restart."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import logging
import os
import re
import shutil
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from lepton_tasks.core.errors import ArtifactError, ConfigError, LeptonError, UnavailableError
from lepton_tasks.core.registry import did_you_mean
from lepton_tasks.core.store import write_json
from lepton_tasks.serving.batching import Batcher, Timings, best_batch
from lepton_tasks.serving.errors import ConflictError, UnknownModelError
from lepton_tasks.serving.package import Package, load_package

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")
_STATE_FILE = "deployed.json"
KEY_HEADER = "lepton-key"  # requests of one key are answered by one version as long as the split stays
VERSION_HEADER = "lepton-version"  # in every reply: the version that answered
_RECORD_FILE = "deployments.jsonl"

Observer = Callable[[str, str], Callable[[Timings], None]]

_log = logging.getLogger("lepton.serving")


@dataclasses.dataclass(frozen=True)
class Release:
    """One deployed version: what `deployed.json` remembers."""

    version: str
    digest: str
    folder: str
    deployed_at: float


@dataclasses.dataclass(frozen=True)
class Live:
    """A version that answers requests."""

    model: str
    release: Release
    previous: Release | None
    package: Package
    batcher: Batcher

    def to_dict(self) -> dict[str, Any]:
        """What a caller may know about it."""
        return {
            "name": self.model,
            "version": self.release.version,
            "digest": self.release.digest,
            "deployed_at": self.release.deployed_at,
            "previous": self.previous.version if self.previous else None,
            "task": self.package.spec.task,
            "accepts": self.package.codec.media_type,
            "labels": list(self.package.spec.labels),
            "metrics": self.package.spec.metrics,
            "max_batch": self.batcher.max_batch,
            "ready": True,
        }


class ModelTable:
    """The models of one server. A request reads its `Live` once, so it never sees two versions.

    Every method runs in the event loop; files and graphs are read in threads.

    Args:
        home: State folder: ``models/<name>/<version>-<digest8>/``, ``models/<name>/deployed.json`` and
            ``deployments.jsonl``, the append-only record of what was live when.
        workers: Inference threads of each model.
        observer: Gives, for a model and a version, what is told of its batches.
    """

    def __init__(self, home: Path, *, workers: int | None = None, observer: Observer | None = None) -> None:
        self._models, self._record_path = home / "models", home / _RECORD_FILE
        self._workers = workers or max(1, min(8, (os.cpu_count() or 2) - 1))
        self._observer = observer
        self._live: dict[str, Live] = {}
        self._unready: dict[str, str] = {}
        self._lock = asyncio.Lock()  # one change at a time
        self.restored = False

    def live(self) -> list[Live]:
        """All that answer, by name."""
        return [self._live[name] for name in sorted(self._live)]

    def unready(self) -> dict[str, str]:
        """Why a known model does not answer, by name."""
        return dict(self._unready)

    def get(self, name: str, version: str | None = None) -> Live:
        """What answers for `name` now.

        Raises:
            UnavailableError: it is known, but not loaded.
            UnknownModelError: nothing is served under the name, or not this version.
        """
        live = self._live.get(name)
        if live is None:
            if name in self._unready:
                raise UnavailableError(f"the model {name!r} is not ready: {self._unready[name]}")
            known = [*self._live, *self._unready]
            fix = did_you_mean(name, known) if known else "None is deployed yet."
            raise UnknownModelError(f"no model named {name!r}.", fix=fix)
        if version is not None and version != live.release.version:
            raise UnknownModelError(
                f"{name!r} has no version {version!r} here.", fix=f"Version {live.release.version} is served."
            )
        return live

    def route(self, name: str, *, key: str | None = None, version: str | None = None) -> Live:
        """What answers this request: the hot path's one question.

        Args:
            name: The model.
            key: Text of the header ``lepton-key``: equal keys meet the same version; without one, chance decides.
            version: The version asked for, if the request names one.

        Raises:
            UnavailableError: it is known, but not loaded.
            UnknownModelError: nothing is served under the name, or not this version.
        """
        return self.get(name, version)

    async def restore(self) -> None:
        """Load what was deployed when the server last ran; one that cannot be loaded stops no other."""
        async with self._lock:
            states = {path.parent.name: path for path in sorted(self._models.glob(f"*/{_STATE_FILE}"))}
            self._unready |= dict.fromkeys(states, "it is being loaded.")
            for name, path in states.items():
                try:
                    current, previous = _read_state(path)
                    await self._switch(name, current, previous)
                except (LeptonError, OSError, ValueError, KeyError, TypeError) as error:
                    self._unready[name] = str(error)
                    _log.error("%s is not served: %s", name, error)
            self.restored = True

    async def deploy(self, name: str, source: Path, *, version: str, digest: str, by: str = "") -> dict[str, Any]:
        """Copy, check, load and warm up a package, then let it answer; the current one answers until then.

        Args:
            name: The model.
            source: Folder of the package.
            version: Version number in the model registry.
            digest: What the package's digest must be.
            by: Who asks, for the record.

        Returns:
            The live model; ``changed`` says whether it was another one before.

        Raises:
            ArtifactError: the package cannot be used; nothing has changed.
            ConfigError: the name or version is none.
        """
        for what, text in (("model name", name), ("version", version)):
            if not _NAME.fullmatch(text):
                raise ConfigError(f"{text!r} is not a {what}.", fix="Use letters, digits, '_', '-' and '.'.")
        async with self._lock:
            old = self._live.get(name)
            if old and (old.release.version, old.release.digest) == (version, digest):
                return {**old.to_dict(), "changed": False}
            release = await asyncio.to_thread(self._place, name, source, version, digest)
            live = await self._switch(name, release, old.release if old else None)
            await asyncio.to_thread(self._tidy, live)
            self._record("deploy", live.model, live.release, by)
            return {**live.to_dict(), "changed": True}

    async def rollback(self, name: str, *, by: str = "") -> dict[str, Any]:
        """Let the version before the current one answer again; there is none before it then.

        Raises:
            ConflictError: there is no previous version.
        """
        async with self._lock:
            previous = await asyncio.to_thread(self._previous, name)
            live = await self._switch(name, previous, None)
            self._record("rollback", name, live.release, by)
            return {**live.to_dict(), "changed": True}

    async def remove(self, name: str, *, by: str = "") -> None:
        """Stop serving a model and forget its packages."""
        async with self._lock:
            if name not in self._unready:
                self.get(name)
            live = self._live.pop(name, None)
            self._unready.pop(name, None)
            if live:
                live.batcher.close()
            await asyncio.to_thread(shutil.rmtree, self._models / name, ignore_errors=True)
            self._record("remove", name, live.release if live else None, by)

    async def close(self) -> None:
        """Answer what is queued, then stop."""
        batchers = [live.batcher for live in self._live.values()]
        for batcher in batchers:
            batcher.close()
        for batcher in batchers:
            await asyncio.to_thread(batcher.join)

    async def _switch(self, name: str, release: Release, previous: Release | None) -> Live:
        """Load `release` and let it answer."""
        package, batch, rate = await asyncio.to_thread(_load, self._models / name / release.folder)
        observe = self._observer and self._observer(name, release.version)
        batcher = Batcher(package, max_batch=batch, workers=self._workers, rate=rate, observe=observe)
        live = Live(name, release, previous, package, batcher)
        states = {"current": dataclasses.asdict(release), "previous": previous and dataclasses.asdict(previous)}
        write_json(self._models / name / _STATE_FILE, states)  # first: a restart right after the swap serves the same
        old = self._live.get(name)
        self._live[name] = live
        self._unready.pop(name, None)
        if old:
            old.batcher.close()  # submissions happen in this loop too, so none can come after this
        return live

    def _place(self, name: str, source: Path, version: str, digest: str) -> Release:
        """Copy a package into our own folder, whole or not at all."""
        part = self._models / name / f".{uuid.uuid4().hex}"
        try:
            try:
                shutil.copytree(source, part, ignore=shutil.ignore_patterns("_*"))
            except (OSError, shutil.Error) as error:
                raise ArtifactError(f"the package cannot be copied: {error}.", where=str(source)) from error
            found = load_package(part).digest
            if found != digest:
                raise ArtifactError(f"the package's digest is {found[:12]}, not {digest[:12]}.", where=str(source))
            final = part.with_name(f"{version}-{digest[:8]}")
            shutil.rmtree(final, ignore_errors=True)
            part.rename(final)
        finally:
            shutil.rmtree(part, ignore_errors=True)
        return Release(version, digest, final.name, time.time())

    def _previous(self, name: str) -> Release:
        try:
            _, previous = _read_state(self._models / name / _STATE_FILE)
        except FileNotFoundError:
            self.get(name)
            raise
        if previous is None:
            raise ConflictError(f"{name!r} has no previous version to go back to.")
        return previous

    def _tidy(self, live: Live) -> None:
        """Remove the packages that are neither current nor previous."""
        keep = {live.release.folder, live.previous.folder if live.previous else ""}
        for folder in (self._models / live.model).iterdir():
            if folder.is_dir() and folder.name not in keep:
                shutil.rmtree(folder, ignore_errors=True)

    def _record(self, action: str, name: str, release: Release | None, by: str) -> None:
        entry = {
            "time": time.time(),
            "action": action,
            "model": name,
            "version": release.version if release else None,
            "digest": release.digest if release else None,
            "by": by,
        }
        with self._record_path.open("ab") as stream:
            stream.write(orjson.dumps(entry, option=orjson.OPT_APPEND_NEWLINE))


def _read_state(path: Path) -> tuple[Release, Release | None]:
    state = json.loads(path.read_text())
    return Release(**state["current"]), Release(**state["previous"]) if state["previous"] else None


def _load(folder: Path) -> tuple[Package, int, float]:
    """A package that has answered its own example, the batch size that suits it, and its samples a second then."""
    package = load_package(folder)
    example = package.example()
    try:
        if example is not None:
            sample = package.codec.decode(example[0])
        else:
            tensor = package.spec.inputs[0]
            sample = np.zeros([size or 1 for size in tensor.shape[1:]], tensor.dtype)
        package.output_codec.encode(package.run(sample[np.newaxis]), 0)
        return package, *best_batch(package, sample)
    except Exception as error:  # whatever it is, this package must not be let at requests
        reason = " ".join(str(error).split())
        raise ArtifactError(f"the model does not answer: {reason}.", where=str(folder)) from error
