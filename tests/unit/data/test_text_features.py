import json
import tempfile
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_tables import table_rows

from lepton_tasks.codecs.text import END, SPECIAL, TextCodec, TfidfCodec, load_tokenizer, text_of
from lepton_tasks.core.context import RunContext
from lepton_tasks.core.errors import ConfigError, DataError
from lepton_tasks.data.extractors.text import TextFeatures
from lepton_tasks.data.extractors.text_pair import TextPairFeatures
from lepton_tasks.data.extractors.tfidf import TfidfFeatures
from lepton_tasks.data.extractors.vectors import word_vectors
from lepton_tasks.data.tables.steps.text import TextNormalise

KINDS = ("word", "bpe", "wordpiece")
SUBJECTS, VERBS, PLACES = (
    ("A cat", "The dog", "My bird"),
    ("sleeps on", "runs to"),
    ("the roof.", "a garden!", "Größe 7"),
)
LINES = [f"{s} {v} {p}" for s in SUBJECTS for v in VERBS for p in PLACES]
GERMAN = [line.replace("The dog", "Der Hund").replace("sleeps", "schläft") for line in LINES]


@pytest.fixture
def ctx(tmp_path):
    return RunContext.local(tmp_path)


@pytest.fixture
def corpus(tmp_path):
    return table_rows(tmp_path, pl.DataFrame({"text": LINES, "german": GERMAN, "n": range(len(LINES))}), parts=3)


def fitted(features, folder, lines=LINES):
    rows = table_rows(folder, pl.DataFrame({"text": lines}))
    return features.fit(rows, RunContext.local(folder))


TEXTS = st.one_of(
    st.lists(st.sampled_from(["cat", "Dog", "roof", " ", ".", "&amp;", "<b>", "e\u0301", "\u00a0", "ß", "\n"])).map(
        "".join
    ),
    st.text(st.characters(exclude_categories=["Cs", "Cn"]), max_size=20),
)
TEXTS = TEXTS.filter(lambda text: pl.select(pl.lit(text).str.strip_chars()).item() != "")


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=15)  # the first example imports Dask
@given(texts=st.lists(TEXTS, min_size=1, max_size=6), clean=st.booleans())
def test_a_batch_on_dask_equals_one_text_in_serving(kind, texts, clean):
    with tempfile.TemporaryDirectory() as name:
        folder, features = Path(name), TextFeatures(tokenizer=kind, max_length=8, min_count=1, vocab_size=400)
        learned = json.loads(json.dumps(fitted(features, folder)))
        codec = TextCodec(**features.codec(learned)[1])
        rows = table_rows(folder, pl.DataFrame({"text": texts}), parts=2)
        if clean:  # serving receives raw what training had cleaned
            rows = rows.changed(TextNormalise(("text",)).change)
        features.transform(rows, learned, folder, RunContext.local(folder))
        inputs, lengths = np.load(folder / "inputs.npy"), np.load(folder / "lengths.npy")
        for text, row, length in zip(texts, inputs, lengths, strict=True):
            try:
                served = codec.decode(text.encode())
            except DataError as error:
                assert error.what == "the text is empty."  # noqa: PT017  # nothing visible in it
                served = np.zeros(8, np.int32)
            np.testing.assert_array_equal(served, row)
            assert np.count_nonzero(served) == length


def test_weights_on_dask_equal_those_in_serving(corpus, ctx, tmp_path):
    features = TfidfFeatures(min_count=1)
    learned = json.loads(json.dumps(features.fit(corpus, ctx)))
    assert features.transform(corpus, learned, tmp_path, ctx)["rows"] == len(LINES)
    values, columns, offsets = (np.load(tmp_path / f"inputs_{n}.npy") for n in ("values", "columns", "offsets"))
    codec = TfidfCodec(**features.codec(learned)[1])
    assert offsets[0] == 0
    assert offsets[-1] == len(values) == len(columns)
    for i, line in enumerate(LINES):
        dense = np.zeros(learned["vocabulary"], np.float32)
        dense[columns[offsets[i] : offsets[i + 1]]] = values[offsets[i] : offsets[i + 1]]
        np.testing.assert_array_equal(codec.decode(line.encode()), dense)
        assert np.linalg.norm(dense) == pytest.approx(1, abs=1e-6)


def test_idf_is_that_of_the_formula(corpus, ctx):
    learned = TfidfFeatures(min_count=1, max_share=0.6).fit(corpus, ctx)
    token = load_tokenizer(learned["tokenizer"]).token_to_id
    assert learned["idf"][token("cat")] == pytest.approx(np.log(19 / 7) + 1)  # in 6 of 18 lines
    assert learned["idf"][: len(SPECIAL)] == [0] * 4
    counts = {word: sum(word in line.lower().split() for line in LINES) for word in ("the", "on")}
    assert counts == {"the": 10, "on": 9}
    assert learned["idf"][token("on")] > 0
    assert TfidfFeatures(min_count=1, max_share=0.5).fit(corpus, ctx)["idf"][token("the")] == 0


@pytest.mark.parametrize("kind", KINDS)
def test_parts_and_threads_do_not_show(kind, tmp_path):
    features = TextFeatures(tokenizer=kind, min_count=1, vocab_size=300, vectors=4)
    frame = pl.DataFrame({"text": LINES})
    found = [
        features.fit(table_rows(tmp_path, frame, parts), RunContext.local(tmp_path, dask={"workers": workers}))
        for parts, workers in ((1, 1), (4, 3))
    ]
    assert found[0] == found[1]


