import numpy as np
import pytest
import torch
from tiny_features import text_pair

from lepton_tasks.core.protocols import Rows
from lepton_tasks.learning.translation import Translation

TASK = Translation(text_pair.FITTED, [])


@pytest.fixture(scope="module")
def features(tmp_path_factory):
    return text_pair.write(tmp_path_factory.mktemp("pairs"))


def test_true_targets_are_a_perfect_translation_and_the_source_is_a_poor_one(features):
    rows = TASK.evaluation_rows(features, "test")
    perfect = TASK.metrics({"tokens": rows.targets[:, 1:]}, rows.targets)
    assert perfect == {"bleu": pytest.approx(100), "chrf": pytest.approx(100), "exact": 1.0}
    copied = TASK.baseline(rows)
    assert copied["bleu"] < 10
    assert copied["exact"] == 0


def test_bleu_is_that_of_its_definition():
    # All n-grams are right, and the text is shorter by one word of 5.
    encode = text_pair.TextCodec(text_pair.TARGET_TOKENIZER, text_pair.WIDTH).encode
    made, wanted = (encode([text])[0] for text in ("ein hund sieht rot", "ein hund sieht rot ein"))
    found = TASK.metrics({"tokens": made}, wanted)
    assert found["bleu"] == pytest.approx(100 * np.exp(1 - 5 / 4))


def test_both_vocabularies_are_known_to_be_one(features):
    assert TASK.network_arguments() == {"source_vocabulary": 16, "target_vocabulary": 16, "joint_vocabulary": True}
    other = text_pair.framed(
        text_pair.train_vocabulary([["ein hund"]], kind="word", size=32, lowercase=True, min_count=1), max_length=10
    )
    separate = Translation({**text_pair.FITTED, "target_tokenizer": other}, [])
    assert not separate.network_arguments()["joint_vocabulary"]


def test_training_pairs_lie_side_by_side_and_are_alike_when_both_lengths_are(features):
    rows, stored = TASK.training_rows(features), np.load(features / "train" / "inputs.npy")
    np.testing.assert_array_equal(rows.inputs[:, : text_pair.WIDTH], stored)
    np.testing.assert_array_equal(rows.inputs[:, text_pair.WIDTH :], rows.targets)
    sizes = [np.load(features / "train" / f"{name}.npy") for name in ("lengths", "target_lengths")]
    order = np.argsort(rows.lengths, kind="stable")
    np.testing.assert_array_equal(order, np.lexsort((sizes[1], sizes[0])))


def test_perplexity_is_that_of_the_tokens_after_the_first(features):
    targets = np.array([[2, 5, 3, 0], [2, 5, 6, 3]])
    outputs = {"log_likelihood": np.log([0.5**2, 0.5**3]), "right": np.array([1.0, 3.0])}
    found = TASK.validation(torch.nn.Identity(), features).metrics(outputs, targets)
    assert found == {
        "perplexity": pytest.approx(2),
        "loss": pytest.approx(np.log(2)),
        "accuracy": pytest.approx(4 / 5),
    }


def test_smoothing_gives_a_share_to_all_tokens():
    outputs = torch.log(torch.tensor([[0.5, 0.1], [0.25, 0.1]]))
    targets = TASK.targets(torch.zeros((2, 4), dtype=torch.int32), 0.2)
    expected = -(0.8 * np.log([0.5, 0.25]).mean() + 0.2 * np.log(0.1))
    assert TASK.loss(outputs, targets).item() == pytest.approx(expected, rel=1e-5)


def test_details_are_by_the_length_of_the_source(features):
    rows = TASK.evaluation_rows(features, "test")
    found = TASK.details({"tokens": rows.targets[:, 1:]}, Rows(rows.inputs, rows.targets))
    assert {name: figures["rows"] for name, figures in found.items()} == {"1 to 10 tokens": 16}
