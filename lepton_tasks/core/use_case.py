"""The typed use case: one YAML file is one Dag and one registered model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import pydantic

from lepton_tasks.core.compress_settings import Compress
from lepton_tasks.core.errors import ConfigError
from lepton_tasks.core.redaction import Redaction
from lepton_tasks.core.registry import did_you_mean
from lepton_tasks.core.rollout import Rollout
from lepton_tasks.core.settings import apply_overrides, read_yaml
from lepton_tasks.core.spec import ComponentSpec, Section
from lepton_tasks.core.train_settings import Choices, Train, Tune

_NAME = r"^[a-z][a-z0-9_]{1,62}$"


class Split(Section):
    """How rows are divided. The three parts add up to 1."""

    train: float = pydantic.Field(0.7, gt=0, lt=1)
    """Part to learn from."""
    validation: float = pydantic.Field(0.15, gt=0, lt=1)
    """Part to choose the best epoch on."""
    test: float = pydantic.Field(0.15, gt=0, lt=1)
    """Part that is looked at once, for the figures that are reported."""
    method: Literal["stratified", "random", "hash", "group", "time", "last", "file"] = "stratified"
    """``stratified`` keeps the share of each label alike in all three; ``random`` does not; ``hash`` goes by the hash
    of `column`, so that a row stays where it is when others come; ``group`` keeps rows with the same `column`
    together; ``time`` tests on what is latest in `column`; ``last`` tests on the rows with its largest whole number and
    validates on those with one less, whatever the sizes; ``file`` keeps the rows of one file together."""
    column: str | None = None
    """The column that ``hash``, ``group``, ``time`` and ``last`` go by."""

    @pydantic.model_validator(mode="after")
    def _adds_up(self) -> Split:
        total = self.train + self.validation + self.test
        if abs(total - 1) > 1e-6:
            raise ValueError(f"train + validation + test is {total:g}; it must be 1")
        if self.column is None and self.method in ("hash", "group", "time", "last"):
            raise ValueError(f"the method {self.method!r} needs a `column` to go by")
        return self


class Data(Section):
    """Where the rows come from and how they are split."""

    source: ComponentSpec
    """A source of the catalogue."""
    label: str | None = "label"
    """Of tables: the column that is to be learned; null if the features tell what is."""
    split: Split = Split()
    """Sizes of the splits."""


class Expectation(Section):
    """One rule of a Great Expectations suite."""

    type: str = pydantic.Field(pattern=r"^expect_[a-z_]+$")
    """Great Expectations' own snake_case name, e.g. ``expect_column_values_to_not_be_null``."""
    params: dict[str, Any] = {}
    """Its keyword arguments."""
    severity: Literal["critical", "warning"] = "critical"
    """``critical`` stops the run; ``warning`` is recorded."""


class Quality(Section):
    """Rules beside those that the learning task brings."""

    raw: tuple[Expectation, ...] = ()
    """Rules for the rows as they came."""
    cleaned: tuple[Expectation, ...] = ()
    """Rules for the rows that cleaning kept, of all splits."""
    features: tuple[Expectation, ...] = ()
    """Rules for what training will see."""
    served: tuple[Expectation, ...] = ()
    """Rules for what the deployed model is asked, beside those that its training data give: the columns of a row, or
    what a codec tells of a text (``tokens``, ``unknown``) or a picture (``brightness``, ``contrast``)."""


class Evaluate(Section):
    """What is reported about the test split."""

    worst: int = pydantic.Field(16, ge=0, le=256)
    """How many of the worst mistakes are drawn."""


class Gate(Section):
    """What a candidate must reach to be promoted."""

    metric: str | None = None
    """The metric that is compared with the champion's; null for the learning task's own."""
    thresholds: dict[str, float] = {}
    """Worst allowed value of each named test metric: the smallest, or of an error (loss, rmse, ...) the largest."""
    max_drop: float = pydantic.Field(0.005, ge=0)
    """How much worse than the champion, on the same test split, the candidate may be."""


class Export(Section):
    """Conversion to ONNX and what it may cost."""

    opset: int = pydantic.Field(20, ge=17, le=25)
    """ONNX operator set."""
    max_difference: float = pydantic.Field(1e-4, gt=0)
    """Largest allowed difference of an output from torch's; relative where the output is larger than 1."""
    max_mismatch: float = pydantic.Field(0.001, ge=0, le=1)
    """Largest allowed share of whole numbers (tokens, items) that differ from torch's."""
    max_metric_drop: float = pydantic.Field(0.0, ge=0)
    """Largest allowed loss of the gate's metric on the test split."""


class Deploy(Section):
    """Where the model is served."""

    enabled: bool = True
    """Whether a passing model is deployed."""
    target: ComponentSpec = ComponentSpec(name="process")
    """A deployment target of the catalogue."""
    rollout: Rollout = Rollout()
    """How a new version takes over."""
    redact: Redaction | None = None
    """What the log of requests must not hold; it travels in the model package, and counts beside the server's rules."""


class Schedule(Section):
    """When Airflow starts a run by itself: a cron expression, or assets of other Dags."""

    cron: str | None = None
    """Five fields, UTC."""
    assets: tuple[str, ...] = ()
    """URIs of assets; the run starts when all were updated."""

    @pydantic.model_validator(mode="after")
    def _one_of_two(self) -> Schedule:
        if bool(self.cron) == bool(self.assets):
            raise ValueError("give either `cron` or `assets`")
        if self.cron is not None and len(self.cron.split()) != 5 and not self.cron.startswith("@"):
            raise ValueError(f"{self.cron!r} is not a cron expression of five fields")
        return self


