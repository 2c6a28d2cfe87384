import json

import numpy as np
import pytest

from lepton_tasks.codecs.labels import LabelsCodec


def test_the_answer_names_the_best_label_and_all_probabilities():
    outputs = {"probabilities": np.array([[0.5, 0.25, 0.25], [0.125, 0.25, 0.625]], np.float32)}
    answer = LabelsCodec(["cat", "cow", "dog"]).encode(outputs, 1)
    assert answer == {
        "label": "dog",
        "probability": 0.625,
        "probabilities": {"cat": 0.125, "cow": 0.25, "dog": 0.625},
    }
    assert json.loads(json.dumps(answer)) == answer


def test_a_model_with_another_number_of_classes_is_not_misread():
    with pytest.raises(ValueError, match=r"shorter|longer"):
        LabelsCodec(["cat", "dog"]).encode({"probabilities": np.zeros((1, 3), np.float32)}, 0)
