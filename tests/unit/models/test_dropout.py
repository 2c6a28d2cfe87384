import pytest
import torch

from lepton_tasks.models.dropout import Dropout


def test_the_share_is_dropped_and_the_mean_is_kept():
    torch.manual_seed(0)
    values = Dropout(0.25)(torch.ones(101, 1003))
    assert (values == 0).float().mean().item() == pytest.approx(0.25, abs=0.01)
    assert values.mean().item() == pytest.approx(1, abs=0.01)
    assert values.unique().tolist() == [0, pytest.approx(4 / 3)]


def test_the_seed_decides_what_is_dropped_and_gradients_go_where_values_went():
    dropout, values = Dropout(0.5), torch.ones(13, 7, requires_grad=True)
    draws = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        draws.append(dropout(values))
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    draws[0].sum().backward()
    assert torch.equal(values.grad, draws[0])


@pytest.mark.parametrize("dropout", [Dropout(0.0), Dropout(0.5).eval()])
def test_nothing_is_dropped_without_a_share_or_out_of_training(dropout):
    values = torch.rand(3, 3)
    assert dropout(values) is values


def test_a_share_of_all_is_refused():
    with pytest.raises(ValueError, match=r"1\.0"):
        Dropout(1.0)
