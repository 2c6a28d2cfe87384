"""Tiny features artifacts, one module an extractor: what the contract tests of networks and learning tasks run on.

Each module has ``FITTED``, ``LABELS``, ``write(folder)``, ``served(rows)`` (what the input codec decodes, [rows, ...])
and ``NETWORKS``: params that make a network of the catalogue small.
"""

import importlib
import tempfile
from pathlib import Path

import numpy as np

from lepton_tasks.core.catalogue import CODECS, LEARNING_TASKS, MODELS
from lepton_tasks.core.components import check_network
from lepton_tasks.core.errors import ConfigError

TASKS = [(task, features) for task in LEARNING_TASKS.names() for features in LEARNING_TASKS.load(task).features]


def tiny(features):
    """The module for an extractor."""
    return importlib.import_module(f"tiny_features.{features}")


def suits(task, model):
    try:
        check_network(model, LEARNING_TASKS.load(task).network_parameters)
    except ConfigError:
        return False
    return True


PAIRS = [(task, features, model) for task, features in TASKS for model in MODELS.names() if suits(task, model)]
"""Every learning task with all extractors and networks that suit it."""


def build_task(task, features):
    data = tiny(features)
    return LEARNING_TASKS.build(task, {}, fitted=data.FITTED, labels=data.LABELS)


def build_network(task, features, model):
    params = tiny(features).NETWORKS.get(model, {})
    network = MODELS.build(model, params, **build_task(task, features).network_arguments())
    build_task(task, features).initialise(network)
    return network


def served(task, features, rows):
    """What the input codec of the use case decodes, [rows, ...]."""
    if (own := task.input_codec()) is None:
        return tiny(features).served(rows)
    with tempfile.TemporaryDirectory() as name:
        tiny(features).write(Path(name))
        payloads = task.requests(task.evaluation_rows(Path(name), "test"))[:rows]
    codec = CODECS.build(*own)
    return np.stack([codec.decode(payload) for payload in payloads])
