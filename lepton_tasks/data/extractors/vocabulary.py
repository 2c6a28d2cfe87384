"""Train vocabularies on the training split, stored as Hugging Face tokenizer JSON."""

from __future__ import annotations

import collections
from collections.abc import Iterable, Sequence
from typing import Any, Literal

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from lepton_tasks.codecs.text import BEGIN, END, SPECIAL, UNKNOWN
from lepton_tasks.core.errors import DataError

Kind = Literal["word", "bpe", "wordpiece"]

_ALPHABET = 1_000  # maximum characters of a WordPiece vocabulary: enough for any alphabet, a limit for Han
_BYTES = 256


def train_vocabulary(
    texts: Iterable[Sequence[str]],
    *,
    kind: Kind,
    size: int,
    lowercase: bool,
    min_count: int,
) -> str:
    """Train a tokenizer on canonical texts; deterministic for the same texts in the same order.

    Args:
        texts: Batches of texts; read twice for ``wordpiece``, never all in memory.
        kind: ``word`` (whole words and punctuation), ``bpe`` (byte pairs: no unknown tokens, lossless decoding;
            Sennrich et al. 2016, https://aclanthology.org/P16-1162) or ``wordpiece`` (Schuster and Nakajima 2012, doi
            10.1109/ICASSP.2012.6289079).
        size: Maximum number of tokens, including the four special ones.
        lowercase: Whether to ignore case.
        min_count: Minimum count of a word, or of a pair of tokens to merge.

    Raises:
        DataError: nothing occurs often enough.
    """
    tokenizer = _blank(kind)
    if lowercase:
        tokenizer.normalizer = normalizers.Lowercase()
    options: dict[str, Any] = {"vocab_size": size, "min_frequency": min_count, "show_progress": False}
    special, least = list(SPECIAL), len(SPECIAL)
    if kind == "word":
        tokenizer.train_from_iterator(texts, trainers.WordLevelTrainer(special_tokens=special, **options))
    elif kind == "bpe":
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        least += _BYTES
        tokenizer.train_from_iterator(
            texts, trainers.BpeTrainer(special_tokens=special, initial_alphabet=alphabet, **options)
        )
    else:
        # The trainer numbers inner characters (##a) in hash table order, which differs per process, and breaks ties by
        # these numbers. As special tokens they get fixed numbers; the model is then rebuilt without them as special.
        alphabet = _alphabet(texts, lowercase=lowercase)
        inner = [f"##{character}" for character in alphabet]
        least += 2 * len(alphabet)
        tokenizer.train_from_iterator(
            texts,
            trainers.WordPieceTrainer(
                special_tokens=special + inner, initial_alphabet=alphabet, limit_alphabet=len(alphabet), **options
            ),
        )
        tokenizer = _blank(kind, tokenizer.get_vocab())
        tokenizer.add_special_tokens(special)
        if lowercase:
            tokenizer.normalizer = normalizers.Lowercase()
    if tokenizer.get_vocab_size() <= least:
        raise DataError(
            f"nothing in the text of the training split occurs {min_count} times: the vocabulary is empty.",
            where="features.params",
            fix="Lower `min_count`, or name columns that hold text.",
        )
    return str(tokenizer.to_str())


def framed(tokenizer_json: str, *, max_length: int, begin: bool = False, end: bool = False) -> str:
    """The tokenizer with ``<s>`` and ``</s>`` around each text, truncated to `max_length` tokens including these."""
    tokenizer = Tokenizer.from_str(tokenizer_json)
    if begin or end:
        frame = ["<s>"] * begin + ["$A"] + ["</s>"] * end
        special = [("<s>", BEGIN)] * begin + [("</s>", END)] * end
        tokenizer.post_processor = processors.TemplateProcessing(single=" ".join(frame), special_tokens=special)
    tokenizer.enable_truncation(max_length)
    return str(tokenizer.to_str())


def _alphabet(texts: Iterable[Sequence[str]], *, lowercase: bool) -> list[str]:
    counts: collections.Counter[str] = collections.Counter()
    for batch in texts:
        for text in batch:
            counts.update(text.lower() if lowercase else text)
    counts.pop(" ", None)
    common = sorted(counts, key=lambda character: (-counts[character], character))
    return sorted(common[:_ALPHABET])


def _blank(kind: Kind, vocabulary: dict[str, int] | None = None) -> Tokenizer:
    unknown = SPECIAL[UNKNOWN]
    if kind == "bpe":
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
        tokenizer.decoder = decoders.ByteLevel()
    elif kind == "wordpiece":
        tokenizer = Tokenizer(models.WordPiece(vocabulary or {}, unk_token=unknown))
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        tokenizer.decoder = decoders.WordPiece()
    else:
        tokenizer = Tokenizer(models.WordLevel(unk_token=unknown))
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return tokenizer
