"""Input codec of text: string -> token ids, identical in training and serving. Imports only the tokenizers package."""

from __future__ import annotations

import dataclasses
import functools
import html
import itertools
import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar

import numpy as np
import pydantic
from tokenizers import Tokenizer

from lepton_tasks.codecs.fields import Field
from lepton_tasks.codecs.json_rows import json_bytes
from lepton_tasks.core.errors import DataError

PAD, UNKNOWN, BEGIN, END = range(4)
SPECIAL = ("<pad>", "<unk>", "<s>", "</s>")
"""The special tokens, first in every vocabulary."""

MAX_CHARACTERS = 100_000

# Character classes are explicit, because Python's and Rust's regular expressions define `\s` differently.
WHITE_SPACE = "[\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]+"
INVISIBLE = "[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\xad\u200b\u202a-\u202e\u2060\u2066-\u2069\ufeff\ufff9-\ufffb]+"
"""Control characters, soft hyphens, direction marks; not the joiners that Persian, Hindi and emoji need."""
HTML = "&(?:#|[A-Za-z])|<[/!A-Za-z]"
"""Matches in every text that contains an entity, a tag or a comment."""

_ENTITY = re.compile(r"&(?:#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")
_AMPERSANDS = re.compile(r"&(?:amp;)+")
_ELEMENTS = (
    "a abbr acronym address applet area article aside audio b base basefont bdi bdo big blink blockquote body br button"
    " canvas caption center cite code col colgroup data datalist dd del details dfn dialog dir div dl dt em embed"
    " fieldset figcaption figure font footer form frame frameset h1 h2 h3 h4 h5 h6 head header hr html i iframe img"
    " input ins kbd label legend li link main map mark marquee meta meter nav nobr noframes noscript object ol optgroup"
    " option output p param picture pre progress q s samp script section select small source span strike strong style"
    " sub summary sup svg table tbody td template textarea tfoot th thead time title tr track tt u ul var video wbr"
)
# HTML element names only, and few in capitals: in news, <CHMP> and <NAV> are companies.
# Texts are untrusted: alternatives must not overlap, or backtracking takes minutes (`=` and what is before it).
_NAMES = f"(?:{'|'.join(_ELEMENTS.split())})"
_MARKUP = rf"/?{_NAMES}(?:[ /][^<>]*)?>|(?i:/{_NAMES}>|{_NAMES} [^<>=]*=[^<>]*>)|BR>|![A-Za-z][^<>]*>"
_TAG = re.compile(f"<(?:{_MARKUP})")  # "<" as a common prefix lets Python skip to it
_TAG_OR_COMMENT = re.compile(f"<(?:!--(?s:.*?)-->|{_MARKUP})")
_COMMENT_END = "-->"

_MAX_MARKS = 100  # combining marks per letter
_dense = re.compile(f"[^\x00-\u02ff]{{{_MAX_MARKS + 1}}}")  # may contain more; no combining mark is below U+0300
_DECOMPOSED_MARKS = frozenset("\u0f73\u0f75\u0f81")  # decompose to two marks, but have combining class 0
_SURROGATE = re.compile("[\ud800-\udfff]")
_MAX_PASSES = 8  # for nested markup; limited because each pass reads the whole text

_white_space, _invisible, _html = (re.compile(pattern) for pattern in (WHITE_SPACE, INVISIBLE, HTML))


def canonical(text: str) -> str:
    """Normalise a text for tokenisation: NFC, no HTML or control characters, single spaces, stripped.

    Idempotent, so that text cleaned before training and raw text in a request become equal.
    """
    text = _tidy(text)
    for _ in range(_MAX_PASSES):
        if not _html.search(text):
            break
        plain = _ENTITY.sub(lambda match: html.unescape(match[0]), _AMPERSANDS.sub("&", text))
        plain = _tidy(_without_markup(plain))
        if plain == text:
            break
        text = plain
    return text


