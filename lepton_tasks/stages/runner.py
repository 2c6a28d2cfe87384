"""Run one stage or all of them: the single entry point for CLI, SDK, tests and Airflow."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from lepton_tasks.core.artifacts import ArtifactRef
from lepton_tasks.core.context import RunContext
from lepton_tasks.core.errors import ArtifactError, LeptonError
from lepton_tasks.core.registry import load_object
from lepton_tasks.core.store import digest_of
from lepton_tasks.core.use_case import UseCase
from lepton_tasks.stages.code import code_digest
from lepton_tasks.stages.pipeline import Stage, every_stage, stage_named, stages_of
from lepton_tasks.stages.running import running
from lepton_tasks.training.launch import prepare
from lepton_tasks.training.prepared import dismissed

Refs = Mapping[str, ArtifactRef]


@dataclasses.dataclass(frozen=True)
class StageResult:
    """Result of one stage. `seconds` is wall time; `cached` means that an earlier result was reused."""

    stage: str
    state: str
    seconds: float
    cached: bool = False
    ref: ArtifactRef | None = None
    error: LeptonError | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "stage": self.stage,
            "state": self.state,
            "seconds": round(self.seconds, 3),
            "cached": self.cached,
            "ref": self.ref.model_dump() if self.ref else None,
            "error": self.error.to_dict() if self.error else None,
        }


@dataclasses.dataclass(frozen=True)
class RunResult:
    """Result of a run."""

    run_id: str
    stages: tuple[StageResult, ...]
    refs: Refs

    @property
    def ok(self) -> bool:
        """Whether no stage failed."""
        return all(result.state != "failed" for result in self.stages)


def fingerprint(stage: Stage, use_case: UseCase, ctx: RunContext, refs: Refs) -> str:
    """Digest of everything that the result depends on: code, parts of the use case, inputs, external state."""
    parts: dict[str, Any] = {
        "stage": stage.name,
        "code": code_digest((stage.function.partition(":")[0], *stage.code), ctx.store.root),
        "use_case": use_case.part(*stage.sections),
        "inputs": {name: refs[name].digest for name in stage.needs},
    }
    if stage.state:
        parts["state"] = load_object(stage.state)(use_case, ctx, **{name: refs[name] for name in stage.needs})
    return digest_of(parts)[:32]


def reusable(stage: Stage, use_case: UseCase, ctx: RunContext, key: str) -> ArtifactRef | None:
    """The earlier result with the fingerprint `key`, if it is reusable and still valid."""
    if ctx.force or not stage.reusable:
        return None
    ref = ctx.store.find(stage.name, key)
    if ref is None or (stage.fresh and not load_object(stage.fresh)(use_case, ctx, ref)):
        return None
    return ref


def plan_stage(name: str, use_case: UseCase, ctx: RunContext, refs: Refs) -> ArtifactRef | None:
    """The reference that running the stage would reuse, or None if it must run. Imports nothing heavy."""
    stage = stage_named(name, use_case)
    _check_needs(stage, refs)
    return reusable(stage, use_case, ctx, fingerprint(stage, use_case, ctx, refs))


def run_stage(name: str, use_case: UseCase, ctx: RunContext, refs: Refs) -> StageResult:
    """Run one stage, or reuse its earlier result.

    Raises:
        LeptonError: from the stage, or `ArtifactError` for a full disk; nothing is published.
    """
    stage = stage_named(name, use_case)
    _check_needs(stage, refs)
    started = time.monotonic()
    key = fingerprint(stage, use_case, ctx, refs)
    ctx = dataclasses.replace(ctx, stage=name, fingerprint=key, seed=use_case.seed)
    with _full_disk_reported(ctx.root), ctx.store.lock(name, key):
        ref = reusable(stage, use_case, ctx, key)
        cached = ref is not None
        if ref is None:
            if not stage.reusable or stage.fresh:  # an earlier result must not prevent publication
                ctx = dataclasses.replace(ctx, force=True)
            ref = load_object(stage.function)(use_case, ctx, **{name: refs[name] for name in stage.inputs})
    return StageResult(name, "success", time.monotonic() - started, cached, ref)


@contextlib.contextmanager
def _full_disk_reported(root: Path) -> Iterator[None]:
    """Convert the `OSError` of a full disk or an exhausted quota into an `ArtifactError`."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        free = shutil.disk_usage(root).free
        raise ArtifactError(
            f"no space left to write {error.filename or 'the outcome of the stage'}: {error.strerror}.",
            where=f"{root} ({free / 2**20:,.0f} MiB free)",
            fix="Make room there or where temporary files are, or choose another LEPTON_HOME, and run again: what is "
            "done is kept.",
        ) from error


