"""Digest of a stage's code, from syntax trees: comments, docstrings and layout do not count."""

from __future__ import annotations

import ast
import contextlib
import functools
import hashlib
import importlib.util
import json
import sys
from pathlib import Path

from lepton_tasks.core.errors import ArtifactError
from lepton_tasks.core.store import digest_of, sha256_file, write_json

_MAX_CACHED = 10_000  # cached digests


@functools.lru_cache(maxsize=64)
def code_digest(modules: tuple[str, ...], state: Path) -> str:
    """Digest of modules; packages count with all their modules.

    Args:
        modules: Module names.
        state: Folder of the cache of digests: parsing all files takes a quarter of a second per process.

    Raises:
        ArtifactError: there is no such module.
    """
    # Syntax trees differ by Python version.
    cache = state / f"code-{sys.version_info.major}.{sys.version_info.minor}.json"
    digests: dict[str, str] = {}
    with contextlib.suppress(OSError, ValueError):
        digests = json.loads(cache.read_text())
    trees, new = [], {}
    for path in _sources(modules):
        content = sha256_file(path)
        if content not in digests:
            new[content] = digests[content] = _tree_digest(path)
        trees.append(digests[content])
    if new:
        state.mkdir(parents=True, exist_ok=True)
        write_json(cache, digests if len(digests) <= _MAX_CACHED else new)
    return digest_of(trees)


def _sources(modules: tuple[str, ...]) -> list[Path]:
    paths: set[Path] = set()
    for module in modules:
        spec = importlib.util.find_spec(module)
        if spec is None or spec.origin is None:
            raise ArtifactError(f"the module {module!r}, named in the stage table, does not exist.")
        origin = Path(spec.origin)
        paths |= set(origin.parent.rglob("*.py")) if origin.name == "__init__.py" else {origin}
    return sorted(paths)


def _tree_digest(path: Path) -> str:
    """Digest of the file's syntax tree, without docstrings."""
    tree = ast.parse(path.read_bytes())
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if (
            isinstance(body, list)
            and body
            and isinstance(body[0], ast.Expr)
            and isinstance(body[0].value, ast.Constant)
        ):
            del body[0]
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()
