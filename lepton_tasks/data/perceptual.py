"""Perceptual hashes, to find similar images."""

from __future__ import annotations

import array
import itertools
from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image

_SIDE, _LOW = 32, 8  # pixels used and frequencies kept per side
_BITS = _LOW * _LOW
_PAIRS = 1 << 20  # candidates compared at once: 16 MB
_FEW = 32  # hashes up to which plain Python is faster than NumPy


_FREQUENCY, _PIXEL = np.mgrid[0:_LOW, 0:_SIDE]
# The first rows of the DCT-II matrix; row 0 gives the mean.
_COSINES = np.cos(np.pi * _FREQUENCY * (2 * _PIXEL + 1) / (2 * _SIDE)).astype(np.float32)


def perceptual_hash(picture: Image.Image) -> int:
    """64 bits: which low DCT frequencies of the greyscale image are above their median.

    Scaling, compression, brightness and contrast change few bits; rotation and mirroring most.

    Source: Zauner, "Implementation and Benchmarking of Perceptual Image Hash Functions", 2010, section 3.2.1 (DCT).
    """
    grey = picture.convert("L").resize((_SIDE, _SIDE), Image.Resampling.BOX)
    waves = (_COSINES @ np.asarray(grey, np.float32) @ _COSINES.T).ravel()
    # The first is the mean brightness, far above the other 63, whose median is the 32nd.
    bits = waves > np.sort(waves[1:])[_BITS // 2 - 1]
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


class HashIndex:
    """Incremental index of hashes with nearest-neighbour search, in memory linear in the hashes.

    Args:
        distance: Maximum Hamming distance of neighbours, 0 to 63. See `near_pairs` for the method.
    """

    def __init__(self, distance: int) -> None:
        self._distance = distance
        self._pieces: list[tuple[int, int, dict[int, array.array[int]]]] = [
            (low, (1 << (high - low)) - 1, {}) for low, high in itertools.pairwise(_edges(distance))
        ]

    def add(self, code: int) -> None:
        """Add a hash."""
        for low, mask, members in self._pieces:
            members.setdefault((code >> low) & mask, array.array("Q")).append(code)

    def nearest(self, code: int) -> int | None:
        """The added hash with the smallest Hamming distance, then value; None if none is within `distance`."""
        near: set[tuple[int, int]] = set()
        for low, mask, members in self._pieces:
            found = members.get((code >> low) & mask)
            others: Sequence[int] = found or ()
            if found is not None and len(found) > _FEW:
                many = np.frombuffer(found, np.uint64)
                others = many[np.bitwise_count(many ^ np.uint64(code)) <= self._distance].tolist()
            near.update(((code ^ other).bit_count(), other) for other in others)
        bits, nearest = min(near, default=(self._distance + 1, 0))
        return nearest if bits <= self._distance else None


def _edges(distance: int) -> list[int]:
    """Bit boundaries of the pieces: two hashes that differ in `distance` bits have one piece in common."""
    edges: list[int] = np.linspace(0, _BITS, distance + 2).astype(np.int64).tolist()
    return edges


def near_pairs(hashes: np.ndarray, distance: int) -> Iterator[np.ndarray]:
    """All pairs of hashes within a Hamming distance.

    Hashes are divided into ``distance + 1`` pieces; hashes within `distance` have one piece in common, so only those
    are compared. For 64 random bits that is n² / 2 ** (64 / (distance + 1)) comparisons per piece.

    Args:
        hashes: uint64 [N], distinct.
        distance: Bits, 0 to 63.

    Yields:
        int64 [M, 2], indices into `hashes`; pairs may repeat.

    Source: Norouzi, Punjani, Fleet, "Fast Search in Hamming Space with Multi-Index Hashing", CVPR 2012.
    """
    for low, high in itertools.pairwise(_edges(distance)):
        piece = (hashes >> np.uint64(low)) & np.uint64((1 << (high - low)) - 1)
        order = np.argsort(piece, kind="stable")
        starts = np.flatnonzero(np.r_[True, np.diff(piece[order]) != 0])
        for members in np.split(order, starts[1:]):
            yield from _close(hashes, members, distance)


def _close(hashes: np.ndarray, members: np.ndarray, distance: int) -> Iterator[np.ndarray]:
    """The close pairs among `members`, in blocks."""
    rows = max(1, _PAIRS // max(1, len(members)))
    for start in range(0, len(members) - 1, rows):
        block = members[start : start + rows]
        apart = np.bitwise_count(hashes[block, None] ^ hashes[None, members[start:]])
        first, second = np.nonzero(apart <= distance)
        later = second > first
        yield np.stack([block[first[later]], members[start:][second[later]]], axis=1)