class UseCase(Section):
    """One use case. Every field but `name`, `data` and `features` has a default.

    Without `task` and `model` it prepares data: its run ends when the features are checked.
    """

    name: str = pydantic.Field(pattern=_NAME)
    """Name of the Dag, the experiment, the registered model and the endpoint; equal to the file's stem."""
    title: str = ""
    """One line for people."""
    description: str = ""
    """What it is for and what not; goes into the model card. Markdown."""
    task: ComponentSpec | None = None
    """The learning task."""
    data: Data
    """Source and splits."""
    clean: tuple[ComponentSpec, ...] = ()
    """Cleaning steps, in order."""
    features: ComponentSpec
    """The feature extractor."""
    quality: Quality = Quality()
    """Expectations beside the task's own."""
    model: ComponentSpec | None = None
    """The network."""
    train: Train = Train()
    """Training."""
    tune: Tune | None = None
    """The search for better values; null for none."""
    evaluate: Evaluate = Evaluate()
    """Evaluation."""
    gate: Gate = Gate()
    """The promotion test."""
    export: Export = Export()
    """Conversion."""
    compress: Compress | None = None
    """The search for a smaller graph that answers as well; null for none."""
    deploy: Deploy = Deploy()
    """Deployment."""
    monitor: tuple[ComponentSpec, ...] = (ComponentSpec(name="data_quality"),)
    """Monitors of what is deployed."""
    schedule: Schedule | None = None
    """Cron expression, assets, or nothing."""
    seed: int = pydantic.Field(0, ge=0, lt=2**32)
    """Seed of splits, weights and shuffles."""

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
    def learning_task(self) -> ComponentSpec:
        """The learning task of a use case that learns."""
        return _there(self.task, "task", self.name)

    @property
    def network(self) -> ComponentSpec:
        """The network of a use case that learns."""
        return _there(self.model, "model", self.name)

    def part(self, *keys: str) -> dict[str, Any]:
        """The named sections (dotted keys) as plain JSON values, for a fingerprint."""
        dump = self.model_dump(mode="json")
        return {key: _at(dump, key) for key in keys}


def _there(spec: ComponentSpec | None, key: str, name: str) -> ComponentSpec:
    if spec is None:
        where = f"{name}.yaml: {key}"
        raise ConfigError("this use case only prepares data.", where=where, fix="Add `task` and `model`.")
    return spec


def _at(tree: Any, key: str) -> Any:
    for name in key.split("."):
        tree = tree[name]
    return tree


def load_use_case(path: Path, overrides: Mapping[str, Any] | None = None) -> UseCase:
    """The use case in a YAML file, with dotted `overrides` applied, every catalogue name checked.

    Imports none of the components. Raises `ConfigError` naming file, key and value.
    """
    from lepton_tasks.core.components import check_names

    raw = apply_overrides(read_yaml(path), overrides or {})
    use_case = parse_use_case(raw, where=path.name)
    if use_case.name != path.stem:
        raise ConfigError(
            f"{use_case.name!r} differs from the file's name.", where=f"{path.name}: name", fix=f"Write {path.stem!r}."
        )
    check_names(use_case, where=path.name)
    for key, value in ends_of(use_case):
        tried = parse_use_case(apply_overrides(raw, {key: value}), where=f"{path.name}: tune.space.{key}")
        check_names(tried, where=f"{path.name}: tune.space.{key}")
    return use_case


def ends_of(use_case: UseCase) -> list[tuple[str, Any]]:
    """Every choice and both ends of every range that `tune` may try, with its key."""
    found: list[tuple[str, Any]] = []
    for key, space in (use_case.tune.space if use_case.tune else {}).items():
        values = space.choices if isinstance(space, Choices) else (space.low, space.high)
        found += [(key, value) for value in values]
    return found


def parse_use_case(raw: Mapping[str, Any], *, where: str) -> UseCase:
    """A `UseCase` from plain values; every fault is listed in one `ConfigError`."""
    try:
        return UseCase.model_validate(raw)
    except pydantic.ValidationError as error:
        lines = [_explain(dict(fault)) for fault in error.errors()]
        raise ConfigError("; ".join(lines) + ".", where=where) from error


def _explain(fault: dict[str, Any]) -> str:
    loc = fault["loc"]
    key = ".".join(str(part) for part in loc) or "(file)"
    if fault["type"] == "extra_forbidden":
        known = _fields_at(loc[:-1])
        return (
            f"{key}: unknown key. {did_you_mean(str(loc[-1]), known).rstrip('.')}" if known else f"{key}: unknown key"
        )
    if fault["type"] == "missing":
        return f"{key}: missing; it has no default"
    return f"{key}: {fault['input']!r} is not right: {fault['msg']}"


def _fields_at(loc: tuple[Any, ...]) -> list[str]:
    """The field names of the model at a location of the tree, as far as it can be followed."""
    model: Any = UseCase
    for part in loc:
        field = getattr(model, "model_fields", {}).get(part)
        if field is None:
            continue
        candidates = [field.annotation, *getattr(field.annotation, "__args__", ())]
        model = next((c for c in candidates if isinstance(c, type) and issubclass(c, pydantic.BaseModel)), None)
    return list(getattr(model, "model_fields", {}))
