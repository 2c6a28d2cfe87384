"""Base classes of all use case sections."""

from __future__ import annotations

from typing import Any

import pydantic


class Section(pydantic.BaseModel):
    """A part of a YAML file: immutable, without unknown keys."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class ComponentSpec(Section):
    """Something named in the catalogue, with its parameters."""

    name: str
    """The name in the catalogue."""
    params: dict[str, Any] = {}
    """Keyword arguments of the class behind the name."""

    @pydantic.model_validator(mode="before")
    @classmethod
    def _bare_name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value
