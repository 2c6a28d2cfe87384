import os

import hypothesis
import pytest
from receiver import Receiver

# How long an example may take depends on what else the machine does.
hypothesis.settings.register_profile("lepton", deadline=None)
hypothesis.settings.load_profile("lepton")

# Tests choose their own ports, whatever the shell says.
for variable in ("LEPTON_AIRFLOW_PORT", "LEPTON_MLFLOW_PORT", "LEPTON_SERVING_PORT"):
    os.environ.pop(variable, None)


@pytest.fixture
def receiver():
    """A server that keeps what is posted to it."""
    with Receiver() as running:
        yield running


def pytest_collection_modifyitems(items):
    """Files that take a minute or more come first: begun last, one would run alone in the end."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)
