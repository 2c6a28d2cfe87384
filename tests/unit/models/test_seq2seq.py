import itertools

import numpy as np
import pytest
import torch
from torch.nn import functional

from lepton_tasks.codecs.text import BEGIN, END, PAD
from lepton_tasks.models.seq2seq import BeamSearch, Scored, Seq2Seq, TeacherForced
from lepton_tasks.models.seq2seq_gru import Seq2SeqGRU
from lepton_tasks.models.seq2seq_transformer import Seq2SeqTransformer

NETWORKS = {
    "transformer": lambda: Seq2SeqTransformer(20, 24, False, width=16, heads=2, layers=2, expansion=2),
    "gru": lambda: Seq2SeqGRU(20, 24, False, width=16),
}
SOURCE = torch.tensor([[5, 6, 7, END, PAD, PAD], [8, 9, 10, 11, 12, END]], dtype=torch.int32)
TARGET = torch.tensor([[BEGIN, 9, 8, END, PAD], [BEGIN, 5, 6, 7, END]], dtype=torch.int32)
PAIRS = torch.cat([SOURCE, functional.pad(TARGET, (0, 1))], dim=1)


@pytest.fixture(params=NETWORKS)
def network(request):
    torch.manual_seed(0)
    return NETWORKS[request.param]().eval()


def test_token_by_token_it_says_what_it_says_of_a_whole_target(network):
    whole = network.logits(network(SOURCE, TARGET))
    context, state = network.begin(SOURCE, TARGET.shape[1])
    for at in range(TARGET.shape[1]):
        logits, state = network.step(TARGET[:, at].long(), torch.tensor(at), context, state)
        torch.testing.assert_close(logits, whole[:, at], rtol=1e-4, atol=1e-5)


def test_what_comes_later_and_padding_change_nothing(network):
    known = network(SOURCE, TARGET)
    torch.testing.assert_close(network(SOURCE, TARGET[:, :3]), known[:, :3], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(network(functional.pad(SOURCE, (0, 3)), TARGET), known, rtol=1e-4, atol=1e-5)


def test_it_looks_at_the_source_and_not_at_padding(network):
    looks = network.attention(SOURCE, TARGET)
    assert looks.shape == (2, 5, 6)
    torch.testing.assert_close(looks.sum(dim=2), torch.ones(2, 5))
    assert looks[0, :, 4:].abs().max() == 0


def test_a_joint_vocabulary_has_one_set_of_vectors():
    separate = sum(p.numel() for p in Seq2SeqGRU(20, 20, False, width=16).parameters())
    assert separate - sum(p.numel() for p in Seq2SeqGRU(20, 20, True, width=16).parameters()) == 20 * 16


def test_the_likelihood_and_its_gradient_are_those_of_torchs_functions(network):
    weights = torch.tensor([0.9, 0.1])
    found = TeacherForced(network)(PAIRS)
    wanted = TARGET[:, 1:].long()
    likely = torch.log_softmax(network.logits(network(SOURCE, TARGET[:, :-1])[wanted != PAD]), dim=1)
    chosen = likely.gather(1, wanted[wanted != PAD].unsqueeze(1)).squeeze(1)
    expected = torch.stack([chosen, likely.mean(dim=1)], dim=1)
    torch.testing.assert_close(found, expected)
    parameters = list(network.parameters())
    ours, theirs = (torch.autograd.grad((v * weights).sum(), parameters) for v in (found, expected))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_scores_add_up_the_likelihoods_and_count_the_right_tokens(network):
    found, right = Scored(network)(PAIRS)
    each = TeacherForced(network)(PAIRS)[:, 0]
    torch.testing.assert_close(found, torch.stack([each[:3].sum(), each[3:].sum()]))
    wanted = TARGET[:, 1:]
    guesses = network.logits(network(SOURCE, TARGET[:, :-1])).argmax(dim=2)
    assert right.tolist() == ((guesses == wanted) & (wanted != PAD)).sum(dim=1).tolist()


class Chances(Seq2Seq):
    """The next token hangs on the last one alone, by a table of log-probabilities float [V, V]."""

    def __init__(self, table):
        super().__init__()
        self.table = torch.nn.Parameter(table)
        self.target_vocabulary = len(table)

    def begin(self, source, length):
        return (), (source.new_zeros((len(source), 1), dtype=torch.float32),)

    def step(self, token, at, context, state):
        return self.table[token], state


def table(**rows):
    """Log-probabilities of 7 tokens, of which 4, 5 and 6 are words."""
    chances = torch.full((7, 7), 1e-6)
    for token, following in rows.items():
        for after, chance in following.items():
            chances[int(token[1:]), int(after[1:])] = chance
    return torch.log(chances / chances.sum(dim=1, keepdim=True))


GARDEN_PATH = table(  # the first step of the likelier text is the less likely one
    t2={"t4": 0.6, "t5": 0.4}, t4={"t4": 0.3, "t5": 0.3, "t6": 0.4}, t5={"t3": 1.0}, t6={"t3": 1.0}
)


def test_one_draft_takes_the_likeliest_token_and_several_find_the_likeliest_text():
    one, several = (BeamSearch(Chances(GARDEN_PATH), beams=beams, length=4, penalty=0.0) for beams in (1, 3))
    tokens, scores = one(SOURCE)
    assert tokens.tolist() == [[4, 6, END, PAD]] * 2
    assert scores[0].item() == pytest.approx(np.log(0.6 * 0.4) / 3, abs=1e-4)
    tokens, scores = several(SOURCE)
    assert tokens.tolist() == [[5, END, PAD, PAD]] * 2
    assert scores[0].item() == pytest.approx(np.log(0.4) / 2, abs=1e-4)


@pytest.mark.parametrize("penalty", [0.0, 1.0])
def test_with_a_draft_for_every_text_none_is_missed(penalty):
    chances = torch.log_softmax(torch.randn(7, 7, generator=torch.Generator().manual_seed(3)) * 2, dim=1)
    chances[:, [PAD, 1, BEGIN]] = -1e9
    chances = torch.log_softmax(chances, dim=1)
    best = -np.inf, []
    for length in range(1, 4):
        for words in itertools.product([4, 5, 6], repeat=length - 1):
            for last in [END] if length < 3 else [END, 4, 5, 6]:  # the third token is the last one in any case
                text = [*words, last]
                score = sum(chances[a, b].item() for a, b in itertools.pairwise([BEGIN, *text]))
                best = max(best, (score / length**penalty, text))
    tokens, scores = BeamSearch(Chances(chances), beams=7, length=3, penalty=penalty)(SOURCE[:1])
    found = [token for token in tokens[0].tolist() if token != PAD]
    assert found == best[1]
    assert scores.item() == pytest.approx(best[0] * len(found) ** (penalty - 1), abs=1e-4)
