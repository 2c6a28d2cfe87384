"""Shared base of codecs whose samples are JSON objects."""

from __future__ import annotations

import json
from typing import Any, ClassVar

from lepton_tasks.core.errors import DataError


class JsonRequests:
    """Base class of codecs whose samples are JSON objects."""

    media_type: ClassVar[str] = "application/json"
    suffix: ClassVar[str] = ".json"

    def payload(self, instance: Any) -> bytes:
        """The bytes of a sample that is part of a larger JSON value."""
        return json_bytes(instance)


def json_bytes(value: Any) -> bytes:
    """Serialise a JSON value; raises `DataError` if it is nested too deeply."""
    try:
        return json.dumps(value, ensure_ascii=False).encode()
    except RecursionError as error:
        raise DataError("the request is nested too deeply.") from error


def json_object(payload: bytes) -> dict[str, Any]:
    """Parse a JSON object; raises `DataError` if it is none."""
    try:
        value = json.loads(payload)
    except (ValueError, RecursionError) as error:
        raise DataError(f"the request is not JSON: {error}.", fix="Send one row as an object.") from error
    if not isinstance(value, dict):
        raise DataError(f"the request holds {type(value).__name__}, not one row.", fix="Send one row as an object.")
    return value
