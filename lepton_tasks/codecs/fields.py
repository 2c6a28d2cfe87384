"""The fields of a request, for input forms and for batch scoring of tables."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal, Protocol, runtime_checkable

from lepton_tasks.core.protocols import Codec

FieldType = Literal["int", "float", "bool", "text", "time", "picture", "list", "rows"]
"""``list``: texts or numbers; ``rows``: objects with the field's `columns`, in chronological order."""

_MAX_CHOICES, _SHOWN_CHOICES = 50, 20


@dataclasses.dataclass(frozen=True)
class Field:
    """One field of a request.

    Attributes:
        name: Key in the request.
        type: Type of its value.
        required: Whether requests without it are refused.
        choices: Allowed or known values; empty if unrestricted.
        columns: Columns of ``rows``.
    """

    name: str
    type: FieldType
    required: bool = False
    choices: tuple[str, ...] = ()
    columns: tuple[Field, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """JSON values; of more than 50 choices only the first 20, which are the most frequent ones of a table."""
        shown = _MAX_CHOICES if len(self.choices) <= _MAX_CHOICES else _SHOWN_CHOICES
        return {
            "name": self.name,
            "type": self.type,
            "required": self.required,
            "choices": list(self.choices[:shown]),
            "columns": [column.to_dict() for column in self.columns],
        }


@runtime_checkable
class Fielded(Protocol):
    """A codec that describes the fields of its requests."""

    def fields(self) -> list[Field]:
        """The fields in the order of the input form."""


def fields_of(codec: Codec) -> list[Field]:
    """The fields of a codec's requests; empty if the codec does not describe them."""
    return codec.fields() if isinstance(codec, Fielded) else []
