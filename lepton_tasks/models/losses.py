"""Loss functions by name. Each is built once per training and called with a batch's outputs and targets.

A loss of *classes* takes logits float32 [N, K] and target probabilities float32 [N, K]; of *numbers* two float32
tensors of one shape; of *rankings* scores float32 [N, 1 + M] with the target item first; of *embeddings* float32 [N, D]
and classes int64 [N]; of *cosines* to the class vectors float32 [N, K] and classes int64 [N]. All return a scalar;
``of`` is the kind of a loss.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

import pydantic
import torch
from torch import nn
from torch.nn import functional

Positive = Annotated[float, pydantic.Field(gt=0)]


class CrossEntropy(nn.Module):
    """Classification: mean negative log-probability of the target.

    Args:
        class_weights: Weight of each class, float32 [K]; None for equal weights.
    """

    of: ClassVar[str] = "classes"
    class_weights: torch.Tensor | None

    def __init__(self, class_weights: torch.Tensor | None = None) -> None:
        super().__init__()
        self.register_buffer("class_weights", class_weights, persistent=False)

    def forward(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """See the module."""
        return _weighted(-(targets * functional.log_softmax(logits, dim=1)).sum(dim=1), targets, self.class_weights)


class Focal(nn.Module):
    """Classification: cross-entropy with less weight on well-classified rows.

    Args:
        class_weights: As in `CrossEntropy`.
        gamma: Focusing exponent; 0 is cross-entropy.

    Source: Lin et al., "Focal loss for dense object detection", 2017.
    """

    of: ClassVar[str] = "classes"
    class_weights: torch.Tensor | None

    def __init__(
        self, class_weights: torch.Tensor | None = None, *, gamma: Annotated[float, pydantic.Field(ge=0)] = 2.0
    ) -> None:
        super().__init__()
        self.register_buffer("class_weights", class_weights, persistent=False)
        self.gamma = gamma

    def forward(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """See the module."""
        logs = functional.log_softmax(logits, dim=1)
        rows = -(targets * (1 - logs.exp()).pow(self.gamma) * logs).sum(dim=1)
        return _weighted(rows, targets, self.class_weights)


class BinaryCrossEntropy(nn.Module):
    """Multi-label: independent binary cross-entropy per class, averaged."""

    of: ClassVar[str] = "classes"

    def forward(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """See the module."""
        return functional.binary_cross_entropy_with_logits(logits, targets)


class MultiMargin(nn.Module):
    """Classification: shortfall of the target logit's margin over the others.

    Args:
        margin: In units of logits.

    Source: Crammer and Singer, "On the algorithmic implementation of multiclass kernel-based vector machines", 2001.
    """

    of: ClassVar[str] = "classes"

    def __init__(self, *, margin: Positive = 1.0) -> None:
        super().__init__()
        self.margin = margin

    def forward(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """See the module; for mixed targets, the largest class counts."""
        return functional.multi_margin_loss(logits, targets.argmax(dim=1), margin=self.margin)


class SquaredError(nn.Module):
    """Regression: mean squared error."""

    of: ClassVar[str] = "numbers"

    def forward(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """See the module."""
        return functional.mse_loss(outputs, targets)


class AbsoluteError(nn.Module):
    """Regression: mean absolute error."""

    of: ClassVar[str] = "numbers"

    def forward(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """See the module."""
        return functional.l1_loss(outputs, targets)


class Huber(nn.Module):
    """Regression: squared for small differences, absolute for large ones.

    Args:
        delta: Transition point, in the unit of the scaled targets.

    Source: Huber, "Robust estimation of a location parameter", 1964.
    """

    of: ClassVar[str] = "numbers"

    def __init__(self, *, delta: Positive = 1.0) -> None:
        super().__init__()
        self.delta = delta

    def forward(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """See the module."""
        return functional.huber_loss(outputs, targets, delta=self.delta)


class BayesianPersonalisedRanking(nn.Module):
    """Ranking: the target item should score above each negative (Bayesian personalised ranking).

    Source: Rendle et al., "BPR: Bayesian personalized ranking from implicit feedback", 2009.
    """

    of: ClassVar[str] = "rankings"

    def forward(self, scores: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """See the module; `targets` are ignored."""
        return functional.softplus(scores[:, 1:] - scores[:, :1]).mean()


class RankingHinge(nn.Module):
    """Ranking: shortfall of the target item's margin over each negative.

    Args:
        margin: In units of scores.

    Source: Weston et al., "WSABIE", 2011, without its sampling.
    """

    of: ClassVar[str] = "rankings"

    def __init__(self, *, margin: Positive = 1.0) -> None:
        super().__init__()
        self.margin = margin

    def forward(self, scores: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """See the module; `targets` are ignored."""
        return functional.relu(self.margin + scores[:, 1:] - scores[:, :1]).mean()


class SampledSoftmax(nn.Module):
    """Ranking: cross-entropy of the target item among the sampled negatives."""

    of: ClassVar[str] = "rankings"

    def forward(self, scores: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """See the module; `targets` are ignored."""
        return functional.cross_entropy(scores, torch.zeros(len(scores), dtype=torch.int64, device=scores.device))


class Triplet(nn.Module):
    """Embeddings: the farthest sample of the same class should be nearer than the nearest of another, by a margin.

    Args:
        margin: In units of distance; embeddings have length 1.

    Source: Hermans et al., "In defense of the triplet loss for person re-identification", 2017 (batch hard).
    """

    of: ClassVar[str] = "embeddings"

    def __init__(self, *, margin: Positive = 0.3) -> None:
        super().__init__()
        self.margin = margin

    def forward(self, embeddings: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
        """See the class."""
        with torch.autocast(embeddings.device.type, enabled=False):  # bfloat16 is too imprecise for close points
            points = functional.normalize(embeddings.float(), dim=1)
            distances = (2 - 2 * points @ points.T).clamp(min=1e-12).sqrt()
        same = classes[:, None] == classes[None, :]
        farthest = distances.masked_fill(~same, 0).amax(dim=1)
        nearest = distances.masked_fill(same, 2.0).amin(dim=1)
        return functional.relu(farthest - nearest + self.margin).mean()


class ArcFace(nn.Module):
    """Classification by angle with an additive angular margin for the correct class.

    Args:
        margin: In radians.
        scale: Factor of the cosines before the softmax.

    Source: Deng et al., "ArcFace: additive angular margin loss for deep face recognition", 2019.
    """

    of: ClassVar[str] = "cosines"

    def __init__(self, *, margin: Annotated[float, pydantic.Field(ge=0, le=1)] = 0.3, scale: Positive = 16.0) -> None:
        super().__init__()
        self.margin, self.scale = margin, scale

    def forward(self, cosines: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
        """See the class."""
        cosines = cosines.float().clamp(-1 + 1e-6, 1 - 1e-6)  # at the ends, the gradient of the angle is infinite
        own = functional.one_hot(classes, cosines.shape[1]).bool()
        wider = torch.cos(torch.acos(cosines) + self.margin)
        return functional.cross_entropy(self.scale * torch.where(own, wider, cosines), classes)


def _weighted(rows: torch.Tensor, targets: torch.Tensor, class_weights: torch.Tensor | None) -> torch.Tensor:
    """Mean of row losses [N], weighted by the class weights of their targets."""
    if class_weights is None:
        return rows.mean()
    weights = targets @ class_weights
    return (rows * weights).sum() / weights.sum()
