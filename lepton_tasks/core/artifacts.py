"""Typed references to artifacts, the only values passed between stages."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

import pydantic

Fact = str | int | float | bool | None
Hash = Literal["blake3", "sha256"]

SCHEMA_VERSION = 1


class ArtifactRef(pydantic.BaseModel):
    """Reference to one published, immutable artifact.

    Attributes:
        uri: ``store://<stage>/<fingerprint>``, resolved by the local store.
        digest: Hexadecimal digest of the names and contents of all files.
        stage: The stage that wrote it.
        facts: A few small values to display (rows, accuracy, bytes); names include the unit.
    """

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")

    kind: str
    uri: str
    digest: str
    stage: str
    schema_version: int = SCHEMA_VERSION
    facts: dict[str, Fact] = {}
    hashed_by: ClassVar[Hash] = "blake3"
    """Hash function of the file digests."""


class DatasetRef(ArtifactRef):
    """Data set on disk."""

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
    """Metrics and plots of a model, or the gate's decision."""

    kind: Literal["evaluation"] = "evaluation"


class ModelPackageRef(ArtifactRef):
    """ONNX, codec, labels, fitted values and model card in one folder."""

    kind: Literal["model_package"] = "model_package"
    hashed_by: ClassVar[Hash] = "sha256"  # the inference server also checks the digest and has no BLAKE3


class ModelVersionRef(ArtifactRef):
    """A version in the model registry."""

    kind: Literal["model_version"] = "model_version"


class EndpointRef(ArtifactRef):
    """A deployed endpoint."""

    kind: Literal["endpoint"] = "endpoint"


class MonitorReportRef(ArtifactRef):
    """Findings of the monitors."""

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
    """Parse a JSON object into the reference class named by its ``kind``."""
    return _adapter.validate_python(value)
