"""Request and reply schemas for the OpenAPI page and for validating admin requests."""

from __future__ import annotations

from typing import Annotated, Any

import pydantic

from lepton_tasks.core.rollout import Rollout


class ErrorReply(pydantic.BaseModel):
    """The body of every error response."""

    error: str


class PredictReply(pydantic.BaseModel):
    """The predictions of one request, in its order; `id` is used to report true labels later."""

    model: str
    version: str
    id: str
    predictions: list[dict[str, Any]]


MOST_OUTCOMES = 10_000
"""In one request."""


_Whole = Annotated[int, pydantic.Field(ge=-(2**63), lt=2**63)]
"""Larger numbers are parsed as floats: JSON serialisers support 64 bits."""


class Outcome(pydantic.BaseModel):
    """The true label of a prediction.

    Attributes:
        id: Of the prediction response; with several predictions ``<id>/<index>``.
        label: True label or number.
    """

    model_config = pydantic.ConfigDict(extra="forbid")

    id: str = pydantic.Field(min_length=1, max_length=80)
    label: bool | _Whole | float | Annotated[str, pydantic.Field(max_length=200)]


class Outcomes(pydantic.BaseModel):
    """Several outcomes."""

    model_config = pydantic.ConfigDict(extra="forbid")

    outcomes: list[Outcome] = pydantic.Field(min_length=1, max_length=MOST_OUTCOMES)


class FeedbackReply(pydantic.BaseModel):
    """The number of outcomes stored."""

    model: str
    taken: int


class ModelReply(pydantic.BaseModel):
    """One model; version and digest are set once it is ready."""

    name: str
    ready: bool
    reason: str | None = None
    version: str | None = None
    digest: str | None = None


class ModelList(pydantic.BaseModel):
    """All models of this server."""

    models: list[ModelReply]


class ExampleReply(pydantic.BaseModel):
    """Description of a model for the try-out form.

    Attributes:
        model: Name.
        version: Champion version.
        title: Display name.
        description: Intended use.
        task: Learning task.
        labels: Class labels.
        metrics: On the test split: ``name, value, unit, meaning``; the unit ``share`` goes from 0 to 1.
        media_type: Of a sample.
        input: Numeric codec parameters, e.g. image height and width, steps of a window.
        fields: ``name, type, required, choices, columns`` of each field of a sample.
        example: ``media_type`` and ``text`` or ``base64`` of a sample; null if the package has none.
        expected: Expected prediction for the example.
        gallery: Whether people can be enrolled, verified and identified.
    """

    model: str
    version: str
    title: str
    description: str
    task: str
    labels: list[str]
    metrics: list[dict[str, Any]]
    media_type: str
    input: dict[str, Any]
    fields: list[dict[str, Any]]
    example: dict[str, str] | None
    expected: dict[str, Any] | None
    gallery: bool


class DeployRequest(pydantic.BaseModel):
    """A package to deploy.

    Attributes:
        package: Folder of the package, readable by the server.
        version: Version in the model registry.
        digest: sha256 of the package, as in its artifact reference.
        by: Initiator, for the deployment record.
        rollout: Rollout plan; immediate by default.
    """

    model_config = pydantic.ConfigDict(extra="forbid")

    package: str
    version: str
    digest: str = pydantic.Field(pattern="^[0-9a-f]{64}$")
    by: str = ""
    rollout: Rollout = Rollout()


ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorReply, "description": text}
    for status, text in {
        400: "The request is invalid; the reason says why.",
        404: "No such model or version.",
        413: "Too large.",
        415: "Unsupported content type.",
        503: "Not ready, or too many requests are waiting.",
    }.items()
}


def predict_body() -> dict[str, Any]:
    """OpenAPI request body of predict (the route parses the body itself)."""
    binary = {"type": "string", "format": "binary"}
    one = {"description": 'One sample: {"image": "<base64>"}, {"text": "..."}, or the columns of a row.'}
    several = {
        "type": "object",
        "required": ["instances"],
        "properties": {"instances": {"type": "array", "items": one, "minItems": 1}},
    }
    form = {"type": "object", "required": ["file"], "properties": {"file": binary}}
    content = {
        "multipart/form-data": {"schema": form},
        "image/*": {"schema": binary},
        "text/plain": {"schema": {"type": "string"}},
        "application/json": {"schema": {"anyOf": [{"type": "object", **one}, several]}},
    }
    return {"requestBody": {"required": True, "content": content}}


def feedback_body() -> dict[str, Any]:
    """OpenAPI request body of feedback."""
    outcome, several = Outcome.model_json_schema(), Outcomes.model_json_schema()
    del several["$defs"]  # inlined below
    several["properties"]["outcomes"]["items"] = outcome
    content = {"application/json": {"schema": {"anyOf": [outcome, several]}}}
    return {"requestBody": {"required": True, "content": content}}


def video_body() -> dict[str, Any]:
    """OpenAPI request body of a video; ``video/*`` is accepted, too."""
    binary = {"type": "string", "format": "binary"}
    return {"requestBody": {"content": {"application/octet-stream": {"schema": binary}}}}


def infer_body() -> dict[str, Any]:
    """OpenAPI request body of the Open Inference Protocol's infer."""
    tensor = {
        "type": "object",
        "required": ["name", "shape", "datatype", "data"],
        "properties": {
            "name": {"type": "string"},
            "shape": {"type": "array", "items": {"type": "integer"}},
            "datatype": {"type": "string", "example": "UINT8"},
            "data": {"type": "array", "items": {}},
        },
    }
    output = {"type": "object", "required": ["name"], "properties": {"name": {"type": "string"}}}
    body = {
        "type": "object",
        "required": ["inputs"],
        "properties": {
            "id": {"type": "string"},
            "inputs": {"type": "array", "items": tensor, "minItems": 1},
            "outputs": {"type": "array", "items": output},
        },
    }
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": body}}}}
