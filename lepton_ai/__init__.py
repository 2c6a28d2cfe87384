"""The Python face of Lepton: the stages of a use case, called from a notebook or a script.

import lepton_ai as la
from lepton_ai.models import CNN
from lepton_ai.datasets import DogsAndCats

train_data, test_data = DogsAndCats.split()
model = CNN(input_shape=(128, 128, 3), num_classes=2)
model.fit(train_data, epochs=10, batch_size=32)
loss, accuracy = model.evaluate(test_data)
"""

from lepton_ai import datasets, models
from lepton_ai.models import load

__all__ = ["datasets", "load", "models"]
