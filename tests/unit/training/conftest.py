import pytest
import torch


@pytest.fixture
def one_thread():
    """Several threads wait for each other by spinning, for minutes where the cores are not theirs."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
