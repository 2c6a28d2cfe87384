import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lepton_tasks.codecs.text import canonical
from lepton_tasks.core.errors import ConfigError
from lepton_tasks.data.tables.steps.near_text import NearDuplicateText, Shingles
from lepton_tasks.data.tables.steps.text import EmptyText, TextLength, TextNormalise, joined_text

TEXTS = st.text(
    st.one_of(st.characters(exclude_categories=["Cs", "Cn"]), st.sampled_from("<>&;b/ \x07\u0301\u00a0")), max_size=40
)


def reasons(step, frame):
    return step.change(frame.lazy()).select(step.refuse()).collect().to_series().to_list()


@given(st.lists(st.one_of(st.none(), TEXTS, st.just("&lt;p&gt;a&lt;/p&gt;")), min_size=1))
def test_polars_and_python_clean_alike(texts):
    frame = pl.DataFrame({"t": texts}, schema={"t": pl.String})
    cleaned = TextNormalise(("t",)).change(frame.lazy()).collect()["t"].to_list()
    assert cleaned == [None if text is None else canonical(text) for text in texts]


def test_columns_are_joined_without_what_is_missing():
    frame = pl.DataFrame({"a": ["x ", None, None], "b": [" y", "z", None]})
    assert frame.select(joined_text(["a", "b"])).to_series().to_list() == ["x y", "z", ""]


def test_empty_text():
    frame = pl.DataFrame({"a": [" ", "\u200b", None, "x"], "b": ["", None, "y", None]})
    assert reasons(EmptyText(("a", "b")), frame) == ["no text", "no text", None, None]
    assert reasons(EmptyText(("a",)), frame) == ["no text", "no text", "no text", None]


def test_text_length():
    frame = pl.DataFrame({"t": ["", "ab", "a b c d", None]})
    assert reasons(TextLength("t", minimum=2, maximum=6), frame) == [
        "less than 2 characters",
        None,
        "more than 6 characters",
        None,
    ]
    assert reasons(TextLength("t", unit="words", minimum=4), frame)[1:3] == ["less than 4 words", None]


@pytest.mark.parametrize("step", [TextNormalise(("n",)), EmptyText(("n",)), TextLength("n"), NearDuplicateText(("n",))])
def test_a_column_of_numbers_is_no_text(step):
    with pytest.raises(ConfigError, match="the column 'n' holds Int64, not text"):
        step.check({"n": pl.Int64()})
    with pytest.raises(ConfigError, match=r"no column 'n'.*Did you mean 'nn'"):
        step.check({"nn": pl.String()})


STORY = "the price of oil rose again on monday as traders weighed a cut in output by its largest makers"
WORDS = STORY.split()


def numbered(texts):
    return pl.DataFrame({"_row": range(10, 10 + len(texts)), "t": texts}, schema={"_row": pl.Int64, "t": pl.String})


def test_the_first_of_nearly_equal_texts_stays():
    frame = numbered([STORY, "something else entirely, and long enough", STORY.upper() + "!", "", "", None, STORY[4:]])
    kept, refused = NearDuplicateText(("t",)).apply(frame)
    assert kept["_row"].to_list() == [10, 11, 13, 14, 15]
    assert refused.rows() == [(12, "0.99 alike to row 10"), (16, "0.95 alike to row 10")]


def test_similarity_is_that_of_the_sets_of_runs():
    def runs(text):
        return {text[i : i + 8] for i in range(len(text) - 7)}

    other = " ".join([*WORDS[:8], "bankers", *WORDS[9:]])
    exact = len(runs(STORY) & runs(other)) / len(runs(STORY) | runs(other))
    assert Shingles(pl.Series([STORY, other]), 8).similarity(0, 1) == pytest.approx(exact)
    assert Shingles(pl.Series(["ab", "ab", "ba"]), 8).similarity(0, 1) == 1
    assert Shingles(pl.Series(["ab", "ab", "ba"]), 8).similarity(0, 2) == 0


def test_pairs_above_the_threshold_are_found_and_others_left():
    import random

    chance = random.Random(3)
    stories = [" ".join(chance.choices(WORDS, k=40)) for _ in range(150)]
    copies = [story.replace(WORDS[chance.randrange(len(WORDS))], "xyz", 1) for story in stories]
    shingles = Shingles(pl.Series(stories + copies), 8)
    expected = {10 + 150 + i for i in range(150) if shingles.similarity(i, 150 + i) >= 0.8}
    assert len(expected) > 100
    _, refused = NearDuplicateText(("t",)).apply(numbered(stories + copies))
    assert set(refused["_row"].to_list()) == expected
    again = NearDuplicateText(("t",)).apply(numbered(stories + copies))[1]
    assert again.equals(refused)


def test_no_rows_are_no_trouble():
    kept, refused = NearDuplicateText(("t",)).apply(numbered([]))
    assert kept.height == refused.height == 0
