import json
import subprocess
import sys
import time
import unicodedata

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers

from lepton_tasks.codecs.text import MAX_CHARACTERS, TextCodec, TfidfCodec, canonical, load_tokenizer
from lepton_tasks.core.errors import DataError

WORDS = ["<pad>", "<unk>", "<s>", "</s>", "the", "cat", "sat", "."]


@pytest.fixture(scope="module")
def tokenizer():
    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.enable_truncation(5)
    return made.to_str()


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("  two\t\n words\u00a0here ", "two words here"),
        ("cafe\u0301", "café"),
        ("zero\u200bwidth\x07\ufeff", "zerowidth"),
        ("R&amp;D &#8364;5 &lt;b&gt;up&lt;/b&gt;", "R&D €5 up"),
        ("&amp;amp;lt;", "<"),
        ('<p class="x">one<br/>two</p><!-- no -->', "one two"),
        ("Champion <CHMP> and <U> rose; a < b > c", "Champion <CHMP> and <U> rose; a < b > c"),
        ("&nosuch; AT&T", "&nosuch; AT&T"),
        ("\u0646\u200c\u0645", "\u0646\u200c\u0645"),
    ],
)
def test_canonical(raw, clean):
    assert canonical(raw) == clean


MARKUP = st.lists(
    st.sampled_from([*"<>&;/!#b 3a\x07\n", "amp", "lt", "<b", "&lt;", "&#60;", "-->", "\u0338", "\u037e"])
)


@given(st.one_of(st.text(), MARKUP.map("".join)))
def test_what_is_canonical_stays_so(text):
    once = canonical(text)
    assert canonical(once) == once
    assert once == once.strip()
    assert unicodedata.is_normalized("NFC", once)


@pytest.mark.parametrize(
    "text",
    ["<a " + "=" * 50_000, "<!--" * 12_000, "a" + "\u0301\u0327" * 25_000, "&#769;&#807;" * 4_000, "\u0f73" * 50_000],
    ids=["attribute", "comments", "marks", "entities of marks", "marks of two"],
)
def test_no_text_takes_long(text):
    began = time.process_time()
    canonical(text)
    assert time.process_time() - began < 1  # 30 s of the first once, while no other request was answered


def test_comments_end_where_they_did():
    assert canonical("a<!-- b --> c <!-- d") == "a c <!-- d"
    assert canonical("a<!-->b-->c<b>d") == "a c d"
    assert canonical('<a href="-->">x <p class=y>z') == '">x z'
    assert canonical("<!-- &#10; -->x") == "x"


def test_marks_beyond_a_hundred_on_one_letter_are_left_out():
    assert canonical("a" + "\u0327" * 150 + "b") == "a" + "\u0327" * 100 + "b"
    assert canonical("\u4e2d" * 200) == "\u4e2d" * 200


def test_decode(tokenizer):
    codec = TextCodec(tokenizer, max_length=5)
    np.testing.assert_array_equal(codec.decode(b"the cat sat"), np.array([4, 5, 6, 0, 0], np.int32))
    np.testing.assert_array_equal(codec.decode(b"the <b>dog</b> sat."), [4, 1, 6, 7, 0])
    np.testing.assert_array_equal(codec.decode(b"the the the the the cat"), [4] * 5)
    assert codec.decode(b"cat").dtype == np.int32


def test_special_tokens_in_a_text_are_words(tokenizer):
    assert 0 not in load_tokenizer(tokenizer).encode("<pad>").ids
    assert 3 not in load_tokenizer(tokenizer).encode("cat</s>").ids


def test_several_columns_are_an_object(tokenizer):
    codec = TextCodec(tokenizer, max_length=5, columns=("title", "text"))
    np.testing.assert_array_equal(codec.decode(b'{"text": "sat .", "title": "the cat"}'), [4, 5, 6, 7, 0])


@pytest.mark.parametrize(
    ("payload", "columns", "message"),
    [
        (b"\xff", ["text"], "not UTF-8: invalid start byte at byte 0"),
        (b" \t", ["text"], "the text is empty"),
        (b"x" * (MAX_CHARACTERS + 1), ["text"], "100,001 characters; at most 100,000"),
        (b"cat", ["a", "b"], 'not JSON.*Send {"a": "...", "b": "..."}'),
        (b"[]", ["a", "b"], "a JSON list, not an object"),
        (b'{"a": "x"}', ["a", "b"], "'b' is missing"),
        (b'{"a": "x", "b": 1}', ["a", "b"], "'b' is not text"),
        (json.dumps({"a": "\ud800", "b": ""}).encode(), ["a", "b"], "lone surrogate"),
        (b"[" * 90_000, ["a", "b"], "not JSON"),
    ],
)
def test_bad_requests_say_what_is_wrong(tokenizer, payload, columns, message):
    with pytest.raises(DataError, match=message):
        TextCodec(tokenizer, max_length=5, columns=tuple(columns)).decode(payload)


def test_a_broken_tokenizer_is_named():
    with pytest.raises(DataError, match="not a tokenizer"):
        TextCodec("{}", max_length=5).decode(b"cat")


def test_weights_have_unit_length_and_leave_out_what_does_not_count(tokenizer):
    row = TfidfCodec(tokenizer, [0, 0, 0, 0, 1.0, 2.0, 3.0, 0]).decode(b"the cat . the dog")
    assert row.dtype == np.float32
    the, cat = 1 + np.log(2), 2.0
    np.testing.assert_allclose(row, np.array([0, 0, 0, 0, the, cat, 0, 0]) / np.hypot(the, cat), rtol=1e-6)


def test_serving_does_not_import_the_hub():
    code = "import sys, lepton_tasks.codecs.text; print('tokenizers' in sys.modules, 'huggingface_hub' in sys.modules)"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.split() == ["True", "False"]
