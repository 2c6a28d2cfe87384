"""Data sets bundled with installed packages; no download."""

from __future__ import annotations

import dataclasses
import functools
import importlib.metadata
import importlib.util
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import polars as pl

from lepton_tasks.core.errors import DataError
from lepton_tasks.data.sources.columns import Schema, rejections

_TRANSLATIONS = "ui/dist/i18n/locales"


class _SklearnTable:
    """Numeric columns of scikit-learn's example `table`; class name or target value as ``label``."""

    table: ClassVar[str]
    options: ClassVar[Mapping[str, Any]] = {}

    def __init__(self, data_root: Path) -> None:
        del data_root  # the file is in the package

    def state(self) -> dict[str, Any]:
        """The package's version."""
        return {"table": self.table, "scikit-learn": importlib.metadata.version("scikit-learn")}

    def schema(self) -> Schema:
        """Float columns, and the ``label``."""
        return dict(self._frame.schema)

    def pieces(self) -> list[FramePiece]:
        """The whole table."""
        return [FramePiece(self._frame, f"sklearn.datasets.load_{self.table}")]

    def describe(self) -> dict[str, Any]:
        """Package and licence."""
        return {"package": "scikit-learn", "licence": "BSD-3-Clause"}

    @functools.cached_property
    def _frame(self) -> pl.DataFrame:
        from sklearn import datasets

        found = getattr(datasets, f"load_{self.table}")(**self.options)
        names = [name.replace(" ", "_").replace("/", "_") for name in found.feature_names]
        names_of = found.get("target_names")
        labels = found.target.tolist() if names_of is None else [str(names_of[code]) for code in found.target]
        return pl.DataFrame(found.data, schema=names).with_columns(label=pl.Series(labels))


class SklearnBreastCancer(_SklearnTable):
    """569 rows of 30 cell measurements, ``malignant`` or ``benign``."""

    table = "breast_cancer"


class SklearnWine(_SklearnTable):
    """178 rows of 13 wine measurements, from three growers."""

    table = "wine"


class SklearnDiabetes(_SklearnTable):
    """442 patients: 10 measurements; ``label`` is disease progression after one year."""

    table = "diabetes"
    options: ClassVar[Mapping[str, Any]] = {"scaled": False}


class SklearnDigits(_SklearnTable):
    """1,797 rows of 64 pixels of handwritten digits, values 0 to 16."""

    table = "digits"


class AirflowTexts:
    """User interface texts of Airflow in all its languages: ``text``, its ``key``, and the locale as ``label``."""

    def __init__(self, data_root: Path) -> None:
        del data_root  # the files are in the package

    def state(self) -> dict[str, Any]:
        """The package's version."""
        return {"apache-airflow-core": importlib.metadata.version("apache-airflow-core")}

    def schema(self) -> Schema:
        """Three columns of text."""
        return dict(self._frame.schema)

    def pieces(self) -> list[FramePiece]:
        """The whole table."""
        return [FramePiece(self._frame, str(_translations()))]

    def describe(self) -> dict[str, Any]:
        """Package and licence."""
        return {"package": "apache-airflow-core", "licence": "Apache-2.0", "folder": str(_translations())}

    @functools.cached_property
    def _frame(self) -> pl.DataFrame:
        rows = [
            {"text": text, "key": f"{path.stem}.{key}", "label": path.parent.name}
            for path in sorted(_translations().glob("*/*.json"))
            for key, text in _texts(json.loads(path.read_text(encoding="utf-8")))
        ]
        return pl.DataFrame(rows, schema=dict.fromkeys(("text", "key", "label"), pl.String))


@dataclasses.dataclass(frozen=True)
class FramePiece:
    """A small table in memory."""

    frame: pl.DataFrame
    origin: str
    parquet: str | None = None

    def read(self) -> Iterator[tuple[pl.DataFrame, pl.DataFrame]]:
        """All rows."""
        yield self.frame, rejections([])


def _translations() -> Path:
    spec = importlib.util.find_spec("airflow")  # locates the package without importing it, which takes seconds
    places = (spec.submodule_search_locations or []) if spec is not None else []
    for place in places:
        if (folder := Path(place) / _TRANSLATIONS).is_dir():
            return folder
    raise DataError(
        "the installed Airflow contains no translations.",
        where=f"airflow/{_TRANSLATIONS}",
        fix="Install apache-airflow-core 3.1 or later.",
    )


def _texts(tree: dict[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _texts(value, f"{above}{key}.")
        elif isinstance(value, str):
            yield f"{above}{key}", value
