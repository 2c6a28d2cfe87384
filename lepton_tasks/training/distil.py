"""Distillation loss: a teacher's outputs in addition to the targets."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from lepton_tasks.core.errors import ConfigError
from lepton_tasks.core.protocols import LearningTask
from lepton_tasks.training.checkpoint import read_checkpoint
from lepton_tasks.training.job import Teacher


class Lessons(nn.Module):
    """The task's loss mixed with the distance from a teacher's outputs for the same inputs.

    For classes, the distance is the KL divergence at a softmax temperature; otherwise the mean squared error.

    Args:
        teacher: The trained network, its weight and temperature.
        task: The learning task.

    Source: Hinton, Vinyals and Dean, "Distilling the knowledge in a neural network", 2015.
    """

    def __init__(self, teacher: Teacher, task: LearningTask) -> None:
        super().__init__()
        self.teacher, self.classes = teacher, "classes" in task.loss_of
        self.network = task.trainable(read_checkpoint(teacher.checkpoint).network).requires_grad_(False)
        self.train(False)

    def train(self, mode: bool = True) -> Lessons:
        """Keep the teacher in evaluation mode."""
        super().train(False)
        return self

    def forward(self, own: torch.Tensor, outputs: torch.Tensor, inputs: torch.Tensor) -> torch.Tensor:
        """The scalar to minimise.

        Args:
            own: The task's loss.
            outputs: The student's outputs for `inputs`: for classes, logits float [N, K].
            inputs: As augmented.

        Raises:
            ConfigError: the teacher's outputs differ in shape.
        """
        with torch.no_grad():
            taught = self.network(inputs)
        if not isinstance(outputs, torch.Tensor) or outputs.shape != getattr(taught, "shape", None):
            raise ConfigError("the student does not answer in the teacher's form.", where="student")
        share, heat = self.teacher.share, self.teacher.temperature
        if self.classes:
            wanted, said = ((values / heat).log_softmax(dim=1) for values in (taught, outputs))
            distance = functional.kl_div(said, wanted, reduction="batchmean", log_target=True) * heat**2
        else:
            distance = functional.mse_loss(outputs, taught)
        return (1 - share) * own + share * distance
