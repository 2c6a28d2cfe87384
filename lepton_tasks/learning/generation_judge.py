"""Judge generated images with a small classifier trained on the real ones, deterministic and in seconds."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lepton_tasks.data.feature_arrays import open_split

if TYPE_CHECKING:
    from lepton_tasks.models.cnn import CNN

_EPOCHS, _LEAST_STEPS, _BATCH, _RATE, _WIDTH = 5, 60, 64, 4e-3, 16
_MOST = 20_000  # training rows


@dataclasses.dataclass(frozen=True)
class Judge:
    """Image classifier and feature extractor.

    Attributes:
        network: On pixels in [-1, 1].
    """

    network: CNN

    def look(self, pictures: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Features float64 [N, D] and labels int64 [N] of images float32 [N, H, W, C] in [0, 1]."""
        from lepton_tasks.models.gan import Look
        from lepton_tasks.models.inference import predict

        found = predict(Look(self.network), pictures, ("features", "labels"))
        return found["features"].astype(np.float64), found["labels"]


@functools.lru_cache(maxsize=1)  # shared by both splits of an evaluation
def trained_judge(features: Path, num_classes: int) -> Judge:
    """Train a judge on the classes of the training split; without classes, its convolutions stay random.

    Args:
        features: Folder of the features artifact.
        num_classes: Number of labels.
    """
    import torch
    from torch.nn import functional

    from lepton_tasks.models.cnn import CNN
    from lepton_tasks.models.pictures import pixels

    rows = open_split(features, "train")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = CNN(rows.inputs.shape[1:], max(1, num_classes), width=_WIDTH, dropout=0.0)
        labelled = torch.from_numpy(np.flatnonzero(rows.targets >= 0))
        if num_classes > 1 and len(labelled):
            count = min(_MOST, len(labelled))
            batches = -(-count // _BATCH)
            steps = max(_EPOCHS * batches, _LEAST_STEPS)
            optimizer = torch.optim.Adam(network.parameters(), lr=_RATE)
            schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _RATE, total_steps=steps)
            for step in range(steps):
                if step % batches == 0:
                    order = labelled[torch.randperm(len(labelled))[:count]].split(_BATCH)
                chosen = order[step % batches].numpy()
                images = pixels(torch.from_numpy(rows.inputs[chosen])) * 2 - 1
                loss = functional.cross_entropy(network(images), torch.from_numpy(rows.targets[chosen]))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
    return Judge(network.eval())


def frechet_distance(first: np.ndarray, second: np.ndarray) -> float:
    """Fréchet distance of Gaussians fitted to features float64 [N, D] and [M, D].

    Source: Heusel et al., "GANs trained by a two time-scale update rule", 2017 (there on features of Inception).
    """
    means = [cloud.mean(axis=0) for cloud in (first, second)]
    spreads = [np.cov(cloud, rowvar=False) for cloud in (first, second)]
    values, vectors = np.linalg.eigh(spreads[0])
    root = (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T
    shared = np.sqrt(np.clip(np.linalg.eigvalsh(root @ spreads[1] @ root), 0, None)).sum()
    distance = ((means[0] - means[1]) ** 2).sum() + sum(np.trace(spread) for spread in spreads) - 2 * shared
    return max(0.0, float(distance))  # rounding can make it negative
