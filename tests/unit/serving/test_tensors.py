import tracemalloc

import numpy as np
import pytest

from lepton_tasks.core.errors import DataError
from lepton_tasks.serving.errors import in_words
from lepton_tasks.serving.inference.request import error_reply
from lepton_tasks.serving.inference.tensors import _values_from_list
from lepton_tasks.serving.package import TensorSpec


def listed(data, dtype):
    return _values_from_list(data, TensorSpec(name="x", dtype=dtype, shape=(None,)), "inputs.x")


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int64", "float16", "float32", "float64"])
def test_nested_lists_are_read_row_by_row(dtype):
    values = listed([[[1], [2]], [[3], [4]]], dtype)
    assert (values.tolist(), values.dtype) == ([1, 2, 3, 4], np.dtype(dtype))


@pytest.mark.parametrize("data", [[[1, 2], [3]], [[1], 2], [[1, 2], 3], [[[1]], [2]]])
def test_rows_of_different_lengths_are_refused(data):
    with pytest.raises(DataError, match=r"ragged|other values"):
        listed(data, "float32")


@pytest.mark.parametrize(
    ("data", "dtype"),
    [
        ([256], "uint8"),
        ([-1], "uint8"),
        ([1.5], "int64"),
        ([2**64 - 1, 1], "int64"),
        ([1], "bool"),
        ([None], "float32"),
    ],
)
def test_numbers_that_the_type_would_change_are_refused(data, dtype):
    with pytest.raises(DataError, match=r"outside|other values"):
        listed(data, dtype)


@pytest.mark.parametrize("data", [["a" * 1000, *[""] * 20_000], [1, "a" * 1000, *[2] * 20_000]])
def test_a_text_among_numbers_does_not_take_its_length_for_each(data):
    tracemalloc.start()
    with pytest.raises(DataError, match="other values than FP32 numbers"):
        listed(data, "float32")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**20  # 80 MB, as an array of NumPy


def test_what_errors_quote_is_cut_and_made_whole_characters():
    error = DataError("half \ud800 " + "x" * 10_000, fix="The way out.")
    assert in_words(error).startswith("half ? xxx")
    assert in_words(error).endswith("xxx The way out.")
    assert len(in_words(error)) < 2010
    assert error_reply(error).status == 400
