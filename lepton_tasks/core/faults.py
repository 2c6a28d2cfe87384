"""What pydantic found wrong with a value, in the words of YAML."""

from __future__ import annotations

import re
import types
from collections.abc import Mapping
from typing import Annotated, Any, Union, get_args, get_origin

NAME = r"^[a-z][a-z0-9_]{1,62}$"
"""Pattern of the name of a use case."""

_MAPPINGS = {"dict_type", "mapping_type", "model_type", "model_attributes_type", "dataclass_type"}
_LISTS = {"tuple_type", "list_type", "set_type", "frozen_set_type", "iterable_type"}
_PATTERNS = {NAME: "it must consist of 2 to 63 small letters a-z, digits and _, the first one a letter"}


def refuse_boolean(value: Any, annotation: Any) -> Any:
    """The value; raises `ValueError` if it is a boolean, which pydantic would convert, where only numbers are meant."""
    if isinstance(value, bool) and bool not in (kinds := _kinds(annotation)) and kinds & {int, float}:
        raise ValueError("it must be a number; YAML reads yes, no, on and off as true and false")
    return value


def _kinds(annotation: Any) -> set[Any]:
    """The types of a union, or the type itself."""
    if get_origin(annotation) is Annotated:
        return _kinds(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return set().union(*map(_kinds, get_args(annotation)))
    return {annotation}


def reason_of(fault: Mapping[str, Any]) -> str:
    """Why a value is invalid and what it must be, given one of ``pydantic.ValidationError.errors()``."""
    kind, value = fault["type"], fault["input"]
    if kind in _LISTS:
        return f"it must be a list: [{value}]" if isinstance(value, str | int | float) else "it must be a list"
    if kind in _MAPPINGS:
        return "it must be keys and their values: {key: value, ...}"
    if kind == "string_type":
        quoted = isinstance(value, int | float) and not isinstance(value, bool)
        return f"it must be text; put it in quotes: '{value}'" if quoted else "it must be text"
    if kind == "string_pattern_mismatch" and fault["ctx"]["pattern"] in _PATTERNS:
        return _PATTERNS[fault["ctx"]["pattern"]]
    return re.sub(r"^(Input|String|Value) should ", "it must ", str(fault["msg"]).removeprefix("Value error, "))
