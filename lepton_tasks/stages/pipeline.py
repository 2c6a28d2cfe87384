"""The pipeline: stages in order, with their inputs, outputs and fingerprints."""

from __future__ import annotations

import dataclasses

from lepton_tasks.core.errors import ConfigError
from lepton_tasks.core.registry import did_you_mean
from lepton_tasks.core.use_case import UseCase


@dataclasses.dataclass(frozen=True)
class Stage:
    """One step of a run.

    Attributes:
        name: Stage name.
        function: ``"module:function"``, called as ``function(use_case, ctx, **needs) -> ArtifactRef``.
        group: Its task group in Airflow.
        needs: Names of its input references, each produced by an earlier stage.
        reads: Names of further inputs, used for records only and not part of the fingerprint.
        produces: Name of the reference it returns.
        sections: Parts of the use case (dotted keys) that its result depends on.
        code: Further modules or packages that its result depends on, besides its own module.
        retries: Number of retries of a retryable error.
        reusable: Whether the result is reused if the fingerprint is unchanged.
        state: ``"module:function"`` that returns external state as JSON values, part of the fingerprint.
        fresh: ``"module:function"`` that checks whether a reused reference is still valid outside the store.
        deploys: Whether it is skipped with `deploy.enabled: false`.
    """

    name: str
    function: str
    group: str
    needs: tuple[str, ...]
    produces: str
    reads: tuple[str, ...] = ()
    sections: tuple[str, ...] = ()
    code: tuple[str, ...] = ()
    retries: int = 0
    reusable: bool = True
    state: str | None = None
    fresh: str | None = None
    deploys: bool = False

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of all references that the function is called with."""
        return (*self.needs, *self.reads)


_DATA_CODE = ("lepton_tasks.data", "lepton_tasks.codecs")
_QUALITY_CODE = (
    "lepton_tasks.quality",
    "lepton_tasks.data.bins",
    "lepton_tasks.data.counter",
    "lepton_tasks.data.expectations",
    "lepton_tasks.data.extractors.expectations",
    "lepton_tasks.data.features",
    "lepton_tasks.data.sketch",
)
_MODEL_CODE = ("lepton_tasks.models", "lepton_tasks.learning")
_WEIGHTS = "lepton_tasks.stages.pretrained_weights:weights_state"
_REPLAY_CODE = ("lepton_tasks.codecs", "lepton_tasks.data.requests", "lepton_tasks.stages.replay")

STAGES: tuple[Stage, ...] = (
    Stage(
        "ingest",
        "lepton_tasks.stages.ingest:ingest",
        "data",
        needs=(),
        produces="raw",
        sections=("data.source",),
        code=(
            "lepton_tasks.data.archives",
            "lepton_tasks.data.files",
            "lepton_tasks.data.rows",
            "lepton_tasks.data.sources",
            "lepton_tasks.data.tables.ingest",
        ),
        retries=2,
        state="lepton_tasks.stages.ingest:source_state",
    ),
    Stage(
        "validate_raw",
        "lepton_tasks.stages.validate_raw:validate_raw",
        "data",
        needs=("raw",),
        produces="raw_quality",
        sections=("name", "data.label", "features.name", "quality.raw"),
        code=_QUALITY_CODE,
    ),
    Stage(
        "clean",
        "lepton_tasks.stages.clean:clean",
        "data",
        needs=("raw",),
        produces="cleaned",
        sections=("clean", "features"),
        code=_DATA_CODE,
        state="lepton_tasks.stages.clean:label_state",
    ),
    Stage(
        "split",
        "lepton_tasks.stages.split:split",
        "data",
        needs=("cleaned",),
        produces="splits",
        sections=("data.label", "data.split", "seed"),
        code=("lepton_tasks.data.split", "lepton_tasks.data.split_samples", "lepton_tasks.data.tables"),
    ),
    Stage(
        "validate_cleaned",
        "lepton_tasks.stages.validate_cleaned:validate_cleaned",
        "data",
        needs=("splits",),
        produces="cleaned_quality",
        sections=("name", "data.split", "features.name", "quality.cleaned"),
        code=_QUALITY_CODE,
    ),
    Stage(
        "fit_features",
        "lepton_tasks.stages.fit_features:fit_features",
        "data",
        needs=("cleaned", "splits"),
        produces="preprocessor",
        sections=("clean", "data.label", "features", "seed"),
        code=_DATA_CODE,
    ),
    Stage(
        "transform",
        "lepton_tasks.stages.transform:transform",
        "data",
        needs=("cleaned", "splits", "preprocessor"),
        produces="features",
        sections=("data.label", "features", "seed"),
        code=_DATA_CODE,
    ),
    Stage(
        "validate_features",
        "lepton_tasks.stages.validate_features:validate_features",
        "data",
        needs=("features",),
        produces="features_quality",
        sections=("name", "features.name", "quality.features"),
        code=_QUALITY_CODE,
    ),
    Stage(
        "train",
        "lepton_tasks.stages.train:train",
        "training",
        needs=("features", "preprocessor"),
        reads=("raw", "raw_quality", "cleaned", "cleaned_quality", "features_quality"),
        produces="checkpoint",
        sections=("task", "model", "train", "features", "seed"),
        code=(*_MODEL_CODE, "lepton_tasks.training"),
        retries=2,
        state=_WEIGHTS,
    ),
    Stage(
        "evaluate",
        "lepton_tasks.stages.evaluate:evaluate",
        "training",
        needs=("checkpoint", "features", "preprocessor", "splits"),
        produces="evaluation",
        sections=("task", "model", "features", "evaluate"),
        code=(
            *_MODEL_CODE,
            *_REPLAY_CODE,
            "lepton_tasks.quality.one_pass",
            "lepton_tasks.quality.profile",
            "lepton_tasks.quality.served",
            "lepton_tasks.training.checkpoint",
        ),
        retries=2,
    ),
    Stage(
        "gate",
        "lepton_tasks.stages.gate:gate",
        "training",
        needs=("evaluation", "features", "preprocessor"),
        produces="verdict",
        sections=("name", "task", "features", "gate"),
        code=(
            "lepton_tasks.learning",
            "lepton_tasks.core.metrics",
            *_REPLAY_CODE,
            "lepton_tasks.serving.package",
            "lepton_tasks.stages.champion_comparison",
        ),
        retries=2,
        state="lepton_tasks.stages.champion_comparison:champion_state",
    ),
    Stage(
        "export",
        "lepton_tasks.stages.export:export",
        "release",
        needs=("checkpoint", "preprocessor", "features", "evaluation"),
        produces="exported",
        sections=("name", "title", "description", "task", "model", "features", "export.opset"),
        code=(
            *_MODEL_CODE,
            *_REPLAY_CODE,
            "lepton_tasks.quality.one_pass",
            "lepton_tasks.quality.profile",
            "lepton_tasks.quality.served",
            "lepton_tasks.serving.package",
            "lepton_tasks.training.card",
            "lepton_tasks.training.checkpoint",
            "lepton_tasks.training.energy",
            "lepton_tasks.training.export",
        ),
    ),
    Stage(
        "verify_package",
        "lepton_tasks.stages.verify_package:verify_package",
        "release",
        needs=("exported", "evaluation", "features", "preprocessor"),
        produces="package",
        sections=("name", "task", "features", "gate", "export", "compress", "deploy.redact"),
        code=(
            "lepton_tasks.learning",
            *_REPLAY_CODE,
            "lepton_tasks.core.redaction",
            "lepton_tasks.serving.prediction_difference",
            "lepton_tasks.serving.package",
            "lepton_tasks.stages.champion_comparison",
        ),
        retries=2,
        state="lepton_tasks.stages.verify_package:champion_state",
    ),
    Stage(
        "register",
        "lepton_tasks.stages.register:register",
        "release",
        needs=("checkpoint", "evaluation", "package"),
        reads=("raw", "features"),
        produces="model_version",
        sections=("name",),
        retries=3,
        fresh="lepton_tasks.stages.register:still_registered",
    ),
    Stage(
        "deploy",
        "lepton_tasks.stages.deploy:deploy",
        "release",
        needs=("model_version", "package"),
        reads=("verdict",),
        produces="endpoint",
        sections=("name", "deploy"),
        retries=2,
        fresh="lepton_tasks.stages.deploy:still_serving",
        deploys=True,
    ),
    Stage(
        "smoke_test",
        "lepton_tasks.stages.smoke_test:smoke_test",
        "release",
        needs=("endpoint", "package"),
        produces="smoke",
        sections=("name", "deploy"),
        reusable=False,
        deploys=True,
    ),
    Stage(
        "monitor",
        "lepton_tasks.stages.monitor:monitor",
        "release",
        needs=("endpoint",),
        produces="monitoring",
        sections=("name", "monitor"),
        reusable=False,
        deploys=True,
    ),
)


TUNE = Stage(
    "tune",
    "lepton_tasks.stages.tune:tune",
    "training",
    needs=("features", "preprocessor"),
    produces="tuned",
    sections=("task", "model", "train", "tune", "features", "seed"),
    code=(*_MODEL_CODE, "lepton_tasks.training"),
    retries=2,
    state=_WEIGHTS,
)
"""Before `train`, in use cases with a section `tune`."""

COMPRESS = Stage(
    "compress",
    "lepton_tasks.stages.compress:compress",
    "release",
    needs=("exported", "checkpoint", "evaluation", "features", "preprocessor", "splits"),
    produces="compressed",
    sections=("name", "task", "features", "gate.metric", "export.opset", "compress", "seed"),
    code=(
        *_MODEL_CODE,
        *_REPLAY_CODE,
        "lepton_tasks.serving.package",
        "lepton_tasks.stages.candidates",
        "lepton_tasks.stages.distillation",
        "lepton_tasks.training",
    ),
    retries=2,
    state=_WEIGHTS,
)
"""Before `verify_package`, in use cases with a section `compress`."""


def every_stage() -> tuple[Stage, ...]:
    """All stages, the optional ones last."""
    return (*STAGES, TUNE, COMPRESS)


def stages_of(use_case: UseCase) -> tuple[Stage, ...]:
    """The stages of a use case, with its optional ones; only the data stages if nothing is trained."""
    if not use_case.learns:
        return tuple(stage for stage in STAGES if stage.group == "data")
    before = {"train": TUNE if use_case.tune else None, "verify_package": COMPRESS if use_case.compress else None}
    stages: list[Stage] = []
    for stage in STAGES:
        if (optional := before.get(stage.name)) is not None:
            stages += [optional, dataclasses.replace(stage, needs=(*stage.needs, optional.produces))]
        else:
            stages.append(stage)
    return tuple(stages)


def stage_named(name: str, use_case: UseCase | None = None) -> Stage:
    """Find a stage by name, with the use case's inputs; raises `ConfigError` with the closest name."""
    stages = every_stage() if use_case is None else stages_of(use_case)
    for stage in stages:
        if stage.name == name:
            return stage
    raise ConfigError(f"no stage named {name!r}.", fix=did_you_mean(name, [s.name for s in stages]))
