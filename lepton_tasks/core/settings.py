"""Read YAML files and apply dotted overrides."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from lepton_tasks.core.errors import ConfigError


class _UniqueKeys(yaml.SafeLoader):
    """YAML loader that rejects duplicate keys, of which PyYAML silently takes the last."""


def _mapping(loader: _UniqueKeys, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: set[Any] = set()
    for key_node, _ in node.value:
        if not isinstance(key_node, yaml.ScalarNode):
            raise yaml.constructor.ConstructorError(None, None, "a key is not a plain value", key_node.start_mark)
        if (key := loader.construct_object(key_node)) in seen:
            raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} is given twice", key_node.start_mark)
        seen.add(key)
    return yaml.SafeLoader.construct_mapping(loader, node, deep=True)


_UniqueKeys.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file; raises `ConfigError` with file and line if there is none."""
    try:
        with path.open(encoding="utf-8") as stream:
            raw = yaml.load(stream, _UniqueKeys)
    except FileNotFoundError as error:
        raise ConfigError("no such file.", where=str(path)) from error
    except OSError as error:
        raise ConfigError(f"cannot be read ({error.strerror}).", where=str(path), fix="Give a YAML file.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        fix = "YAML is indented by spaces, never by tabs." if r"'\t'" in str(error) else ""
        raise ConfigError(f"not readable as YAML: {' '.join(str(error).split())}.", where=path.name, fix=fix) from error
    if not isinstance(raw, dict):
        what = "is empty" if raw is None else f"holds {raw!r:.80}"
        raise ConfigError(f"{what}; it must hold keys and their values, as in `name: wine`.", where=path.name)
    return raw


def apply_overrides(raw: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of `raw` with dotted keys set, e.g. ``{"train.epochs": 3}``; intermediate mappings are created."""
    result: dict[str, Any] = _copy(raw)
    for dotted, value in overrides.items():
        node = result
        *parents, last = dotted.split(".")
        for name in parents:
            child = node.get(name)
            if isinstance(child, str):  # the short form of a component: a bare name
                child = {"name": child}
            if child is not None and not isinstance(child, dict):
                raise ConfigError(f"{name!r} holds a {type(child).__name__}, so it has no {last!r}.", where=dotted)
            node[name] = child or {}
            node = node[name]
        node[last] = value
    return result


def parse_override(text: str) -> tuple[str, Any]:
    """``"train.epochs=3"`` -> ``("train.epochs", 3)``; the value is parsed as YAML; raises `ConfigError` if invalid."""
    key, sign, value = text.partition("=")
    if not sign or not key.strip():
        raise ConfigError(f"{text!r} is not of the form KEY=VALUE.", where="--set", fix="Example: train.epochs=3")
    try:
        return key.strip(), yaml.safe_load(value)
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"{value!r} is not readable as YAML: {reason}.", where=f"--set {key}") from error


def _copy(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _copy(item) for key, item in value.items()}
    return [_copy(item) for item in value] if isinstance(value, list) else value
