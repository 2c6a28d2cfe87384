"""Cleaning steps for duplicate and near-duplicate samples."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Sequence
from typing import Annotated, Literal

import numpy as np
import pyarrow as pa
import pydantic

from lepton_tasks.data.perceptual import HashIndex, near_pairs
from lepton_tasks.data.split import connected_components


class Duplicates:
    """Reject all but the first of identical samples, or all of them if their labels differ."""

    def refuse(self, probes: pa.Table) -> Sequence[str | None]:
        """The sample that it duplicates. Undecodable samples pass."""
        names, labels = probes["sample_id"].to_pylist(), probes["label"].to_pylist()
        contents = probes["content_sha256"].to_pylist()
        first: dict[str, dict[str | None, int]] = collections.defaultdict(dict)  # content -> label -> its first row
        for row, (content, label) in enumerate(zip(contents, labels, strict=True)):
            if content is not None:
                first[content].setdefault(label, row)
        reasons: list[str | None] = []
        for row, (content, label) in enumerate(zip(contents, labels, strict=True)):
            equals = first.get(content, {})
            rivals = [other for other in equals.values() if labels[other] != label]
            if rivals:
                rival = rivals[0]
                reasons.append(f"conflicting labels: same content as {names[rival]}, labelled {labels[rival]!r}")
            elif equals and equals[label] != row:
                reasons.append(f"same content as {names[equals[label]]}")
            else:
                reasons.append(None)
        return reasons


@dataclasses.dataclass(frozen=True)
class NearDuplicates:
    """Reject images similar to an earlier one, or keep similar images in one split.

    Images are similar if their perceptual hashes (`perceptual_hash`, 64 bits) differ in few bits.

    Args:
        distance: Maximum number of differing bits. 4 finds photos that were scaled or recompressed and hardly any
            others; for images of one layout, such as X-rays and faces, 0 to 2 is enough.
        keep: ``first`` rejects the others; ``together`` rejects none, and keeps images connected by similarity in one
            split.
    """

    distance: Annotated[int, pydantic.Field(ge=0, le=8)] = 4
    keep: Literal["first", "together"] = "first"

    def revise(self, probes: pa.Table) -> tuple[pa.Table, Sequence[str | None]]:
        """With ``together``, add a column ``alike`` that is equal for similar images."""
        unchanged = [None] * probes.num_rows
        if self.keep == "first":
            return probes, unchanged
        known, codes, places = _codes(probes)
        # A generator: thousands of similar images have millions of pairs.
        pairs = (pair for some in near_pairs(codes, self.distance) for pair in some.tolist())
        roots = connected_components(len(codes), pairs)
        names = probes["sample_id"].to_pylist()
        alike: list[str | None] = [None] * probes.num_rows
        first: dict[int, str] = {}
        for row, place in zip(known, places, strict=True):
            alike[row] = first.setdefault(int(roots[place]), names[row])
        return probes.append_column("alike", pa.array(alike, pa.string())), unchanged

    def refuse(self, probes: pa.Table) -> Sequence[str | None]:
        """The earlier image that is kept, and the number of differing bits."""
        reasons: list[str | None] = [None] * probes.num_rows
        if self.keep == "together":
            return reasons
        known, codes, places = _codes(probes)
        names, labels = probes["sample_id"].to_pylist(), probes["label"].to_pylist()
        kept: dict[int, int] = {}  # hash -> the row that stays
        index = HashIndex(self.distance)
        for row, code in zip(known, codes[places].tolist(), strict=True):
            if (like := index.nearest(code)) is None:
                kept[code] = row
                index.add(code)
                continue
            other, bits = kept[like], (code ^ like).bit_count()
            label = "" if labels[other] == labels[row] else f", labelled {labels[other]!r}"
            reasons[row] = f"looks like {names[other]} ({bits} of 64 bits differ){label}"
        return reasons


def _codes(probes: pa.Table) -> tuple[list[int], np.ndarray, np.ndarray]:
    """Rows with a hash, the distinct hashes (uint64), and the index of each such row's hash among them."""
    hashes = probes["perceptual_hash"].to_pylist()
    known = [row for row, value in enumerate(hashes) if value is not None]
    codes, places = np.unique(np.array([hashes[row] for row in known], np.uint64), return_inverse=True)
    return known, codes, places
