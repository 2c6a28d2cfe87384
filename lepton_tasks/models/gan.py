"""Generative adversarial networks for images."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

from lepton_tasks.models.cnn import CNN

_SLOPE = 0.2  # of the critic's leaky rectifier; Radford et al.


class DCGAN(nn.Module):
    """Convolutional generator and critic, optionally conditioned on a class.

    The default has 1.5 million parameters for digits of 28x28 pixels.

    Args:
        output_shape: ``(height, width, channels)`` of an image; both sides multiples of 4.
        num_classes: Number of classes; 0 for an unconditional network.
        latent: Length of the noise vector.
        width: Channels of the maps at full size; those at half and quarter size have twice and four times as many.

    Source: Radford et al., "DCGAN", 2016; classes by Mirza and Osindero, "Conditional GANs", 2014, and in the critic by
    Miyato and Koyama, "cGANs with projection discriminator", 2018. Upsampling before a convolution avoids checkerboard
    artifacts: Odena et al., 2016. The critic normalises each image separately, as a gradient penalty requires:
    Gulrajani et al., 2017.
    """

    def __init__(self, output_shape: Sequence[int], num_classes: int, latent: int, *, width: int = 32) -> None:
        super().__init__()
        self.latent, self.num_classes = latent, num_classes
        self.generator = Generator(output_shape, latent + num_classes, width)
        self.critic = Critic(output_shape, num_classes, width)

    def forward(self, code: torch.Tensor) -> torch.Tensor:
        """Images float32 [N, C, H, W] in [-1, 1] of codes float32 [N, latent + num_classes]; see `code`."""
        pictures: torch.Tensor = self.generator(code)
        return pictures

    def code(self, labels: torch.Tensor) -> torch.Tensor:
        """New noise and one-hot labels: float32 [N, latent + num_classes] for int64 [N]."""
        noise = torch.randn(len(labels), self.latent, device=labels.device)
        if not self.num_classes:
            return noise
        return torch.cat([noise, functional.one_hot(labels, self.num_classes).float()], dim=1)


class Generator(nn.Module):
    """Codes [N, size] -> images [N, C, H, W] in [-1, 1]; see `DCGAN`."""

    def __init__(self, output_shape: Sequence[int], size: int, width: int) -> None:
        super().__init__()
        height, across, channels = output_shape
        self.shape = (4 * width, height // 4, across // 4)
        self.begin = nn.Linear(size, self.shape[0] * self.shape[1] * self.shape[2], bias=False)
        self.grow = nn.Sequential(
            nn.BatchNorm2d(4 * width),
            nn.ReLU(inplace=True),
            nn.Upsample(scale_factor=2),
            nn.Conv2d(4 * width, 2 * width, 3, padding=1, bias=False),
            nn.BatchNorm2d(2 * width),
            nn.ReLU(inplace=True),
            nn.Upsample(scale_factor=2),
            nn.Conv2d(2 * width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, channels, 3, padding=1),
            nn.Tanh(),
        )

    def forward(self, code: torch.Tensor) -> torch.Tensor:
        """See the class."""
        pictures: torch.Tensor = self.grow(self.begin(code).unflatten(1, self.shape))
        return pictures


class Critic(nn.Module):
    """Images [N, C, H, W] in [-1, 1] and their labels -> realism score, float [N]; see `DCGAN`."""

    def __init__(self, output_shape: Sequence[int], num_classes: int, width: int) -> None:
        super().__init__()
        height, across, channels = output_shape
        self.look = nn.Sequential(
            nn.Conv2d(channels, 2 * width, 4, stride=2, padding=1),
            nn.LeakyReLU(_SLOPE),
            nn.Conv2d(2 * width, 4 * width, 4, stride=2, padding=1, bias=False),
            nn.GroupNorm(1, 4 * width),
            nn.LeakyReLU(_SLOPE),
            nn.Flatten(),
            nn.Linear(4 * width * (height // 4) * (across // 4), 4 * width),
            nn.LeakyReLU(_SLOPE),
        )
        self.real = nn.Linear(4 * width, 1)
        self.classes = nn.Embedding(num_classes, 4 * width) if num_classes else None

    def forward(self, pictures: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """See the class; `labels` int64 [N] are ignored without classes."""
        seen = self.look(pictures)
        score: torch.Tensor = self.real(seen)[:, 0]
        return score if self.classes is None else score + (self.classes(labels) * seen).sum(dim=1)


class Adversary(nn.Module):
    """Training graph of the generator: real images -> critic scores of as many generated ones.

    Args:
        network: A `DCGAN`.
    """

    def __init__(self, network: DCGAN) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor, labels: torch.Tensor | None = None) -> torch.Tensor:
        """Scores float [N]; classes are random unless given as `labels` int64 [N]."""
        if labels is None:
            labels = torch.randint(max(1, self.network.num_classes), (len(images),), device=images.device)
        scores: torch.Tensor = self.network.critic(self.network(self.network.code(labels)), labels)
        return scores


class Pictures(nn.Module):
    """Serving graph: codes -> images.

    Args:
        network: A `DCGAN`, or another map from codes to images [N, C, H, W] in [-1, 1].
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, code: torch.Tensor) -> torch.Tensor:
        """Images float32 [N, H, W, C] in [0, 1] of codes float32 [N, latent + classes]."""
        pictures: torch.Tensor = self.network(code)
        return (pictures.permute(0, 2, 3, 1) + 1) / 2


class Look(nn.Module):
    """Features and predicted labels of an image classifier.

    Args:
        network: Classifier of pixels in [-1, 1].
    """

    def __init__(self, network: CNN) -> None:
        super().__init__()
        self.network = network

    def forward(self, pictures: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Features float32 [N, D] and labels int64 [N] of images float32 [N, H, W, C] in [0, 1]."""
        features = self.network.features(pictures.permute(0, 3, 1, 2) * 2 - 1).mean(dim=(2, 3))
        return features, self.network.head(features).argmax(dim=1)


def gradient_penalty(critic: nn.Module, real: torch.Tensor, drawn: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean squared deviation of the critic's gradient norm from 1 between real and generated images: a scalar.

    Source: Gulrajani et al., "Improved training of Wasserstein GANs", 2017.
    """
    share = torch.rand(len(real), 1, 1, 1, device=real.device)
    between = torch.lerp(real, drawn, share).requires_grad_()
    (slope,) = torch.autograd.grad(critic(between, labels).sum(), between, create_graph=True)
    penalty: torch.Tensor = (slope.flatten(1).norm(dim=1) - 1).square().mean()
    return penalty
