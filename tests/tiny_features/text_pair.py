"""Rows of words, and what is to be made of each: the same words in another language, in reverse order."""

import json

import numpy as np

from lepton_tasks.codecs.text import TextCodec
from lepton_tasks.data.extractors.vocabulary import framed, train_vocabulary

LABELS = []
WIDTH = 10
ROWS = {"train": 96, "validation": 16, "test": 16}
_WORDS = {"a": "ein", "dog": "hund", "cat": "kater", "sees": "sieht", "red": "rot", "big": "gross"}


def pairs(rows, seed):
    chance = np.random.default_rng(seed)
    found = [chance.choice(list(_WORDS), chance.integers(2, WIDTH - 2)).tolist() for _ in range(rows)]
    return [(" ".join(words), " ".join(_WORDS[word] for word in reversed(words))) for words in found]


_TEXTS = [text for pair in pairs(ROWS["train"], 0) for text in pair]
_VOCABULARY = train_vocabulary([_TEXTS], kind="word", size=32, lowercase=True, min_count=1)
TOKENIZER = framed(_VOCABULARY, max_length=WIDTH, end=True)
TARGET_TOKENIZER = framed(_VOCABULARY, max_length=WIDTH, begin=True, end=True)
FITTED = {
    "tokenizer": TOKENIZER,
    "target_tokenizer": TARGET_TOKENIZER,
    "vocabulary": 4 + 2 * len(_WORDS),
    "target_vocabulary": 4 + 2 * len(_WORDS),
    "max_length": WIDTH,
}
NETWORKS = {
    "seq2seq_gru": {"width": 16},
    "seq2seq_transformer": {"width": 16, "heads": 2, "layers": 2, "expansion": 2},
}


def write(folder):
    for seed, (split, rows) in enumerate(ROWS.items()):
        (folder / split).mkdir(parents=True)
        sources, targets = zip(*pairs(rows, seed), strict=True)
        for name, lengths, tokenizer, texts in (
            ("inputs", "lengths", TOKENIZER, sources),
            ("targets", "target_lengths", TARGET_TOKENIZER, targets),
        ):
            tokens, counts = TextCodec(tokenizer, WIDTH).encode(texts)
            np.save(folder / split / f"{name}.npy", tokens)
            np.save(folder / split / f"{lengths}.npy", counts)
    (folder / "dataset.json").write_text(json.dumps({"labels": LABELS, "rows": ROWS}))
    return folder


def served(rows):
    codec = TextCodec(TOKENIZER, WIDTH)
    return np.stack([codec.decode(source.encode()) for source, _ in pairs(rows, 1)])
