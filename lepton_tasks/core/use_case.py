"""The typed use case: one YAML file is one Dag and one registered model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import pydantic

from lepton_tasks.core.compress_settings import Compress
from lepton_tasks.core.errors import ConfigError
from lepton_tasks.core.faults import NAME, reason_of
from lepton_tasks.core.redaction import Redaction
from lepton_tasks.core.registry import did_you_mean
from lepton_tasks.core.rollout import Rollout
from lepton_tasks.core.spec import ComponentSpec, Section
from lepton_tasks.core.train_settings import Train, Tune
from lepton_tasks.core.watch_settings import Cron, Watch


class Split(Section):
    """Fractions of the rows per split; their sum is 1."""

    train: float = pydantic.Field(0.7, gt=0, lt=1)
    """Fraction for training."""
    validation: float = pydantic.Field(0.15, gt=0, lt=1)
    """Fraction for validation, e.g. to choose the best epoch."""
    test: float = pydantic.Field(0.15, gt=0, lt=1)
    """Fraction for the final, reported metrics."""
    method: Literal["stratified", "random", "hash", "group", "time", "last", "file"] = "stratified"
    """``stratified`` keeps label proportions equal in all splits; ``random`` does not; ``hash`` uses the hash of
    `column`, so that rows keep their split when others are added; ``group`` keeps rows with equal `column` together;
    ``time`` tests on the latest rows by `column`; ``last`` tests on the rows with the largest integer in `column` and
    validates on those with one less, whatever the fractions; ``file`` keeps the rows of one file together."""
    column: str | None = None
    """The column for ``hash``, ``group``, ``time`` and ``last``."""

    @pydantic.model_validator(mode="after")
    def _adds_up(self) -> Split:
        total = self.train + self.validation + self.test
        if abs(total - 1) > 1e-6:
            raise ValueError(f"train + validation + test is {total:g}; it must be 1")
        if self.column is None and self.method in ("hash", "group", "time", "last"):
            raise ValueError(f"the method {self.method!r} needs a `column`")
        return self


class Data(Section):
    """Data source and splits."""

    source: ComponentSpec
    """Data source; see `lepton list sources` and `table_sources`."""
    label: str | None = "label"
    """Target column of a table; null if the features define the target."""
    split: Split = Split()
    """Train, validation and test splits."""


class Expectation(Section):
    """A Great Expectations rule."""

    type: str = pydantic.Field(pattern=r"^expect_[a-z_]+$")
    """Name of the expectation, e.g. ``expect_column_values_to_not_be_null``."""
    params: dict[str, Any] = {}
    """Its keyword arguments."""
    severity: Literal["critical", "warning"] = "critical"
    """``critical`` fails the run; ``warning`` is only reported."""


class Quality(Section):
    """Data rules in addition to the default ones."""

    raw: tuple[Expectation, ...] = ()
    """Rules for the raw rows."""
    cleaned: tuple[Expectation, ...] = ()
    """Rules for the cleaned rows of all splits."""
    features: tuple[Expectation, ...] = ()
    """Rules for the features."""
    served: tuple[Expectation, ...] = ()
    """Rules for requests to the deployed model, in addition to those derived from the training data: columns of a row,
    or statistics of a text (``tokens``, ``unknown``) or an image (``brightness``, ``contrast``)."""


class Evaluate(Section):
    """Evaluation on the test split."""

    worst: int = pydantic.Field(16, ge=0, le=256)
    """Number of worst errors to plot."""


class Gate(Section):
    """Conditions for promotion."""

    metric: str | None = None
    """Metric compared with the champion's; null for the learning task's default."""
    thresholds: dict[str, float] = {}
    """Worst acceptable test metrics: a lower bound, or an upper bound for errors (loss, rmse, ...)."""
    max_drop: float = pydantic.Field(0.005, ge=0)
    """Largest acceptable loss of the metric against the champion on the same test split."""


class Export(Section):
    """Conversion to ONNX and its tolerances."""

    opset: int = pydantic.Field(20, ge=17, le=25)
    """ONNX operator set version."""
    max_difference: float = pydantic.Field(1e-4, gt=0)
    """Largest difference of an output from torch's; relative for outputs above 1."""
    max_mismatch: float = pydantic.Field(0.001, ge=0, le=1)
    """Largest fraction of discrete outputs (tokens, items) that differ from torch's."""
    max_metric_drop: float = pydantic.Field(0.0, ge=0)
    """Largest loss of the gate's metric on the test split."""


class Deploy(Section):
    """Deployment."""

    enabled: bool = True
    """Whether to deploy a model that passes the gate."""
    target: ComponentSpec | None = None
    """Deployment target; null for the environment's. See `lepton list deploy_targets`."""
    rollout: Rollout = Rollout()
    """Rollout of a new version."""
    redact: Redaction | None = None
    """What the request log must not contain; stored in the model package, applied with the server's rules."""


class Schedule(Section):
    """When Airflow starts runs: a cron expression, or assets of other Dags."""

    cron: Cron | None = None
    """Cron expression of five fields, UTC."""
    assets: tuple[str, ...] = ()
    """Asset URIs; a run starts once all are updated."""

    @pydantic.model_validator(mode="after")
    def _one_of_two(self) -> Schedule:
        if bool(self.cron) == bool(self.assets):
            raise ValueError("give either `cron` or `assets`")
        return self


