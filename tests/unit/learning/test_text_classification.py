import numpy as np
import pytest
import torch
from tiny_features import text as tiny

from lepton_tasks.codecs.text import load_tokenizer
from lepton_tasks.core.catalogue import MODELS
from lepton_tasks.core.errors import DataError
from lepton_tasks.data.extractors.vectors import word_vectors
from lepton_tasks.data.extractors.vocabulary import framed, train_vocabulary
from lepton_tasks.learning.text_classification import TextClassification
from lepton_tasks.learning.text_plots import pieces


def test_a_new_network_begins_with_the_fitted_vectors():
    task = TextClassification(tiny.FITTED, tiny.LABELS)
    network = MODELS.build("rnn", {"embedding": 8, "width": 4}, **task.network_arguments())
    task.initialise(network)
    known = word_vectors(tiny.FITTED)
    own = network.embedding.vectors.weight.detach().numpy()[:, : known.shape[1]]
    np.testing.assert_allclose(own[5] / np.linalg.norm(own[5]), known[5] / np.linalg.norm(known[5]), rtol=1e-4)


def test_what_is_trained_are_the_logits_of_what_is_served():
    task = TextClassification(tiny.FITTED, tiny.LABELS)
    network = MODELS.build("ngrams", tiny.NETWORKS["ngrams"], **task.network_arguments()).eval()
    tokens = torch.from_numpy(tiny.served(3))
    probabilities, attention = task.deployable(network)(tokens)
    torch.testing.assert_close(torch.softmax(task.trainable(network)(task.inputs(tokens)), 1), probabilities)
    assert attention.shape == tokens.shape


@pytest.mark.parametrize("kind", ["word", "bpe", "wordpiece"])
def test_pieces_make_up_the_text(kind):
    texts = ["the film was great", "a great film", "was the story great", "greatest films"] * 3
    vocabulary = train_vocabulary([texts], kind=kind, size=300, lowercase=True, min_count=1)
    tokenizer = load_tokenizer(framed(vocabulary, max_length=16))
    tokens = np.array([*tokenizer.encode("the greatest film").ids, 0, 0])
    found = pieces(tokenizer, tokens)
    assert "".join(found).strip() == "the greatest film"
    assert len(found) == int((tokens > 0).sum())


@pytest.mark.parametrize("split", ["train", "test"])
def test_texts_that_a_server_would_refuse_stop_the_run_before_it_trains(tmp_path, split):
    tiny.write(tmp_path)
    lengths = np.load(tmp_path / split / "lengths.npy")
    assert len(TextClassification(tiny.FITTED, tiny.LABELS).training_rows(tmp_path).inputs)
    np.save(tmp_path / split / "lengths.npy", np.where(np.arange(len(lengths)) < 2, 0, lengths))
    with pytest.raises(DataError, match=f"2 texts of the {split} split hold nothing to read.*`empty_text`"):
        TextClassification(tiny.FITTED, tiny.LABELS).training_rows(tmp_path)
