"""Rows -> train, validation, test: by content, so that no sample is in two of them."""

from __future__ import annotations

import collections
import hashlib
from collections.abc import Sequence

from lepton_tasks.core.errors import DataError
from lepton_tasks.core.use_case import Split

SPLITS = ("train", "validation", "test")


def assign_splits(contents: Sequence[str], labels: Sequence[str | None], sizes: Split, *, seed: int) -> list[str]:
    """The split of each row.

    Rows are ranked by a hash of seed and content: neither their order nor their names matter, equal content stays
    together, and rows that are added later move few others.

    Args:
        contents: The sha256 of each sample's content.
        labels: The class of each row.
        sizes: Shares of the splits.
        seed: Another seed gives another split.

    Raises:
        DataError: a row has no label, there is only one class, or a class is too small to be in every split.
    """
    if missing := sum(not label for label in labels):
        raise DataError(f"{missing:,} rows have no label.", where="clean", fix="Add the step `unlabelled`.")
    stratum_of: dict[str, str] = {}
    for content, label in zip(contents, labels, strict=True):
        stratum_of[content] = min(str(label), stratum_of.get(content, str(label)))
    _check_classes(stratum_of)
    strata: dict[str, list[str]] = collections.defaultdict(list)
    for content, label in stratum_of.items():
        strata[label if sizes.stratify else ""].append(content)
    chosen: dict[str, str] = {}
    for members in strata.values():
        members.sort(key=lambda content: hashlib.sha256(f"{seed}:{content}".encode()).digest())
        test = min(max(1, round(len(members) * sizes.test)), len(members) - 2)
        validation = min(max(1, round(len(members) * sizes.validation)), len(members) - test - 1)
        for rank, content in enumerate(members):
            chosen[content] = "test" if rank < test else "validation" if rank < test + validation else "train"
    splits = [chosen[content] for content in contents]
    _check_splits(splits, labels)
    return splits


def _check_classes(stratum_of: dict[str, str]) -> None:
    counts = collections.Counter(stratum_of.values())
    if len(counts) < 2:
        raise DataError(
            f"there is only one class, {next(iter(counts))!r}: nothing can be told apart."
            if counts
            else "there are no rows to split.",
            where="split",
            fix="Give at least two classes with samples that `clean` keeps.",
        )
    if small := [f"{label!r} has {count}" for label, count in sorted(counts.items()) if count < len(SPLITS)]:
        raise DataError(
            f"too few different samples: {', '.join(small)}; a class needs {len(SPLITS)}, one for each split.",
            where="split",
            fix="Add samples to the class, or take it out of the source (for a folder of pictures: its sub-folder).",
        )


def _check_splits(splits: Sequence[str], labels: Sequence[str | None]) -> None:
    present = set(zip(splits, labels, strict=True))
    for label in sorted({str(label) for label in labels}):
        if absent := [split for split in SPLITS if (split, label) not in present]:
            raise DataError(
                f"the class {label!r} is not in {' and '.join(absent)}.",
                where="data.split",
                fix="Set `stratify: true`, enlarge that split, or add samples to the class.",
            )
