"""Look up, validate and build the components that a use case names."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from lepton_tasks.core import metrics, protocols
from lepton_tasks.core.catalogue import (
    ALL_FEATURES,
    AUGMENTATIONS,
    AVERAGES,
    CLEANING_STEPS,
    CODECS,
    COMPRESSIONS,
    DEPLOY_TARGETS,
    FEATURES,
    LEARNING_TASKS,
    LOSSES,
    MODELS,
    MONITORS,
    OPTIMIZERS,
    REMEDIES,
    SCHEDULES,
    SOURCES,
    TABLE_FEATURES,
    TABLE_SOURCES,
    TABLE_STEPS,
)
from lepton_tasks.core.environment import Environment
from lepton_tasks.core.errors import ConfigError
from lepton_tasks.core.expectation_names import check_expectations
from lepton_tasks.core.registry import Registry, check_params
from lepton_tasks.core.release_protocols import DeployTarget
from lepton_tasks.core.spec import ComponentSpec
from lepton_tasks.core.use_case import UseCase


def takes_tables(use_case: UseCase) -> bool:
    """Whether the use case works on table rows; otherwise on samples such as images."""
    return use_case.features.name in TABLE_FEATURES.entries


def learns_numbers(use_case: UseCase) -> bool:
    """Whether its learning task says that the label has to be a number."""
    return use_case.learns and getattr(LEARNING_TASKS.load(use_case.learning_task.name), "learns_numbers", False)


def named_components(use_case: UseCase) -> list[tuple[str, Registry[Any], ComponentSpec]]:
    """Every component of a use case: its dotted key, its registry, and the spec."""
    tables = takes_tables(use_case)
    found: list[tuple[str, Registry[Any], ComponentSpec]] = [
        ("data.source", TABLE_SOURCES if tables else SOURCES, use_case.data.source),
        ("features", ALL_FEATURES, use_case.features),
        ("train.optimizer", OPTIMIZERS, use_case.train.optimizer),
        ("train.schedule", SCHEDULES, use_case.train.schedule),
    ]
    if use_case.deploy.target is not None:
        found.append(("deploy.target", DEPLOY_TARGETS, use_case.deploy.target))
    if use_case.train.loss is not None:
        found.append(("train.loss", LOSSES, use_case.train.loss))
    if use_case.train.average is not None:
        found.append(("train.average", AVERAGES, use_case.train.average))
    if use_case.learns:
        found += [("task", LEARNING_TASKS, use_case.learning_task), ("model", MODELS, use_case.network)]
    steps: Registry[Any] = TABLE_STEPS if tables else CLEANING_STEPS
    found += [(f"clean.{i}", steps, spec) for i, spec in enumerate(use_case.clean)]
    found += [(f"train.augment.{i}", AUGMENTATIONS, spec) for i, spec in enumerate(use_case.train.augment)]
    candidates = use_case.compress.candidates if use_case.compress else ()
    found += [(f"compress.candidates.{i}", COMPRESSIONS, spec) for i, spec in enumerate(candidates)]
    found += [(f"monitor.{i}", MONITORS, spec) for i, spec in enumerate(use_case.monitor)]
    found += [(f"watch.remedies.{i}", REMEDIES, spec) for i, spec in enumerate(use_case.watch.remedies)]
    return found


def check_names(use_case: UseCase, *, where: str) -> None:
    """Raise `ConfigError` for the first unknown component or expectation, or a mistake in `gate`; imports none."""
    for key, registry, spec in named_components(use_case):
        if registry in (SOURCES, TABLE_SOURCES):
            _check_source(use_case, where=f"{where}: {key}.name")
        registry.check(spec.name, where=f"{where}: {key}.name")
    check_expectations(use_case, where=where)
    _check_gate(use_case, where=f"{where}: gate")


def _check_source(use_case: UseCase, *, where: str) -> None:
    """Raise `ConfigError` if source and features do not fit together, or the source name is a path."""
    name, features = use_case.data.source.name, use_case.features.name
    other, those = (SOURCES, TABLE_FEATURES) if takes_tables(use_case) else (TABLE_SOURCES, FEATURES)
    if name in other.entries and features in those.entries:
        fitting = FEATURES if other is SOURCES else TABLE_FEATURES
        raise ConfigError(
            f"the features {features!r} cannot be made of the {other.kind} {name!r}.",
            where=where,
            fix=f"Choose `features` among {', '.join(fitting.names())}, or another source.",
        )
    if "/" in name or "\\" in name:
        raise ConfigError(
            f"{name!r} is a path, not a source.", where=where, fix=f"Write {{name: csv, params: {{path: {name}}}}}."
        )


def _check_gate(use_case: UseCase, *, where: str) -> None:
    """Raise `ConfigError` for a misspelt metric, or a percentage as the threshold of a fraction.

    Unknown metrics that resemble no known one pass: learning tasks may compute their own.
    """
    gate = use_case.gate
    for key, name in [("metric", gate.metric), *((f"thresholds.{name}", name) for name in gate.thresholds)]:
        if name is not None and (meant := metrics.misspelt(name)) is not None:
            raise ConfigError(f"no metric named {name!r}.", where=f"{where}.{key}", fix=f"Did you mean {meant!r}?")
    for name, limit in gate.thresholds.items():
        if limit > 1 and metrics.unit_of(name) == "share":
            fix = f"Write {limit / 100:g}." if limit <= 100 else ""
            raise ConfigError(
                f"{name} is a share, at most 1, not {limit:g}.", where=f"{where}.thresholds.{name}", fix=fix
            )


# Arguments that the code passes to each kind of component in addition to the YAML's params.
_CODE_ARGUMENTS: dict[str, tuple[str, ...]] = {
    "source": ("data_root",),
    "table source": ("data_root",),
    "learning task": ("fitted", "labels"),
    "loss": ("class_weights",),
    "optimizer": ("parameters", "learning_rate", "weight_decay"),
    "schedule": ("optimizer", "steps", "learning_rate"),
}


def check_network(name: str, arguments: Sequence[str], *, where: str = "") -> None:
    """Raise `ConfigError` if a network does not accept the arguments that the learning task passes."""

    def suits(name: str) -> bool:
        return set(arguments) <= set(inspect.signature(MODELS.load(name)).parameters)

    if not suits(name):
        raise ConfigError(
            f"the model {name!r} does not take {', '.join(arguments)}, which the learning task passes.",
            where=where,
            fix=f"Suitable: {', '.join(known for known in MODELS.names() if suits(known)) or 'none'}.",
        )


def check_prunable(name: str, *, where: str = "") -> None:
    """Raise `ConfigError` if a network is not marked `prunable`."""

    def suits(name: str) -> bool:
        return getattr(MODELS.load(name), "prunable", False)

    if not suits(name):
        raise ConfigError(
            f"no channels can be removed from the model {name!r}.",
            where=where,
            fix=f"Suitable: {', '.join(known for known in MODELS.names() if suits(known))}, and others of timm/ and"
            " torchvision/.",
        )


def check_loss(name: str, kinds: Sequence[str], *, where: str = "") -> None:
    """Raise `ConfigError` if the loss is of a kind that the learning task does not support."""
    if LOSSES.load(name).of not in kinds:
        suitable = ", ".join(n for n in LOSSES.names() if LOSSES.load(n).of in kinds)
        raise ConfigError(
            f"the loss {name!r} does not suit the learning task.",
            where=where,
            fix=f"Suitable: {suitable}."
            if suitable
            else "The task defines its own loss: omit this key; see the task's params.",
        )


def check_augmentation(name: str, boxes: bool, *, where: str = "") -> None:
    """Raise `ConfigError` if an augmentation does not transform boxes but must, or needs boxes and there are none."""

    def suits(name: str) -> bool:
        return getattr(AUGMENTATIONS.load(name), "boxes", False) in (boxes, None)

    if not suits(name):
        raise ConfigError(
            f"the augmentation {name!r} " + ("does not transform boxes." if boxes else "is for pictures with boxes."),
            where=where,
            fix=f"Suitable: {', '.join(known for known in AUGMENTATIONS.names() if suits(known))}.",
        )


def learning_task_of(use_case: UseCase, fitted: Mapping[str, Any], labels: Sequence[str]) -> protocols.LearningTask:
    """The learning task of a use case, built with the extractor's fitted values and the class names."""
    spec, where = use_case.learning_task, f"{use_case.name}.yaml: task"
    return LEARNING_TASKS.build(spec.name, spec.params, where=where, fitted=fitted, labels=labels)


