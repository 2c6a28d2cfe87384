"""Base classes of all use case sections."""

from __future__ import annotations

from typing import Any

import pydantic

from lepton_tasks.core.faults import refuse_boolean


class Section(pydantic.BaseModel):
    """A section of a use case: immutable, unknown keys forbidden."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    @pydantic.field_validator("*", mode="before")
    @classmethod
    def _no_boolean_number(cls, value: Any, info: pydantic.ValidationInfo) -> Any:
        return refuse_boolean(value, cls.model_fields[info.field_name or ""].annotation)


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
