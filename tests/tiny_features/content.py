from tiny_features import interactions
from tiny_features.interactions import ITEMS, LABELS, write
from tiny_features.visits import served

__all__ = ["FITTED", "LABELS", "NETWORKS", "served", "write"]

# Each item has a word of its kind and a word of its neighbourhood.
FITTED = interactions.FITTED | {
    "words": ["even", "odd", "n0", "n1", "n2", "n3"],
    "weights": [1.7, 1.7, 2.0, 2.0, 2.0, 2.0],
    "item_words": [[3 + item // 4, 1 + item % 2] for item in range(ITEMS)],
    "titles": [f"Item {item}" for item in range(1, ITEMS + 1)],
}
NETWORKS = {"content_tower": {"size": 4}}
