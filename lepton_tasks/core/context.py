"""Run context: state folder, environment, seed, clock and progress reporting of a stage."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
import logging
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lepton_tasks.core.artifacts import ArtifactRef, Fact
from lepton_tasks.core.environment import Environment, load_environment, state_root
from lepton_tasks.core.store import ArtifactStore, Draft, R


@dataclasses.dataclass(frozen=True)
class Progress:
    """Progress of a long operation; `total` is None if unknown, `note` is a free text."""

    stage: str
    done: int
    total: int | None
    unit: str
    seconds: float
    parts_left: int | None = None
    note: str = ""

    def __str__(self) -> str:
        rate = self.done / self.seconds if self.seconds > 0 else 0.0
        total = self.done if self.total is None else self.total
        left = f", {(total - self.done) / rate:.0f} s left" if rate > 0 and self.done < total else ""
        parts = f", {self.parts_left:,} parts left" if self.parts_left else ""
        of = "" if self.total is None else f" of {self.total:,}"
        speed = f"{1 / rate:,.1f} s each" if 0 < rate < 1 else f"{rate:,.1f} {self.unit}/s"
        note = f": {self.note}" if self.note else ""
        return f"{self.stage}: {self.done:,}{of} {self.unit} ({speed}{parts}{left}){note}"


def _utc_now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)


def _print_progress(progress: Progress) -> None:
    print(progress, file=sys.stderr, flush=True)


@dataclasses.dataclass(frozen=True)
class RunContext:
    """Identity of the run, service addresses, artifact store and output location.

    The runner sets `stage` and `fingerprint` before it calls a stage.
    """

    run_id: str
    root: Path
    environment: Environment
    seed: int = 0
    clock: Callable[[], dt.datetime] = _utc_now
    on_progress: Callable[[Progress], None] = _print_progress
    stage: str = ""
    fingerprint: str = ""
    force: bool = False
    more_stages: bool = False
    """Whether this process also runs later stages of the run."""

    @classmethod
    def from_env(cls, run_id: str, variables: Mapping[str, str] | None = None) -> RunContext:
        """A context from ``LEPTON_*`` variables and `configs/environments`."""
        return cls(run_id=run_id, root=state_root(variables), environment=load_environment(variables))

    @classmethod
    def local(cls, root: Path, *, run_id: str = "local", **environment: object) -> RunContext:
        """A context whose entire state is in one folder; for tests and notebooks."""
        return cls(run_id=run_id, root=Path(root), environment=Environment.model_validate(environment))

    @property
    def store(self) -> ArtifactStore:
        """The artifact store of this state folder."""
        return ArtifactStore(self.root)

    @property
    def log(self) -> logging.Logger:
        """The logger of the current stage."""
        return logging.getLogger(f"lepton.{self.stage or 'run'}")

    @property
    def workdir(self) -> Path:
        """Work folder that survives a killed attempt at the same stage and inputs."""
        return self.store.workdir(self.stage, self.fingerprint)

    def draft(self) -> Draft:
        """Private folder for this stage's artifact; invisible to others until `publish`."""
        return self.store.draft(self.stage, self.fingerprint)

    def publish(self, draft: Draft, kind: type[R], facts: Mapping[str, Fact] | None = None) -> R:
        """Publish the draft as this stage's artifact."""
        return draft.publish(kind, facts, replace=self.force)

    def open(self, ref: ArtifactRef) -> Path:
        """Folder of an input artifact, after its digests were checked."""
        return self.store.open(ref)

    def read_json(self, ref: ArtifactRef, name: str) -> Any:
        """Parsed content of a JSON file of an input artifact."""
        return json.loads((self.open(ref) / name).read_text())

    def meter(self, total: int | None, unit: str, *, every: float = 2.0) -> Callable[..., None]:
        """A function to call with the count so far and, optionally, the number of partitions left.

        It reports at most once every `every` seconds, and at the end if `total` is known.
        """
        started = time.monotonic()
        last = started

        def tick(done: int, parts_left: int | None = None) -> None:
            nonlocal last
            now = time.monotonic()
            if now - last >= every or (total is not None and done >= total):
                last = now
                self.on_progress(Progress(self.stage, done, total, unit, now - started, parts_left))

        return tick
