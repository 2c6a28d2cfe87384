import numpy as np
import pytest
import torch

from lepton_tasks.codecs.text import BEGIN, END, PAD, UNKNOWN
from lepton_tasks.core.catalogue import MODELS
from lepton_tasks.models.language import LanguageModel, followers
from lepton_tasks.models.ngrams import NGrams
from lepton_tasks.models.rnn import Reader
from lepton_tasks.models.rnn_language_model import RNNLanguageModel
from lepton_tasks.models.tokens import Pooling, TokenEmbedding, real, trimmed
from lepton_tasks.models.weighted_words import WeightedWords

TOKENS = torch.tensor([[5, 6, 7, 8, 9], [6, 5, 0, 0, 0], [9, 0, 0, 0, 0]], dtype=torch.int32)
CLASSIFIERS = {
    "elman": ("rnn", {"cell": "elman", "embedding": 6, "width": 5}),
    "gru": ("rnn", {"cell": "gru", "embedding": 6, "width": 5, "layers": 2, "pooling": ["attention", "max", "mean"]}),
    "lstm": ("rnn", {"cell": "lstm", "embedding": 6, "width": 5, "bidirectional": False, "pooling": ["mean"]}),
    "ngrams": ("ngrams", {"embedding": 6, "longest": 3, "buckets": 32, "hidden": 4}),
    "transformer": ("transformer", {"width": 8, "heads": 2, "layers": 2}),
    "weighted_words": ("weighted_words", {"width": 6}),
}
CELLS = pytest.mark.parametrize("cell", ["elman", "gru", "lstm"])