@pytest.mark.parametrize("kind", KINDS)
def test_the_vocabulary_knows_the_training_split_only(kind, corpus, ctx, tmp_path):
    features = TextFeatures(tokenizer=kind, min_count=1, vocab_size=400)
    learned = features.fit(corpus, ctx)
    tokens = load_tokenizer(learned["tokenizer"]).get_vocab()
    assert "zeppelin" not in tokens
    other = table_rows(tmp_path, pl.DataFrame({"text": ["zeppelin zeppelin zeppelin"] * 9}))
    features.transform(other, learned, tmp_path, ctx)
    assert features.fit(corpus, ctx) == learned
    assert "zeppelin" in load_tokenizer(features.fit(other, ctx)["tokenizer"]).get_vocab() or kind == "bpe"
    assert [tokens[word] for word in SPECIAL] == [0, 1, 2, 3]
    assert len(tokens) == learned["vocabulary"] <= 400


def test_a_long_text_is_cut_and_a_missing_one_is_empty(corpus, ctx, tmp_path):
    features = TextFeatures(max_length=3, min_count=1)
    learned = features.fit(corpus, ctx)
    rows = table_rows(tmp_path, pl.DataFrame({"text": ["the cat runs to the roof", None, "cat"]}))
    assert features.transform(rows, learned, tmp_path, ctx) == {"rows": 3, "bytes": 48}
    word = load_tokenizer(learned["tokenizer"]).token_to_id
    expected = [[word("the"), word("cat"), word("runs")], [0, 0, 0], [word("cat"), 0, 0]]
    assert np.load(tmp_path / "inputs.npy").tolist() == expected
    assert np.load(tmp_path / "lengths.npy").tolist() == [3, 0, 1]


def test_as_requests_missing_texts_are_what_they_were_in_training(tmp_path):
    rows = table_rows(tmp_path, pl.DataFrame({"title": ["A", None], "text": [None, "the cat"]}))
    one, both = (TextFeatures(columns) for columns in (("text",), ("title", "text")))
    assert one.requests(rows, np.arange(2), {}) == [b"", b"the cat"]
    payloads = both.requests(rows, np.arange(2), {})
    assert [text_of(payload, ("title", "text")) for payload in payloads] == ["A", "the cat"]


@pytest.mark.parametrize("vocabulary", ["joint", "separate"])
def test_pairs_begin_and_end(vocabulary, corpus, ctx, tmp_path):
    features = TextPairFeatures("text", "german", vocabulary=vocabulary, vocab_size=400, max_length=40, min_count=1)
    learned = json.loads(json.dumps(features.fit(corpus, ctx)))
    features.transform(corpus, learned, tmp_path, ctx)
    inputs, targets = np.load(tmp_path / "inputs.npy"), np.load(tmp_path / "targets.npy")
    lengths, widths = np.load(tmp_path / "lengths.npy"), np.load(tmp_path / "target_lengths.npy")
    assert inputs.shape == targets.shape == (len(LINES), 40)
    assert (targets[:, 0] == 2).all()
    assert (inputs[np.arange(len(LINES)), lengths - 1] == END).all()
    assert (targets[np.arange(len(LINES)), widths - 1] == END).all()
    reader = load_tokenizer(learned["target_tokenizer"])
    assert [reader.decode(row[1 : n - 1]).strip() for row, n in zip(targets.tolist(), widths, strict=True)] == GERMAN
    same = load_tokenizer(learned["tokenizer"]).get_vocab() == reader.get_vocab()
    assert same == (vocabulary == "joint")
    codec = TextCodec(**features.codec(learned)[1])
    np.testing.assert_array_equal(codec.decode(LINES[4].encode()), inputs[4])


def test_words_in_like_places_get_like_vectors(tmp_path, ctx):
    lines = [
        f"the {animal} sleeps on the {place}" for animal in ("cat", "dog", "bird") for place in ("roof", "wall", "bed")
    ]
    learned = fitted(TextFeatures(vectors=3, min_count=1), tmp_path, lines * 3)
    vectors = word_vectors(json.loads(json.dumps(learned)))
    assert vectors.shape == (learned["vocabulary"], 3)
    units = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)
    word = load_tokenizer(learned["tokenizer"]).token_to_id
    near, far = units[word("cat")] @ units[word("dog")], units[word("cat")] @ units[word("sleeps")]
    assert near > 0.95 > far
    assert not vectors[: len(SPECIAL)].any()
    assert word_vectors(fitted(TextFeatures(min_count=1), tmp_path)) is None


def test_what_cannot_be_learned_from_is_said(corpus, ctx):
    with pytest.raises(DataError, match="occurs 99 times: the vocabulary is empty"):
        TextFeatures(min_count=99).fit(corpus, ctx)
    schema = {"text": pl.String(), "n": pl.Int64()}
    with pytest.raises(ConfigError, match="the label 'text' is among the inputs"):
        TextFeatures().check(schema, "text")
    with pytest.raises(ConfigError, match="'n' holds Int64, not text"):
        TfidfFeatures(("n",)).check(schema, None)
    with pytest.raises(ConfigError, match="learn the column 'text', not a label"):
        TextPairFeatures("text", "text").check(schema, "n")