def run_pipeline(
    use_case: UseCase,
    ctx: RunContext,
    *,
    until: str | None = None,
    force_stage: str | None = None,
    on_start: Callable[[Stage], None] = lambda stage: None,
    on_end: Callable[[StageResult], None] = lambda result: None,
) -> RunResult:
    """Run all stages in order, up to and including `until`; stops at the first failure, which the result contains.

    `force_stage` names one stage that runs even if nothing changed; ``ctx.force`` does so for all.
    """
    for name in filter(None, (until, force_stage)):
        stage_named(name)
    with running(ctx.root, use_case.name), dismissed():
        return _all_stages(use_case, ctx, until, force_stage, on_start, on_end)


def _all_stages(
    use_case: UseCase,
    ctx: RunContext,
    until: str | None,
    force_stage: str | None,
    on_start: Callable[[Stage], None],
    on_end: Callable[[StageResult], None],
) -> RunResult:
    refs: dict[str, ArtifactRef] = {}
    results: list[StageResult] = []
    stages = _up_to(until, use_case)
    trains = any(stage.group == "training" for stage in stages)
    for stage in stages:
        if stage.deploys and not use_case.deploy.enabled:
            result = StageResult(stage.name, "skipped", 0.0)
        else:
            on_start(stage)
            forced, last = ctx.force or stage.name == force_stage, stage is stages[-1]
            stage_ctx = dataclasses.replace(ctx, force=forced, more_stages=not last)
            result = _run_with_retries(stage, use_case, stage_ctx, refs)
            if trains and stage.group == "data" and not result.cached:  # so training will most likely run
                prepare(use_case.train.devices, ctx.environment.training)
        results.append(result)
        on_end(result)
        if result.ref is not None:
            refs[stage.produces] = result.ref
        if result.state == "failed":
            break
    return RunResult(ctx.run_id, tuple(results), refs)


def _up_to(until: str | None, use_case: UseCase) -> tuple[Stage, ...]:
    stages = stages_of(use_case)
    names = [stage.name for stage in stages]
    return stages[: names.index(until) + 1] if until in names else stages


def _run_with_retries(stage: Stage, use_case: UseCase, ctx: RunContext, refs: Refs) -> StageResult:
    started = time.monotonic()
    for attempt in range(stage.retries + 1):
        try:
            return run_stage(stage.name, use_case, ctx, refs)
        except LeptonError as error:
            if not error.retryable or attempt == stage.retries:
                return StageResult(stage.name, "failed", time.monotonic() - started, error=error)
            wait = 2.0**attempt
            ctx.log.warning("%s: %s Trying again in %.0f s.", stage.name, error, wait)
            time.sleep(wait)
    raise AssertionError("unreachable: the loop returns")


def _check_needs(stage: Stage, refs: Refs) -> None:
    if missing := [name for name in stage.inputs if name not in refs]:
        producers = {s.produces: s.name for s in every_stage()}
        raise ArtifactError(
            f"the stage {stage.name!r} lacks {', '.join(missing)}.",
            fix=f"Run {', '.join(producers[name] for name in missing)} first.",
        )
