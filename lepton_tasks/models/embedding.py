"""Convolutional network that maps images to embeddings, compared by angle."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import nn
from torch.nn import functional

from lepton_tasks.models.pictures import pixels
from lepton_tasks.models.residual_cnn import residual_stages


class EmbeddingCNN(nn.Module):
    """Residual stages, spatially weighted pooling, and a projection to an embedding.

    Average pooling would discard positions; faces are aligned, so each position has its own weight.

    Args:
        input_shape: ``(height, width, channels)`` of an image; at least 16x16. The size is fixed.
        num_identities: Number of identities in the training rows.
        width: Channels of the first stage.
        blocks: Residual blocks per stage.
        embedding_size: Length of the embedding.
        dropout: Dropout rate of the pooled features, in [0, 1).

    Source: the pooling by Chen et al., "MobileFaceNets", 2018; a direction per identity, needed only in training, by
    Deng et al., "ArcFace", 2019.
    """

    prunable: ClassVar[bool] = True

    def __init__(
        self,
        input_shape: Sequence[int],
        num_identities: int,
        *,
        width: int = 32,
        blocks: Sequence[int] = (1, 1, 1),
        embedding_size: int = 128,
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        height, across, channels = input_shape
        self.features = residual_stages(channels, width, blocks)
        for _ in range(2):  # the stem
            height, across = height // 2, across // 2
        for _ in blocks[1:]:
            height, across = -(-height // 2), -(-across // 2)
        last = width * 2 ** (len(blocks) - 1)
        self.pool = nn.Conv2d(last, last, kernel_size=(height, across), groups=last)
        self.project = nn.Sequential(
            nn.Flatten(),
            nn.Dropout(dropout),
            nn.Linear(last, embedding_size, bias=False),
            nn.BatchNorm1d(embedding_size),
        )
        self.identities = nn.Parameter(torch.empty(num_identities, embedding_size))
        nn.init.normal_(self.identities)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Embeddings float32 [N, embedding_size] of normalised images float32 [N, C, H, W]; not of unit length."""
        embeddings: torch.Tensor = self.project(self.pool(self.features(images)))
        return embeddings

    def cosines(self, embeddings: torch.Tensor) -> torch.Tensor:
        """Cosine similarity of each embedding to each training identity, float32 [N, num_identities]."""
        with torch.autocast(embeddings.device.type, enabled=False):  # bfloat16 is too imprecise for angles
            return functional.normalize(embeddings.float()) @ functional.normalize(self.identities).T


class ToIdentities(nn.Module):
    """Training graph: normalised images -> cosines to the identities.

    Args:
        network: An `EmbeddingCNN`, or a module with the same two methods.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Cosines float32 [N, num_identities] of normalised images float32 [N, C, H, W]."""
        cosines: torch.Tensor = self.network.cosines(self.network(images))  # type: ignore[operator]  # a method
        return cosines


class Directions(nn.Module):
    """Serving graph: stored images -> embeddings of unit length.

    Args:
        embeddings: Images float32 [N, C, H, W] in [0, 1] -> embeddings [N, D].
        mirror: Sum the unit embeddings of an image and its mirror image.
    """

    def __init__(self, embeddings: nn.Module, *, mirror: bool = False) -> None:
        super().__init__()
        self.embeddings, self.mirror = embeddings, mirror

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Embeddings float32 [N, D] of uint8 [N, H, W, C]."""
        images = pixels(image)
        directions = functional.normalize(self.embeddings(images))
        if self.mirror:
            directions = functional.normalize(directions + functional.normalize(self.embeddings(images.flip(3))))
        return directions
