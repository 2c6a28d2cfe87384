"""Properties of metrics: unit, meaning, and whether higher or lower is better."""

from __future__ import annotations

import difflib

_SMALLER = {"loss", "error", "rmse", "mse", "mae", "mape", "perplexity", "fid", "eer", "flagged"}

# Unit and meaning of the learning tasks' metrics; also matched by prefix (``ap50_rbc``).
_MEANINGS: dict[str, tuple[str, str]] = {
    "accuracy": ("share", "of rows answered correctly"),
    "ap50": ("share", "average precision of this label at an IoU of 0.5"),
    "auc": ("", "area under the ROC curve: 0.5 is chance, 1 is perfect"),
    "bleu": ("of 100", "BLEU: overlap of word n-grams with the reference"),
    "calibration_error": ("share", "mean gap between predicted probability and observed frequency"),
    "chrf": ("of 100", "chrF: overlap of character n-grams with the reference"),
    "disturbed_auc": ("", "area under the ROC curve against disturbed rows: 0.5 is chance, 1 is perfect"),
    "disturbed_recall": ("share", "of disturbed rows detected"),
    "eer": ("share", "of errors at the threshold where false accepts equal false rejects"),
    "exact": ("share", "of texts identical to the reference"),
    "fid": ("", "Fréchet distance between generated and real images: 0 is best"),
    "flagged": ("share", "of unmodified rows flagged as anomalies"),
    "hit_rate_10": ("share", "of users whose next item is among the first ten"),
    "loss": ("nats", "mean negative log-likelihood: 0 is best"),
    "macro_f1": ("share", "F1, averaged over the labels"),
    "mae": ("of the target", "mean absolute error, in units of the target"),
    "map": ("share", "average precision over ten IoU thresholds, as COCO defines it"),
    "map50": ("share", "average precision at an IoU of 0.5"),
    "mrr": ("", "mean of 1 / rank of the actual next item"),
    "ndcg_10": ("", "discounted cumulative gain of the first ten: 1 is perfect"),
    "perplexity": ("words", "effective number of equally likely next words"),
    "r2": ("share", "of the variance explained"),
    "rank1": ("share", "of people recognised at rank 1"),
    "recognised": ("share", "of generated images that a classifier recognises as requested"),
    "rmse": ("of the target", "root mean squared error, in units of the target"),
    "tar": ("share", "of same-person pairs accepted at the threshold"),
    "threshold": ("cosine", "from which two samples count as the same person"),
}


def unit_of(name: str) -> str:
    """The unit of a metric: ``share`` (0 to 1), ``of the target``, another one, or nothing."""
    return _entry(name)[0]


def meaning(name: str) -> str:
    """A short description of a metric; empty if unknown."""
    return _entry(name)[1]


def misspelt(name: str) -> str | None:
    """The known metric that a misspelt name probably means; None for a known or a dissimilar name.

    Names that differ in digits (``hit_rate_5``) are different metrics, not typing errors.
    """
    if meaning(name):
        return None
    close = difflib.get_close_matches(name.lower(), _MEANINGS, n=1, cutoff=0.85)
    return next((known for known in close if _digits(known) == _digits(name)), None)


def _digits(name: str) -> str:
    return "".join(filter(str.isdigit, name))


def _entry(name: str) -> tuple[str, str]:
    return _MEANINGS.get(_known(name), ("", ""))


def _known(name: str) -> str:
    """The longest known prefix of the name; empty if there is none."""
    while name not in _MEANINGS and "_" in name:
        name = name.removeprefix("last_") if name.startswith("last_") else name.rpartition("_")[0]
    return name if name in _MEANINGS else ""


def higher_is_better(name: str) -> bool:
    """Whether a larger value of the metric is better: not if its last word is that of an error, such as ``loss``.

    The rest after a known name is a label, which may be any word: for ``ap50_an_error``, larger is better.
    """
    return (_known(name) or name).rpartition("_")[2] not in _SMALLER


def direction(name: str) -> int:
    """1 if a larger value of the metric is better, else -1."""
    return 1 if higher_is_better(name) else -1


def is_worse(name: str, value: float, limit: float) -> bool:
    """Whether the metric's value is worse than the limit; true for NaN."""
    return not (value >= limit if higher_is_better(name) else value <= limit)
