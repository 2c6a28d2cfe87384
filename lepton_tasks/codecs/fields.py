"""The fields of a request, for input forms and for batch scoring of tables."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal, Protocol, runtime_checkable

from lepton_tasks.core.protocols import Codec

FieldType = Literal["int", "float", "bool", "text", "time", "picture", "list", "rows"]
"""``list``: of texts or numbers; ``rows``: objects of the field's `columns`, in the order of time."""

_MOST_CHOICES = 200


@dataclasses.dataclass(frozen=True)
class Field:
    """One field of a request.

    Attributes:
        name: Its key.
        type: What its value is.
        required: Whether a request without it is refused.
        choices: What can be chosen, or the best known of that; empty if anything can.
        columns: Of ``rows``.
    """

    name: str
    type: FieldType
    required: bool = False
    choices: tuple[str, ...] = ()
    columns: tuple[Field, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """JSON values; at most 200 choices."""
        return {
            "name": self.name,
            "type": self.type,
            "required": self.required,
            "choices": list(self.choices[:_MOST_CHOICES]),
            "columns": [column.to_dict() for column in self.columns],
        }


@runtime_checkable
class Fielded(Protocol):
    """A codec that describes the fields of its requests."""

    def fields(self) -> list[Field]:
        """In the order of the input form."""


def fields_of(codec: Codec) -> list[Field]:
    """The fields of a codec's requests as JSON objects; empty if it does not describe them."""
    return codec.fields() if isinstance(codec, Fielded) else []
