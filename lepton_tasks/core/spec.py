"""Base classes of all use case sections."""

from __future__ import annotations

from typing import Any

import pydantic


class Section(pydantic.BaseModel):
    """A section of a use case: immutable, unknown keys forbidden."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class ComponentSpec(Section):
    """A component: a name in the catalogue with parameters."""

    name: str
    """Name in the catalogue."""
    params: dict[str, Any] = {}
    """Parameters of the component."""

    @pydantic.model_validator(mode="before")
    @classmethod
    def _bare_name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value
