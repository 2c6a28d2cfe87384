import numpy as np
import pytest
import torch

from lepton_tasks.core.protocols import Rows
from lepton_tasks.learning.language_modelling import LanguageModelling

TASK = LanguageModelling({"vocabulary": 8}, [])
TOKENS = np.array([[5, 6, 0, 0], [5, 5, 5, 7]], np.int32)  # an end after the first, none after the second


def test_perplexity_counts_tokens_and_known_ends():
    surprise = np.array([[1, 2, 3, 0, 0], [1, 1, 1, 5, 0]], np.float32)
    hit = np.array([[1, 0, 0, 0, 0], [1, 1, 0, 0, 0]], np.int32)
    found = TASK.metrics({"surprise": surprise, "hit": hit}, TOKENS)
    assert found["loss"] == pytest.approx(14 / 7)
    assert found["perplexity"] == pytest.approx(np.exp(2))
    assert found["accuracy"] == pytest.approx(3 / 7)


def test_the_baseline_knows_how_often_each_token_comes():
    found = TASK.baseline(Rows(TOKENS, TOKENS))
    # 5 four times, 6, 7 and the end once each
    assert found["loss"] == pytest.approx(-(4 / 7 * np.log(4 / 7) + 3 / 7 * np.log(1 / 7)))
    assert found["accuracy"] == pytest.approx(4 / 7)


def test_the_loss_leaves_padding_out():
    targets = TASK.targets(torch.from_numpy(TOKENS[:1]), 0.0)
    assert targets.tolist() == [[5, 6, 3]]
    logits = torch.zeros(1, 3, 8)
    assert TASK.loss(logits, targets).item() == pytest.approx(np.log(8))
    logits[0, 2, 3] = 100.0
    assert TASK.loss(logits, targets).item() == pytest.approx(np.log(8) * 2 / 3)


def test_the_smaller_perplexity_is_the_better_one():
    assert TASK.score({"perplexity": 10.0}) > TASK.score({"perplexity": 20.0})
