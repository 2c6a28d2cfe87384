"""Two kinds of users, who like the even or the odd items, and go from each to the next of its kind."""

import base64
import json

import numpy as np

USERS, ITEMS = 12, 16
ROWS = {"train": 12 * 10, "validation": 24, "test": 24}
LABELS = []
NETWORKS = {
    "neighbours": {"count": 6, "ridge": 1.0},
    "matrix_factorisation": {"size": 4, "history": True},
    "neumf": {"size": 4, "hidden": [8, 4]},
    "two_tower": {"size": 4, "hidden": [8]},
}


def visits(user):
    """The items of a user, by number: at first a walk over his kind, then in part over others."""
    chance = np.random.default_rng(user)
    start = chance.integers(ITEMS // 2)
    own = [(start + step) % (ITEMS // 2) * 2 + user % 2 + 1 for step in range(8)]
    return [*own, *(chance.permutation([i for i in range(1, ITEMS + 1) if i % 2 == user % 2])[:6])]


def rating(user, item):
    return 4.0 + (user + item) % 3 / 2 if (item - 1) % 2 == user % 2 else 1.0 + (user + item) % 2 / 2


_PAIRS = [(user, item) for user in range(1, USERS + 1) for item in visits(user)]
_SPLIT = {"train": slice(0, 10), "validation": slice(10, 12), "test": slice(12, 14)}
_TRAIN = np.array([pair for user in range(1, USERS + 1) for pair in [(user, i) for i in visits(user)[:10]]], np.int32)
_POPULARITY = np.bincount(_TRAIN[:, 1], minlength=ITEMS + 1)[1:]
FITTED = {
    "users": [f"u{user}" for user in range(1, USERS + 1)],
    "items": [f"i{item}" for item in range(1, ITEMS + 1)],
    "popularity": sorted(_POPULARITY.tolist(), reverse=True),
    "mean_rating": float(np.mean([rating(*pair) for pair in _TRAIN.tolist()])),
    "seen": {
        name: base64.b64encode(np.ascontiguousarray(_TRAIN[:, column]).tobytes()).decode()
        for column, name in enumerate(("users", "items"))
    },
}


def write(folder):
    for split, part in _SPLIT.items():
        (folder / split).mkdir(parents=True)
        pairs = np.array([(user, i) for user in range(1, USERS + 1) for i in visits(user)[part]], np.int32)
        if split == "test":
            pairs[0, 1], pairs[-1, 0] = 0, 0  # an item and a user that training has not seen
        np.save(folder / split / "inputs.npy", pairs)
        np.save(folder / split / "targets.npy", np.array([rating(*pair) for pair in pairs.tolist()], np.float32))
    (folder / "dataset.json").write_text(json.dumps({"labels": LABELS, "rows": ROWS}))
    return folder


def served(rows):
    return np.stack([(row % (USERS + 1), (row * 5) % (ITEMS + 1)) for row in range(rows)]).astype(np.int32)
