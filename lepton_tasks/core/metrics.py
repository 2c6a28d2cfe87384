"""What is better: a larger figure, or a smaller one."""

from __future__ import annotations

_SMALLER = {"loss", "error", "rmse", "mse", "mae", "mape", "perplexity", "fid", "eer", "flagged"}


def higher_is_better(name: str) -> bool:
    """Whether a larger value of the metric is better: no if its last word is that of an error, such as ``loss``."""
    return name.rpartition("_")[2] not in _SMALLER


def is_worse(name: str, value: float, limit: float) -> bool:
    """Whether the metric's value is worse than the limit; NaN is."""
    return not (value >= limit if higher_is_better(name) else value <= limit)
