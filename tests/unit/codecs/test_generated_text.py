import numpy as np
import pytest

from lepton_tasks.codecs.generated_text import GeneratedTextCodec, decode_tokens
from lepton_tasks.codecs.text import BEGIN, END, load_tokenizer
from lepton_tasks.data.extractors.vocabulary import framed, train_vocabulary

TEXT = 'Ein Mann (48) reitet, ohne Sattel: "los!" Straße 3.'
TOKENIZER = framed(
    train_vocabulary([[TEXT]], kind="bpe", size=400, lowercase=False, min_count=1), max_length=64, begin=True, end=True
)


def test_byte_pairs_give_the_text_back_as_it_was():
    assert decode_tokens(TOKENIZER, load_tokenizer(TOKENIZER).encode(TEXT).ids) == TEXT


def test_the_text_ends_where_the_network_ended_it():
    words = load_tokenizer(TOKENIZER).encode("Ein Mann").ids[1:-1]
    tokens = np.array([[*words, END, *words, 0], [*words, *words, 0, 0]], np.int32)
    outputs = {"tokens": tokens, "scores": np.log(np.array([0.5, 0.25], np.float32))}
    codec = GeneratedTextCodec(TOKENIZER)
    assert codec.encode(outputs, 0) == {"text": "Ein Mann", "complete": True, "probability": pytest.approx(0.5)}
    assert codec.encode(outputs, 1)["text"] == "Ein Mann Ein Mann"
    assert not codec.encode(outputs, 1)["complete"]


def test_a_network_that_says_nothing_gives_an_empty_text():
    assert decode_tokens(TOKENIZER, [BEGIN, END, 0]) == ""
