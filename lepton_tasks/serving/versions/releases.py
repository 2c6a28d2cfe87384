"""Packages in the server's state folder, and the persistent state of which are served."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import time
import uuid
from pathlib import Path
from typing import Any

import orjson

from lepton_tasks.core.errors import ArtifactError, ConfigError
from lepton_tasks.core.rollout import Rollout
from lepton_tasks.core.store import write_json
from lepton_tasks.serving.package import copy_package, load_package

STATE_FILE = "deployed.json"
RECORD_FILE = "deployments.jsonl"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")
"""A name of a model, or of a version: safe as the name of a folder."""


@dataclasses.dataclass(frozen=True)
class Release:
    """One deployed version."""

    version: str
    digest: str
    folder: str
    deployed_at: float


@dataclasses.dataclass(frozen=True)
class Challenge:
    """A challenger version and the state of its rollout."""

    release: Release
    plan: Rollout
    step: int = 0

    @property
    def weight(self) -> float:
        """Share of requests that it serves."""
        return self.plan.steps[self.step] / 100 if self.plan.kind == "canary" else 0.0


@dataclasses.dataclass(frozen=True)
class State:
    """Contents of a model's `deployed.json`.

    Attributes:
        current: The champion.
        previous: The previous champion.
        challenger: The next champion, during its rollout.
        unannounced: Whether the champion is not yet reported to the model registry.
        withdrawn: Version of a withdrawn challenger that is not yet reported to the registry.
    """

    current: Release
    previous: Release | None = None
    challenger: Challenge | None = None
    unannounced: bool = False
    withdrawn: str = ""

    def releases(self) -> list[Release]:
        """All releases, the champion first."""
        challenger = self.challenger.release if self.challenger else None
        return [release for release in (self.current, challenger, self.previous) if release]

    def to_dict(self) -> dict[str, Any]:
        """The state as JSON values."""
        value = dataclasses.asdict(self)
        if self.challenger:
            value["challenger"]["plan"] = self.challenger.plan.model_dump(mode="json")
        return value

    @classmethod
    def from_dict(cls, state: dict[str, Any]) -> State:
        """The inverse of `to_dict`; raises ValueError, KeyError or TypeError for other values."""
        challenger = state.get("challenger")
        if challenger:
            plan = Rollout.model_validate(challenger["plan"])
            challenger = Challenge(Release(**challenger["release"]), plan, challenger["step"])
        previous = Release(**state["previous"]) if state["previous"] else None
        return cls(
            Release(**state["current"]),
            previous,
            challenger or None,
            state.get("unannounced", False),
            state.get("withdrawn", ""),
        )


class Releases:
    """The folder of a server's packages.

    Args:
        home: State folder: ``models/<name>/<version>-<digest8>/``, ``models/<name>/deployed.json`` and
            ``deployments.jsonl``, the append-only deployment record.
    """

    def __init__(self, home: Path) -> None:
        self._models, self._record_path = home / "models", home / RECORD_FILE

    def names(self) -> list[str]:
        """Names of the deployed models."""
        return sorted(path.parent.name for path in self._models.glob(f"*/{STATE_FILE}"))

    def folder(self, name: str, release: Release) -> Path:
        """Folder of a release's package."""
        return self._models / name / release.folder

    def read(self, name: str) -> State:
        """The stored state of a model.

        Raises:
            FileNotFoundError: there is none.
            ValueError, KeyError, TypeError: the file is damaged.
        """
        return State.from_dict(json.loads((self._models / name / STATE_FILE).read_text()))

    def write(self, name: str, state: State) -> None:
        """Store the state of a model atomically."""
        write_json(self._models / name / STATE_FILE, state.to_dict())

    def place(self, name: str, source: Path, version: str, digest: str) -> Release:
        """Copy a package into the state folder atomically.

        Raises:
            ArtifactError: it cannot be copied or used, or has a different digest.
            ConfigError: the name or version is invalid.
        """
        for what, text in (("model name", name), ("version", version)):
            if not NAME.fullmatch(text):
                raise ConfigError(f"{text!r} is not a {what}.", fix="Use letters, digits, '_', '-' and '.'.")
        part = self._models / name / f".{uuid.uuid4().hex}"
        try:
            try:
                copy_package(source, part)
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

    def tidy(self, name: str, state: State) -> None:
        """Delete the packages that are not part of the state."""
        keep = {release.folder for release in state.releases()}
        for folder in (self._models / name).iterdir():
            if folder.is_dir() and folder.name not in keep:
                shutil.rmtree(folder, ignore_errors=True)

    def remove(self, name: str) -> None:
        """Delete a model's state and packages."""
        shutil.rmtree(self._models / name, ignore_errors=True)

    def record(self, action: str, name: str, release: Release | None, by: str, **more: Any) -> None:
        """Append a line to the deployment record."""
        entry = {
            "time": time.time(),
            "action": action,
            "model": name,
            "version": release.version if release else None,
            "digest": release.digest if release else None,
            "by": by,
            **more,
        }
        with self._record_path.open("ab") as stream:
            stream.write(orjson.dumps(entry, option=orjson.OPT_APPEND_NEWLINE))