class UseCase(Section):
    """One use case. Every field but `name`, `data` and `features` has a default.

    Without `task` and `model` it prepares data: its run ends when the features are checked.
    """

    name: str = pydantic.Field(pattern=NAME)
    """Name of the Dag, experiment, registered model and endpoint; equals the file name."""
    title: str = ""
    """Title."""
    description: str = ""
    """Intended use, for the model card; Markdown."""
    task: ComponentSpec | None = None
    """Learning task."""
    data: Data
    """Data source and splits."""
    clean: tuple[ComponentSpec, ...] = ()
    """Cleaning steps, in order."""
    features: ComponentSpec
    """Feature extractor."""
    quality: Quality = Quality()
    """Additional data rules."""
    model: ComponentSpec | None = None
    """Network."""
    train: Train = Train()
    """Training settings."""
    tune: Tune | None = None
    """Hyperparameter search; null for none."""
    evaluate: Evaluate = Evaluate()
    """Evaluation."""
    gate: Gate = Gate()
    """Promotion gate."""
    export: Export = Export()
    """Conversion to ONNX."""
    compress: Compress | None = None
    """Search for a smaller graph of equal quality; null for none."""
    deploy: Deploy = Deploy()
    """Deployment."""
    monitor: tuple[ComponentSpec, ...] = tuple(
        ComponentSpec(name=name) for name in ("data_quality", "drift", "performance", "resources")
    )
    """Monitors of the deployed model."""
    watch: Watch = Watch()
    """Checks of the deployed model between runs."""
    schedule: Schedule | None = None
    """Cron expression, assets, or null."""
    seed: int = pydantic.Field(0, ge=0, lt=2**32)
    """Seed of splits, weights and shuffling."""

    @pydantic.field_validator("schedule", mode="before")
    @classmethod
    def _bare_cron(cls, value: Any) -> Any:
        return {"cron": value} if isinstance(value, str) else value

    @pydantic.model_validator(mode="after")
    def _task_and_model(self) -> UseCase:
        if (self.task is None) != (self.model is None):
            absent = "task" if self.task is None else "model"
            raise ValueError(f"`{absent}` is missing: `task` and `model` go together; without both, data is prepared")
        return self

    @property
    def learns(self) -> bool:
        """Whether a network is trained; otherwise the run ends with the features."""
        return self.task is not None

    @property
    def watched(self) -> bool:
        """Whether the deployed model is checked between runs."""
        return self.learns and self.deploy.enabled and self.watch.schedule is not None

    @property
    def learning_task(self) -> ComponentSpec:
        """The learning task of a use case that learns."""
        return _required(self.task, "task", self.name)

    @property
    def network(self) -> ComponentSpec:
        """The network of a use case that learns."""
        return _required(self.model, "model", self.name)

    def part(self, *keys: str) -> dict[str, Any]:
        """The named sections (dotted keys) as JSON values, for a fingerprint."""
        dump = self.model_dump(mode="json")
        return {key: _at(dump, key) for key in keys}


def _required(spec: ComponentSpec | None, key: str, name: str) -> ComponentSpec:
    if spec is None:
        where = f"{name}.yaml: {key}"
        raise ConfigError("this use case only prepares data.", where=where, fix="Add `task` and `model`.")
    return spec


def _at(tree: Any, key: str) -> Any:
    for name in key.split("."):
        tree = tree[name]
    return tree


def parse_use_case(raw: Mapping[str, Any], *, where: str) -> UseCase:
    """Validate plain values as a `UseCase`; all faults are listed in one `ConfigError`."""
    try:
        return UseCase.model_validate(raw)
    except pydantic.ValidationError as error:
        lines = [_explain(dict(fault)) for fault in error.errors()]
        raise ConfigError("; ".join(lines) + ".", where=where) from error


def _explain(fault: dict[str, Any]) -> str:
    loc = fault["loc"]
    if loc[:2] == ("tune", "space"):  # the next part is a key, the one after it tells ranges from choices
        loc = (*loc[:3], *loc[4:])
    key = ".".join(str(part) for part in loc) or "(file)"
    if fault["type"] == "extra_forbidden":
        known = _fields_at(loc[:-1])
        return (
            f"{key}: unknown key. {did_you_mean(str(loc[-1]), known).rstrip('.')}" if known else f"{key}: unknown key"
        )
    if fault["type"] == "missing":
        return f"{key}: missing; it has no default"
    return f"{key}: {fault['input']!r} is invalid: {reason_of(fault)}"


def _fields_at(loc: tuple[Any, ...]) -> list[str]:
    """Field names of the pydantic model at a location of the use case."""
    model: Any = UseCase
    for part in loc:
        field = getattr(model, "model_fields", {}).get(part)
        if field is None:
            continue
        candidates = [field.annotation, *getattr(field.annotation, "__args__", ())]
        model = next((c for c in candidates if isinstance(c, type) and issubclass(c, pydantic.BaseModel)), None)
    return list(getattr(model, "model_fields", {}))
