"""``/v1/models/<name>/example``: description of a model for the try-out form."""

from __future__ import annotations

import base64
import re
from typing import Any

from fastapi import APIRouter
from starlette.responses import Response

from lepton_tasks.codecs.fields import fields_of
from lepton_tasks.core.metrics import meaning, unit_of
from lepton_tasks.serving.http.gallery import knows_people
from lepton_tasks.serving.http.predict import json_reply
from lepton_tasks.serving.http.schema import ERRORS, ExampleReply
from lepton_tasks.serving.package import CARD_FILE, Package
from lepton_tasks.serving.versions.lookup import Lookup

_TITLE = re.compile(r"^# (.+)$", re.MULTILINE)
_PURPOSE = re.compile(r"^## Intended use\s+(.+?)\s*(?=^## |\Z)", re.MULTILINE | re.DOTALL)
_NOT_STATED = "Not stated."  # in model cards of use cases without a description


def example_router(table: Lookup) -> APIRouter:
    """The route of examples."""
    router = APIRouter(prefix="/v1", tags=["predict"])

    @router.get("/models/{name}/example", response_model=ExampleReply, responses=ERRORS)
    async def example(name: str) -> Response:
        """Title, intended use, test metrics with units, input fields and an example of the model."""
        live = table.get(name)
        reply = {"model": name, "version": live.release.version, **describe_package(live.package)}
        return json_reply(reply, version=live.release.version)

    return router


def describe_package(package: Package) -> dict[str, Any]:
    """The fields of `ExampleReply` that come from the package."""
    spec, codec = package.spec, package.codec
    title, purpose = read_card(package)
    found = package.example()
    return {
        "title": title or spec.name,
        "description": purpose,
        "task": spec.task,
        "labels": list(spec.labels),
        "metrics": [
            {"name": name, "value": value, "unit": _unit(name, package), "meaning": meaning(name)}
            for name, value in spec.metrics.items()
        ],
        "media_type": codec.media_type,
        "input": {
            name: value
            for name, value in spec.input_codec.params.items()
            if isinstance(value, bool | int | float) or name == "resize"
        },
        "fields": [field.to_dict() for field in fields_of(codec)],
        "example": _as_json(found[0], codec.media_type) if found else None,
        "gallery": knows_people(package),
        "expected": found[1] if found else None,
    }


def _unit(metric: str, package: Package) -> str:
    params = package.spec.output_codec.params
    target = params.get("target") or params.get("name")
    return f"of {target}" if unit_of(metric) == "of the target" and target else unit_of(metric)


def read_card(package: Package) -> tuple[str, str]:
    """Title and intended use from the model card; empty if missing."""
    try:
        card = (package.folder / CARD_FILE).read_text(encoding="utf-8")
    except OSError:
        return "", ""
    title, purpose = _TITLE.search(card), _PURPOSE.search(card)
    text = " ".join(purpose[1].split()) if purpose else ""
    return title[1].strip() if title else "", "" if text == _NOT_STATED else text


def _as_json(payload: bytes, media_type: str) -> dict[str, str]:
    if media_type.startswith(("text/", "application/json")):
        return {"media_type": media_type, "text": payload.decode("utf-8", "replace")}
    return {"media_type": media_type, "base64": base64.b64encode(payload).decode()}