def _without_markup(text: str) -> str:
    """Replace tags and comments by spaces; after the last ``-->`` only tags, as open comments would scan to the end."""
    head, end, tail = text.rpartition(_COMMENT_END)
    return _TAG_OR_COMMENT.sub(" ", head + end) + _TAG.sub(" ", tail)


def _tidy(text: str) -> str:
    text = _invisible.sub("", text)
    if _dense.search(text):
        text = _unstacked(text)
    return _white_space.sub(" ", unicodedata.normalize("NFC", text)).strip(" ")


def _unstacked(text: str) -> str:
    """Drop marks beyond the hundredth on one letter: NFC takes minutes to reorder 100,000 of them."""
    kept, marks = [], 0
    for letter in text:
        marks = marks + 1 if unicodedata.combining(letter) or letter in _DECOMPOSED_MARKS else 0
        if marks <= _MAX_MARKS:
            kept.append(letter)
    return "".join(kept)


@functools.lru_cache(maxsize=32)
def load_tokenizer(text: str) -> Tokenizer:
    """Load a tokenizer from JSON; special tokens such as ``<pad>`` in a text are encoded as ordinary text.

    Raises:
        DataError: the JSON is not a tokenizer.
    """
    try:
        tokenizer = Tokenizer.from_str(text)
    except Exception as error:  # the bindings raise bare Exception
        raise DataError(f"not a tokenizer: {error}.", fix="Fit the features again.") from error
    tokenizer.encode_special_tokens = True  # not part of the JSON
    return tokenizer


