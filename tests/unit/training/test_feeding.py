import threading

import numpy as np
import pytest
import torch

from lepton_tasks.core.protocols import Rows
from lepton_tasks.training.feeding import ahead, feed, from_map, resident

CPU = torch.device("cpu")


@pytest.fixture
def rows(tmp_path):
    np.save(tmp_path / "inputs.npy", np.arange(46, dtype=np.uint8).reshape(23, 2))
    return Rows(np.load(tmp_path / "inputs.npy", mmap_mode="r"), np.arange(23) * 3)


@pytest.fixture
def chosen():
    return np.random.default_rng(0).permutation(23)[:20].reshape(5, 4)


@pytest.mark.parametrize("way", [feed, resident, lambda rows, device: lambda chosen: ahead(rows, device, chosen)])
@pytest.mark.parametrize("count", [0, 2, 5])
def test_every_way_gives_the_rows_that_were_chosen(rows, chosen, way, count):
    found = list(way(rows, CPU)(chosen[:count]))
    assert len(found) == count
    for (inputs, targets), some in zip(found, chosen, strict=False):
        assert (inputs.dtype, targets.dtype) == (torch.uint8, torch.int64)
        assert np.array_equal(inputs, rows.inputs[some])
        assert np.array_equal(targets, rows.targets[some])


def test_an_array_larger_than_a_part_is_copied_whole(rows, chosen, monkeypatch):
    monkeypatch.setattr("lepton_tasks.training.feeding._PART_BYTES", 16)
    inputs = torch.cat([batch for batch, _ in resident(rows, CPU)(chosen)])
    assert np.array_equal(inputs, rows.inputs[chosen.ravel()])


def test_what_is_read_ahead_is_given_up_with_the_batches(rows, chosen):
    batches = ahead(rows, CPU, chosen)
    next(batches)
    assert any(thread.name.startswith("batches") for thread in threading.enumerate())
    batches.close()
    assert not any(thread.name.startswith("batches") for thread in threading.enumerate())


def test_an_error_of_reading_ahead_is_told(rows):
    with pytest.raises(IndexError, match="99"):
        list(ahead(rows, CPU, np.full((2, 2), 99)))


@pytest.mark.parametrize(("free", "lies_there"), [(10_000, True), (100, False)])
def test_rows_lie_in_a_gpu_s_memory_if_there_is_room(rows, monkeypatch, free, lies_there):
    made = []
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, free))
    monkeypatch.setattr("lepton_tasks.training.feeding.resident", lambda *_: made.append("resident"))
    feed(rows, torch.device("cuda"))
    assert made == ["resident"] * lies_there
    assert next(from_map(rows, np.array([[3]])))[1] == 9
