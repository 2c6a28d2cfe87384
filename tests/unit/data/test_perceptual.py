import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from lepton_tasks.data.perceptual import HashIndex, near_pairs, perceptual_hash


def scene(seed):
    """A smooth image, like a photo."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((320, 240), Image.Resampling.BICUBIC)


def bits(one, other):
    return (perceptual_hash(one) ^ perceptual_hash(other)).bit_count()


def test_scaled_compressed_and_brightened_pictures_stay_near_and_others_are_far():
    for seed in range(20):
        picture, stream = scene(seed), io.BytesIO()
        picture.resize((150, 110)).save(stream, "JPEG", quality=75)
        assert bits(picture, Image.open(stream)) <= 4
        assert bits(picture, picture.point(lambda value: round(value * 0.8 + 20))) <= 4
        assert bits(picture, picture.convert("L")) == 0
        assert bits(picture, scene(seed + 100)) > 12
        assert bits(picture, picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)) > 8


@given(
    seeds=st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=8),
    flips=st.lists(st.lists(st.integers(0, 63), max_size=10), min_size=1, max_size=30),
    distance=st.integers(0, 8),
)
def test_all_near_pairs_and_no_others_are_found(seeds, flips, distance):
    values = {seeds[i % len(seeds)] ^ sum({1 << bit for bit in flip}) for i, flip in enumerate(flips)}
    hashes = np.array(sorted(values), np.uint64)
    found = {tuple(sorted(pair)) for pairs in near_pairs(hashes, distance) for pair in pairs.tolist()}
    ordered = sorted(values)
    expected = {
        (i, j) for j in range(len(ordered)) for i in range(j) if (ordered[i] ^ ordered[j]).bit_count() <= distance
    }
    assert found == expected


def test_few_of_many_hashes_are_compared(monkeypatch):
    compared = []
    count = np.bitwise_count
    monkeypatch.setattr(np, "bitwise_count", lambda values: compared.append(values.size) or count(values))
    hashes = np.unique(np.random.default_rng(0).integers(0, 2**64, 20_000, dtype=np.uint64))
    assert sum(map(len, near_pairs(hashes, 4))) == 0
    assert sum(compared) < len(hashes) ** 2 / 100


@pytest.mark.parametrize("distance", [0, 3, 8])
def test_the_nearest_of_many_is_found_and_nothing_farther_than_the_distance(distance):
    chance = np.random.default_rng(distance)
    kinds = chance.integers(0, 2**64, 5, dtype=np.uint64).tolist()
    codes = [kind ^ sum(1 << int(bit) for bit in chance.permutation(64)[: chance.integers(6)]) for kind in kinds * 60]
    index, added = HashIndex(distance), []
    for code in codes:
        bits, nearest = min((((code ^ other).bit_count(), other) for other in added), default=(64, None))
        assert index.nearest(code) == (nearest if bits <= distance else None)
        index.add(code)
        added.append(code)
