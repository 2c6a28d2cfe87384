"""Which heavy libraries a stage's process pays for before it does anything."""

import subprocess
import sys

import pytest

HEAVY = ("torch", "pytorch_lightning", "mlflow", "matplotlib", "onnxruntime", "sklearn")


def heavy_after(statement):
    code = f"import sys; {statement}; print(*(name for name in {HEAVY!r} if name in sys.modules))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    return set(ran.stdout.split())


@pytest.mark.parametrize("stage", ["train", "evaluate", "gate", "export"])
def test_a_stage_that_is_only_planned_costs_nothing(stage):
    assert heavy_after(f"import lepton_tasks.stages.{stage}") == set()


def test_metrics_need_no_torch():
    build = "LEARNING_TASKS.build('image_classification', {}, fitted={}, labels=['a', 'b'])"
    count = f"{build}.metrics({{'probabilities': numpy.eye(2)}}, numpy.array([0, 1]))"
    assert heavy_after(f"import numpy; from lepton_tasks.core.catalogue import LEARNING_TASKS; {count}") == set()


def test_a_trained_network_is_read_and_exported_without_lightning():
    modules = "lepton_tasks.training.checkpoint, lepton_tasks.training.export, lepton_tasks.models.inference"
    assert heavy_after(f"import {modules}") == {"torch"}
