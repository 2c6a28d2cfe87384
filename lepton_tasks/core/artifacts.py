"""Typed references to artifacts, the only values passed between stages."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

import pydantic

Fact = str | int | float | bool | None
Hash = Literal["blake3", "sha256"]

SCHEMA_VERSION = 1


class ArtifactRef(pydantic.BaseModel):
    """A pointer to one published, immutable artifact.

    Attributes:
        uri: ``store://<stage>/<fingerprint>``, resolved by the store of the reader's own machine.
        digest: Of the names and contents of all files, hexadecimal.
        stage: The stage that wrote it.
        facts: A few small values worth showing (rows, accuracy, bytes); each name carries its unit where it has one.
    """

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")

    kind: str
    uri: str
    digest: str
    stage: str
    schema_version: int = SCHEMA_VERSION
    facts: dict[str, Fact] = {}
    hashed_by: ClassVar[Hash] = "blake3"
    """What the digests of its files are made with."""


class DatasetRef(ArtifactRef):
    """Rows or shards on disk."""

    kind: Literal["dataset"] = "dataset"


class QualityReportRef(ArtifactRef):
    """The outcome of an expectation suite, with its Data Docs."""

    kind: Literal["quality_report"] = "quality_report"


class PreprocessorRef(ArtifactRef):
    """Values fitted on the training split, as JSON."""

    kind: Literal["preprocessor"] = "preprocessor"


class CheckpointRef(ArtifactRef):
    """Trained weights."""

    kind: Literal["checkpoint"] = "checkpoint"


class EvaluationRef(ArtifactRef):
    """Figures and pictures about a model, or a verdict on it."""

    kind: Literal["evaluation"] = "evaluation"


class ModelPackageRef(ArtifactRef):
    """ONNX, codec, labels, fitted values and model card in one folder."""

    kind: Literal["model_package"] = "model_package"
    hashed_by: ClassVar[Hash] = "sha256"  # the inference server checks the digest, too, and has no BLAKE3


class ModelVersionRef(ArtifactRef):
    """A version in the model registry."""

    kind: Literal["model_version"] = "model_version"


class EndpointRef(ArtifactRef):
    """A place that answers predictions."""

    kind: Literal["endpoint"] = "endpoint"


class MonitorReportRef(ArtifactRef):
    """What the monitors found."""

    kind: Literal["monitor_report"] = "monitor_report"


AnyRef = Annotated[
    DatasetRef
    | QualityReportRef
    | PreprocessorRef
    | CheckpointRef
    | EvaluationRef
    | ModelPackageRef
    | ModelVersionRef
    | EndpointRef
    | MonitorReportRef,
    pydantic.Field(discriminator="kind"),
]

_adapter: pydantic.TypeAdapter[ArtifactRef] = pydantic.TypeAdapter(AnyRef)


def parse_ref(value: Any) -> ArtifactRef:
    """The reference that a JSON object describes, as its own class."""
    return _adapter.validate_python(value)