def deploy_target_spec(use_case: UseCase, environment: Environment) -> ComponentSpec:
    """The deployment target of a use case; the environment's by default."""
    return use_case.deploy.target or ComponentSpec(name=environment.serving.target)


def deploy_target_of(use_case: UseCase, environment: Environment) -> DeployTarget:
    """The deployment target of a use case, built."""
    spec = deploy_target_spec(use_case, environment)
    named = use_case.deploy.target is not None
    where = f"{use_case.name}.yaml: deploy.target" if named else "environment: serving.target"
    return DEPLOY_TARGETS.build(spec.name, spec.params, where=where)


def codec_spec_of(
    use_case: UseCase, fitted: Mapping[str, Any], task: protocols.LearningTask
) -> tuple[str, dict[str, Any]]:
    """Name and params of the input codec: the learning task's, or else the feature extractor's."""
    if (own := task.input_codec()) is not None:
        return own
    spec = use_case.features
    named: tuple[str, dict[str, Any]] = ALL_FEATURES.build(
        spec.name, spec.params, where=f"{use_case.name}.yaml: features"
    ).codec(fitted)
    return named


def codec_of(use_case: UseCase, fitted: Mapping[str, Any], task: protocols.LearningTask) -> protocols.Codec:
    """The input codec of a use case."""
    return CODECS.build(*codec_spec_of(use_case, fitted, task))


