"""Python SDK: run the stages of a use case from a notebook or script.

import lepton_ai as la
from lepton_ai.models import CNN
from lepton_ai.datasets import DogsAndCats

train_data, test_data = DogsAndCats.split()
model = CNN(input_shape=(128, 128, 3), num_classes=2)
model.fit(train_data, epochs=10, batch_size=32)
loss, accuracy = model.evaluate(test_data)

with la.Client("http://127.0.0.1:8100") as client:
    answer = client.predict("cats_dogs", Path("photo.jpg"))["predictions"][0]
"""

from lepton_ai import datasets, models
from lepton_ai.models import from_use_case, load
from lepton_tasks.serving.client import AsyncClient, Client

__all__ = ["AsyncClient", "Client", "datasets", "from_use_case", "load", "models"]