def wider(tokens, more):
    return torch.nn.functional.pad(tokens, (0, more), value=PAD)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_padding_changes_nothing(name):
    torch.manual_seed(0)
    model, params = CLASSIFIERS[name]
    network = MODELS.build(model, params, vocabulary=12, num_classes=3).eval()
    logits, weights = network(TOKENS)
    more, further = network(wider(TOKENS, 4))
    torch.testing.assert_close(more, logits)
    torch.testing.assert_close(further[:, :5], weights, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(further.sum(dim=1), torch.ones(3))
    assert further[1, 2:].abs().max() < 1e-6


def test_the_way_back_begins_at_the_last_word():
    torch.manual_seed(0)
    reader = Reader(2, cell="gru", width=3)
    places, mask = torch.randn(1, 4, 2), torch.tensor([[True, True, True, False]])
    states = reader(places, mask)
    expected = reader.backwards[0](places[:, :3].flip(1))[0].flip(1)
    torch.testing.assert_close(states[:, :3, 3:], expected)


def test_what_is_pooled_is_the_real_part():
    places = torch.tensor([[[1.0, -4.0], [3.0, -2.0], [100.0, 100.0]]])
    pooled, weights = Pooling(2, ["mean", "max"])(places, torch.tensor([[True, True, False]]))
    torch.testing.assert_close(pooled, torch.tensor([[2.0, -3.0, 3.0, -2.0]]))
    torch.testing.assert_close(weights, torch.tensor([[0.5, 0.5, 0.0]]))


def test_a_row_without_a_token_is_read_as_one():
    assert real(torch.zeros(2, 3, dtype=torch.int32)).tolist() == [[True, False, False]] * 2
    assert trimmed(torch.zeros(2, 3, dtype=torch.int32)).shape == (2, 1)
    assert trimmed(TOKENS[1:]).tolist() == [[6, 5], [9, 0]]


def test_groups_of_words_tell_an_order_from_its_reverse():
    torch.manual_seed(0)
    single, pairs = (NGrams(12, 2, embedding=6, longest=longest, buckets=512).eval() for longest in (1, 2))
    there, back = torch.tensor([[5, 6, 7]]), torch.tensor([[7, 6, 5]])
    torch.testing.assert_close(single(there)[0], single(back)[0])
    assert not torch.allclose(pairs(there)[0], pairs(back)[0])


def test_words_weigh_by_how_often_this_text_has_them_and_how_few_others_do():
    torch.manual_seed(0)
    network = WeightedWords(8, 2, width=3)
    texts = torch.tensor([[5, 5, 6, 0], [6, 7, UNKNOWN, 0], [6, 0, 0, 0]])
    network.train()(texts)
    rarity = {word: np.log((1 + 3) / (1 + seen)) + 1 for word, seen in {5: 1, 6: 3, 7: 1}.items()}
    twice, once = (1 + np.log(2)) * rarity[5], rarity[6]
    network.eval()
    logits, weights = network(texts[:1])
    expected = np.array([twice / 2, twice / 2, once, 0]) / (twice + once)
    np.testing.assert_allclose(weights[0].numpy(), expected, rtol=1e-6)
    vectors = network.embedding.vectors.weight
    summed = (twice * vectors[5] + once * vectors[6]) / np.hypot(twice, once)
    torch.testing.assert_close(logits[0], network.decide(summed.float() + network.bias))
    assert torch.isfinite(network(torch.tensor([[UNKNOWN, 0]]))[0]).all()


def test_words_are_dropped_in_training_only():
    embedding = TokenEmbedding(12, 4, word_dropout=0.5)
    tokens = torch.full((1, 2_000), 7)
    assert torch.equal(embedding.eval()(tokens), embedding.vectors(tokens))
    torch.manual_seed(0)
    seen = embedding.train()(tokens)
    unknown = (seen == embedding.vectors.weight[UNKNOWN]).all(dim=2).float().mean()
    assert 0.45 < unknown < 0.55
    assert torch.equal(embedding(torch.zeros(1, 50, dtype=torch.long)), torch.zeros(1, 50, 4))


def test_known_vectors_are_put_in_at_the_scale_of_new_ones():
    torch.manual_seed(0)
    embedding = TokenEmbedding(500, 6)
    before = embedding.vectors.weight.detach().clone()
    vectors = torch.randn(500, 4) * 9
    vectors[20] = 0  # a word without neighbours
    embedding.begin_with(vectors)
    after = embedding.vectors.weight.detach()
    assert torch.equal(after[[PAD, UNKNOWN, 20]], before[[PAD, UNKNOWN, 20]])
    assert torch.equal(after[:, 4:], before[:, 4:])
    torch.testing.assert_close(after[21, :4] / after[21, 0], vectors[21] / vectors[21, 0])
    assert float(after[21:, :4].std()) == pytest.approx(float(before.std()), rel=0.1)


def test_what_follows_a_text_is_its_end_unless_it_was_cut():
    assert followers(torch.tensor([[5, 6, 0], [5, 6, 7]])).tolist() == [[5, 6, END, PAD], [5, 6, 7, PAD]]


@CELLS
def test_served_surprise_is_that_of_training(cell):
    torch.manual_seed(0)
    network = RNNLanguageModel(12, BEGIN, cell=cell, width=6, layers=2).eval()
    with torch.no_grad():
        network.embedding.vectors.weight[PAD] = 1.0  # as it has become in training
    surprise, hit, *_ = LanguageModel(network, choices=3, steps=2)(TOKENS)
    wanted = followers(TOKENS)
    logits = network(TOKENS)
    losses = torch.nn.functional.cross_entropy(logits.transpose(1, 2), wanted, ignore_index=PAD, reduction="none")
    torch.testing.assert_close(surprise, losses)
    assert torch.equal(hit, ((logits.argmax(dim=2) == wanted) & (wanted != PAD)).int())


@CELLS
def test_a_continuation_is_the_likeliest_word_again_and_again(cell):
    torch.manual_seed(3)
    network = RNNLanguageModel(12, BEGIN, cell=cell, width=6, layers=2).eval()
    with torch.no_grad():
        network.bias[[PAD, UNKNOWN, BEGIN]] = 50.0  # likely, but nothing to say
    served = LanguageModel(network, choices=4, steps=5).eval()
    for row in TOKENS:
        text = row[row != PAD].tolist()
        _, _, following, probabilities, continuation = served(wider(row[None], 3))
        said = list(text)
        for step in range(5):
            scores = network(torch.tensor([said]))[0, -1]
            scores[[PAD, UNKNOWN, BEGIN]] = -torch.inf
            if step == 0:
                top = torch.softmax(scores, dim=0).topk(4)
                assert following[0].tolist() == top.indices.tolist()
                np.testing.assert_allclose(probabilities[0].detach(), top.values.detach(), rtol=1e-4)
            said.append(int(scores.argmax()))
        assert continuation[0].tolist() == said[len(text) :]