def check_params_of(use_case: UseCase, *, where: str) -> None:
    """Check every component's params against its signature; imports the components (torch among them).

    Raises:
        ConfigError: naming file, key and value.
    """
    arguments: tuple[str, ...] = ()
    if use_case.learns:
        task = LEARNING_TASKS.load(use_case.learning_task.name)
        arguments = task.network_parameters
        if use_case.features.name not in task.features:
            raise ConfigError(
                f"the task {use_case.learning_task.name!r} does not learn from {use_case.features.name!r}.",
                where=f"{where}: features.name",
                fix=f"Suitable: {', '.join(task.features)}.",
            )
        if use_case.train.loss is not None:
            check_loss(use_case.train.loss.name, task.loss_of, where=f"{where}: train.loss.name")
        for i, spec in enumerate(use_case.train.augment):
            check_augmentation(spec.name, task.boxes, where=f"{where}: train.augment.{i}.name")
    for key, registry, spec in named_components(use_case):
        if registry is COMPRESSIONS and getattr(registry.load(spec.name), "prunes", False):
            check_prunable(use_case.network.name, where=f"{where}: {key}.name")
        if registry is COMPRESSIONS and "student" in spec.params:
            student = ComponentSpec.model_validate(spec.params["student"])
            MODELS.check(student.name, where=f"{where}: {key}.params.student")
            check_network(student.name, arguments, where=f"{where}: {key}.params.student")
        given = dict.fromkeys(arguments if registry is MODELS else _CODE_ARGUMENTS.get(registry.kind, ()))
        try:
            if registry is MODELS:
                check_network(spec.name, arguments, where=f"{where}: {key}")
            check_params(registry.load(spec.name), spec.params, where=f"{where}: {key}", given=given)
        except ImportError as error:
            raise ConfigError(
                f"{registry.kind} {spec.name!r} cannot be imported: {error}.",
                where=f"{where}: {key}",
                fix="Install the locked requirements.",
            ) from error