def token_ids(tokenizer: Tokenizer, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Concatenated token ids of canonical texts (int32 [sum of lengths]), and the lengths (int32 [N])."""
    rows = [encoding.ids for encoding in tokenizer.encode_batch_fast(texts)]
    lengths = np.fromiter(map(len, rows), np.int32, count=len(rows))
    return np.fromiter(itertools.chain.from_iterable(rows), np.int32, count=int(lengths.sum())), lengths


def padded(ids: np.ndarray, lengths: np.ndarray, width: int) -> np.ndarray:
    """The token ids as int32 [N, width], padded with `PAD`."""
    table = np.full((len(lengths), width), PAD, np.int32)
    table[np.arange(width) < lengths[:, np.newaxis]] = ids
    return table


def text_of(payload: bytes, columns: Sequence[str]) -> str:
    """The canonical text of a request: UTF-8, or a JSON object of several columns, joined by spaces.

    Raises:
        DataError: it is not UTF-8, lacks a column, is too long or empty.
    """
    try:
        text = payload.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"the text is not UTF-8: {error.reason} at byte {error.start}.") from error
    if len(text) > MAX_CHARACTERS:
        raise DataError(f"the text has {len(text):,} characters; at most {MAX_CHARACTERS:,} are read.")
    if len(columns) > 1:
        text = " ".join(_fields(text, columns))
    if not (text := canonical(text)):
        raise DataError("the text is empty.")
    return text


def _fields(text: str, columns: Sequence[str]) -> list[str]:
    shape = "Send {" + ", ".join(f'"{name}": "..."' for name in columns) + "}."
    try:
        record = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"not JSON: {error}.", fix=shape) from error
    if not isinstance(record, Mapping):
        raise DataError(f"a JSON {type(record).__name__}, not an object.", fix=shape)
    values = []
    for name in columns:
        value = record.get(name)
        if not isinstance(value, str):
            raise DataError(f"the text {name!r} is missing." if value is None else f"{name!r} is not text.", fix=shape)
        if _SURROGATE.search(value):
            raise DataError(f"{name!r} holds a lone surrogate.", fix="Send valid Unicode.")
        values.append(value)
    return values


class TextRequests:
    """Base class of codecs whose samples are plain text, or JSON objects of several texts."""

    columns: tuple[str, ...]
    media_type: ClassVar[str] = "text/plain"
    suffix: ClassVar[str] = ".txt"

    def payload(self, instance: Any) -> bytes:
        """The bytes of ``"..."`` or ``{"text": "..."}``, or of an object with all columns.

        Raises:
            DataError: there is no text.
        """
        if len(self.columns) > 1:
            return json_bytes(instance)
        text = instance.get(self.columns[0], instance.get("text")) if isinstance(instance, dict) else instance
        if not isinstance(text, str):
            raise DataError("there is not text.", where=self.columns[0], fix='Send {"text": "..."}.')
        if _SURROGATE.search(text):
            raise DataError("the text holds a lone surrogate.", fix="Send valid Unicode.")
        return text.encode()

    def fields(self) -> list[Field]:
        """One field per text column."""
        return [Field(name, "text", required=True) for name in self.columns]


@dataclasses.dataclass(frozen=True)
class TextCodec(TextRequests):
    """Text to token ids.

    Args:
        tokenizer: JSON of a Hugging Face tokenizer, including truncation.
        max_length: Tokens per row.
        columns: Text columns; a request is plain text for one column, a JSON object for several.
    """

    tokenizer: str
    max_length: Annotated[int, pydantic.Field(ge=1)]
    columns: tuple[str, ...] = ("text",)

    def decode(self, payload: bytes) -> np.ndarray:
        """The token ids of one text as int32 [max_length], padded with 0; raises `DataError` if there is no text."""
        row: np.ndarray = self.encode([text_of(payload, self.columns)])[0][0]
        return row

    def observe(self, payload: bytes, sample: np.ndarray) -> dict[str, Any]:
        """The number of tokens, and the share of unknown ones."""
        tokens = int(np.count_nonzero(sample != PAD))
        return {"tokens": tokens, "unknown": int(np.count_nonzero(sample == UNKNOWN)) / max(1, tokens)}

    def encode(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Token ids of canonical texts as int32 [N, max_length], and their lengths, int32 [N]."""
        ids, lengths = token_ids(load_tokenizer(self.tokenizer), texts)
        return padded(ids, lengths, self.max_length), lengths


@dataclasses.dataclass(frozen=True)
class TfidfCodec(TextRequests):
    """Text to TF-IDF weights.

    Args:
        tokenizer: JSON of a Hugging Face tokenizer.
        idf: Inverse document frequency of each token; 0 for ignored tokens.
        columns: Text columns; a request is plain text for one column, a JSON object for several.
    """

    tokenizer: str
    idf: list[float]
    columns: tuple[str, ...] = ("text",)

    def decode(self, payload: bytes) -> np.ndarray:
        """The weights of one text as float32 [tokens]; raises `DataError` if there is no text."""
        values, indices, _ = self.encode([text_of(payload, self.columns)])
        row = np.zeros(len(self.idf), np.float32)
        row[indices] = values
        return row

    def observe(self, payload: bytes, sample: np.ndarray) -> dict[str, Any]:
        """The number of distinct tokens with a weight."""
        return {"words": int(np.count_nonzero(sample))}

    def encode(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Weights of canonical texts as compressed sparse rows of unit length.

        Returns:
            Values (float32), their columns (int32, ascending within a row), and the number per row (int64).
            A weight is (1 + ln count) * idf. Source: Manning, Raghavan, Schütze, Introduction to Information
            Retrieval, 2008, chapter 6.4.
        """
        ids, lengths = token_ids(load_tokenizer(self.tokenizer), texts)
        weights, width = np.asarray(self.idf), len(self.idf)
        rows = np.repeat(np.arange(len(texts), dtype=np.int64), lengths)
        cells, counts = np.unique(rows * width + ids, return_counts=True)
        rows, columns = np.divmod(cells, width)
        values = (1 + np.log(counts)) * weights[columns]
        counted = values > 0
        rows, columns, values = rows[counted], columns[counted], values[counted]
        norms = np.sqrt(np.bincount(rows, values**2, minlength=len(texts)))
        per_row = np.bincount(rows, minlength=len(texts)).astype(np.int64)
        return (values / norms[rows]).astype(np.float32), columns.astype(np.int32), per_row
