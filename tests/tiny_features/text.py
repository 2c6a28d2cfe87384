"""Texts whose words come in a circle, and whose label is which of two words is put in somewhere."""

import json

import numpy as np

from lepton_tasks.codecs.text import TextCodec
from lepton_tasks.data.extractors.vectors import train_vectors
from lepton_tasks.data.extractors.vocabulary import framed, train_vocabulary

LABELS = ["bad", "good"]
WIDTH = 12
ROWS = {"train": 96, "validation": 24, "test": 24}
_FILLERS = ["the", "film", "was", "long", "a", "story"]


def texts(rows, seed):
    chance = np.random.default_rng(seed)
    targets = np.arange(rows) % 2
    found = []
    for target in targets:
        start, count = chance.integers(len(_FILLERS)), chance.integers(2, WIDTH - 1)
        words = [_FILLERS[(start + place) % len(_FILLERS)] for place in range(count)]
        words.insert(chance.integers(len(words) + 1), ["poor", "great"][target])
        found.append(" ".join(words))
    return found, targets.astype(np.int64)


_TEXTS = texts(ROWS["train"], 0)[0]
TOKENIZER = framed(train_vocabulary([_TEXTS], kind="word", size=32, lowercase=True, min_count=1), max_length=WIDTH)
_CODEC = TextCodec(TOKENIZER, WIDTH)
_IDS, _LENGTHS = _CODEC.encode(_TEXTS)
FITTED = {
    "tokenizer": TOKENIZER,
    "vocabulary": 4 + len(_FILLERS) + 2,
    "max_length": WIDTH,
    "vectors": train_vectors([(_IDS[_IDS > 0], _LENGTHS)], 4 + len(_FILLERS) + 2, 4),
}
NETWORKS = {
    "ngrams": {"embedding": 8, "buckets": 16},
    "rnn_language_model": {"width": 16},
    "rnn": {"embedding": 8, "width": 8, "layers": 2},
    "transformer": {"width": 8, "heads": 2, "layers": 1},
    "weighted_words": {"width": 8},
}


def write(folder):
    for seed, (split, rows) in enumerate(ROWS.items()):
        (folder / split).mkdir(parents=True)
        found, targets = texts(rows, seed)
        inputs, lengths = _CODEC.encode(found)
        np.save(folder / split / "inputs.npy", inputs)
        np.save(folder / split / "lengths.npy", lengths)
        np.save(folder / split / "targets.npy", targets)
    (folder / "dataset.json").write_text(json.dumps({"labels": LABELS, "rows": ROWS}))
    return folder


def served(rows):
    return np.stack([_CODEC.decode(text.encode()) for text in texts(rows, 1)[0]])
