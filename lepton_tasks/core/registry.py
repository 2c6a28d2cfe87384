"""Map component names to classes, imported on first use."""

from __future__ import annotations

import difflib
import importlib
import inspect
from collections.abc import Iterable, Mapping
from typing import Any, Generic, TypeVar, get_args

import pydantic

from lepton_tasks.core.errors import ConfigError
from lepton_tasks.core.faults import reason_of, refuse_boolean
from lepton_tasks.core.secret import Secret

_OPEN = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def load_object(path: str) -> Any:
    """The object that ``"package.module:name"`` points to."""
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A sentence with the closest known name, if one is close, and all known names."""
    names = sorted(known)
    close = difflib.get_close_matches(name[:100], names, n=1)  # untrusted input may be long
    hint = f"Did you mean {close[0]!r}? " if close else ""
    return f"{hint}Known: {', '.join(names)}."


T = TypeVar("T")


class Registry(Generic[T]):
    """A closed table ``name -> "module:Class"``.

    Closed for security: names come from a web form, and an import path from a form would be code execution.

    Args:
        kind: The noun for one entry in messages, e.g. ``"model"``.
        protocol: A runtime-checkable protocol whose public members each class must have, or None.
        entries: The table.
        families: ``"module:function"`` by prefix; returns the class of ``<prefix>/<name>`` or raises for an unknown
            name. For the model registries of other packages.
    """

    def __init__(
        self, kind: str, protocol: type | None, entries: Mapping[str, str], families: Mapping[str, str] | None = None
    ) -> None:
        self.kind = kind
        self.families = dict(families or {})
        self.protocol = protocol
        self.entries = dict(entries)

    def names(self) -> list[str]:
        """All names, sorted."""
        return sorted(self.entries)

    def check(self, name: str, *, where: str = "") -> None:
        """Raise `ConfigError` with the closest name for an unknown `name`. Imports nothing."""
        if name not in self.entries and self._family(name) is None:
            raise ConfigError(f"no {self.kind} named {name!r}.", where=where, fix=did_you_mean(name, self.entries))

    def load(self, name: str, *, where: str = "") -> type[T]:
        """Import the class of `name`; raises `ConfigError` for an unknown name or an incomplete class."""
        self.check(name, where=where)
        family = self._family(name)
        cls = load_object(self.entries[name]) if family is None else load_object(family)(name, where=where)
        missing = [m for m in _members(self.protocol) if not hasattr(cls, m)]
        if missing:
            raise ConfigError(
                f"{self.kind} {name!r} ({cls.__module__}) lacks {', '.join(missing)}.",
                where=where,
                fix=f"Add what {getattr(self.protocol, '__name__', 'the protocol')} requires.",
            )
        return cls  # type: ignore[no-any-return]  # load_object is untyped by nature

    def _family(self, name: str) -> str | None:
        prefix, sign, _ = name.partition("/")
        return self.families.get(prefix) if sign else None

    def build(self, name: str, params: Mapping[str, Any], *, where: str = "", **given: Any) -> T:
        """Build an instance from the YAML's `params`, checked against the signature, and the `given` arguments."""
        cls = self.load(name, where=where)
        return cls(**check_params(cls, params, where=where, given=given), **given)


def _members(protocol: type | None) -> list[str]:
    if protocol is None:
        return []
    names = {n for n in vars(protocol) if not n.startswith("_")}
    names |= {n for n in vars(protocol).get("__annotations__", {}) if not n.startswith("_")}
    # Instance attributes are not visible on the class, so only callables and properties are checked.
    return sorted(
        n for n in names if callable(getattr(protocol, n, None)) or isinstance(vars(protocol).get(n), property)
    )


def check_params(
    cls: type, params: Mapping[str, Any], *, where: str = "", given: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Convert `params` to the annotated types of ``cls.__init__``.

    Raises:
        ConfigError: for an unknown, missing or ill-typed parameter.
    """
    taken = set(given or ())
    try:
        signature = inspect.signature(cls, eval_str=True)
    except ValueError:  # classes implemented in C have no signature
        return dict(params)
    allowed = {n: p for n, p in signature.parameters.items() if n not in taken and p.kind not in _OPEN}
    checked: dict[str, Any] = {}
    for key, value in params.items():
        at = f"{where}.params.{key}" if where else key
        if key not in allowed:
            known = did_you_mean(key, allowed) if allowed else "It takes none."
            raise ConfigError(f"{cls.__name__} has no parameter {key!r}.", where=at, fix=known)
        annotation = allowed[key].annotation
        if annotation is inspect.Parameter.empty:
            checked[key] = value
            continue
        try:
            refuse_boolean(value, annotation)
        except ValueError as error:
            raise ConfigError(f"{value!r} is invalid: {error}.", where=at) from error
        try:
            is_model = isinstance(annotation, type) and issubclass(annotation, pydantic.BaseModel)  # has its own config
            config = None if is_model else pydantic.ConfigDict(arbitrary_types_allowed=True)
            checked[key] = pydantic.TypeAdapter(annotation, config=config).validate_python(value)
        except pydantic.ValidationError as error:
            fault = error.errors()[0]
            if Secret in (annotation, *get_args(annotation)):  # do not show the value, which pydantic also quotes
                raise ConfigError(f"invalid: {fault['msg']}.", where=at) from None
            raise ConfigError(f"{value!r} is invalid: {reason_of(fault)}.", where=at) from error
    for key, parameter in allowed.items():
        if parameter.default is inspect.Parameter.empty and key not in checked:
            raise ConfigError(
                f"{cls.__name__} needs the parameter {key!r}, which has no default.",
                where=f"{where}.params" if where else "",
                fix=f"Add `{key}: ...`.",
            )
    return checked
