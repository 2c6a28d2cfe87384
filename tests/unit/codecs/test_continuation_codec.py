import json

import numpy as np
import pytest

from lepton_tasks.codecs.continuation import ContinuationCodec
from lepton_tasks.codecs.text import END, load_tokenizer
from lepton_tasks.data.extractors.vocabulary import train_vocabulary

TOKENIZER = train_vocabulary([["all is well that ends well"]], kind="word", size=32, lowercase=True, min_count=1)


def test_the_answer_is_text_up_to_the_end():
    vocabulary = load_tokenizer(TOKENIZER).get_vocab()
    ends, well, that = (vocabulary[word] for word in ("ends", "well", "that"))
    outputs = {
        "surprise": np.array([[1.0, 2.0, 3.0, 0.0]], np.float32),
        "hit": np.array([[1, 0, 0, 0]], np.int32),
        "next": np.array([[ends, END]], np.int32),
        "probabilities": np.array([[0.75, 0.125]], np.float32),
        "continuation": np.array([[ends, well, END, that]], np.int32),
    }
    answer = ContinuationCodec(TOKENIZER).encode(outputs, 0)
    assert answer["next"] == [
        {"text": "ends", "end": False, "probability": 0.75},
        {"text": "", "end": True, "probability": 0.125},
    ]
    assert (answer["continuation"], answer["complete"]) == ("ends well", True)
    assert answer["perplexity"] == pytest.approx(np.exp(2))
    assert json.loads(json.dumps(answer)) == answer
