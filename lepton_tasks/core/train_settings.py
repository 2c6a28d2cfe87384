"""The sections `train` and `tune` of a use case."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import pydantic

from lepton_tasks.core.spec import ComponentSpec, Section


class Train(Section):
    """How the network is trained."""

    epochs: int = pydantic.Field(10, ge=1, le=10_000)
    """Maximum number of passes over the training split."""
    batch_size: int = pydantic.Field(64, ge=1, le=65_536)
    """Samples per step and device."""
    learning_rate: float = pydantic.Field(1e-3, gt=0, le=10)
    """Peak learning rate."""
    weight_decay: float = pydantic.Field(0.01, ge=0)
    """Weight decay of matrices and kernels: decoupled with ``adamw``, an L2 penalty with the other optimizers, for
    which a good value is often far smaller."""
    optimizer: ComponentSpec = ComponentSpec(name="adamw")
    """Optimizer; see `lepton list optimizers`."""
    schedule: ComponentSpec = ComponentSpec(name="one_cycle")
    """Learning-rate schedule; see `lepton list schedules`."""
    loss: ComponentSpec | None = None
    """Loss; null for the learning task's default."""
    balance: Literal["none", "loss", "sampling"] = "none"
    """Class imbalance: ``loss`` weights rows of rare classes higher, ``sampling`` draws them more often."""
    label_smoothing: float = pydantic.Field(0.0, ge=0, lt=1)
    """Probability mass spread over all classes."""
    augment: tuple[ComponentSpec, ...] = ()
    """Augmentations of training batches, in order."""
    average: ComponentSpec | None = None
    """Weight averaging; the average is validated and kept."""
    keep: Literal["best", "last"] = "best"
    """Which epoch's weights are kept. ``last`` trains all epochs: better if the validation split is too small to pick
    an epoch reliably and the schedule ends at 0."""
    patience: int = pydantic.Field(5, ge=1)
    """Early stopping with ``best``: epochs without improvement on the validation split."""
    gradient_clip: float | None = pydantic.Field(None, gt=0)
    """Maximum gradient norm."""
    accumulate: int = pydantic.Field(1, ge=1, le=10_000)
    """Batches per optimizer step (gradient accumulation)."""
    precision: Literal["32", "bf16", "16"] = "32"
    """Precision of the forward and backward pass; ``32`` uses TF32 products on GPUs."""
    compile: bool | Literal["graphs"] = False
    """Compile network and loss (torch.compile): about a minute at the start, then faster on most GPUs; ``graphs``
    replays each step as a CUDA graph, for networks limited by kernel launches."""
    devices: int = pydantic.Field(1, ge=1, le=1024)
    """Processes per machine: one per GPU, or gloo workers on the CPU."""
    strategy: Literal["ddp", "fsdp"] = "ddp"
    """With several processes: ``ddp`` replicates the network; ``fsdp`` shards weights, gradients and optimizer state,
    for networks too large for one device."""
    checkpoint_steps: int | None = pydantic.Field(None, ge=1)
    """Batches between checkpoints; null for every ten seconds, or less often so that writing takes at most 5 % of the
    time."""

    @pydantic.field_validator("precision", mode="before")
    @classmethod
    def _bits(cls, value: Any) -> Any:
        return str(value) if type(value) is int else value  # as YAML reads a bare 16


class Range(Section):
    """Numbers from `low` to `high`, inclusive; integers if both are written as integers."""

    low: int | float
    """Smallest."""
    high: int | float
    """Largest."""
    step: int | float | None = pydantic.Field(None, gt=0)
    """Step size; null for any number."""
    log: bool = False
    """Whether to sample on a logarithmic scale."""

    @pydantic.model_validator(mode="after")
    def _in_order(self) -> Range:
        if not self.low < self.high:
            raise ValueError(f"low ({self.low:g}) is not below high ({self.high:g})")
        if self.log and (self.low <= 0 or self.step is not None):
            raise ValueError("with `log`, low is above 0 and there is no step")
        return self

    @property
    def whole(self) -> bool:
        """Whether only integers are sampled."""
        return isinstance(self.low, int) and isinstance(self.high, int)


class Choices(Section):
    """One of a few values."""

    choices: tuple[Any, ...] = pydantic.Field(min_length=2)
    """The values."""


def _kind(value: Any) -> str:
    return "choices" if isinstance(value, Choices) or (isinstance(value, Mapping) and "choices" in value) else "range"


Space = Annotated[
    Annotated[Range, pydantic.Tag("range")] | Annotated[Choices, pydantic.Tag("choices")], pydantic.Discriminator(_kind)
]
"""What a key is searched in."""


class Tune(Section):
    """Hyperparameter search on the validation split, before training."""

    space: dict[str, Space] = pydantic.Field(min_length=1)
    """Range or choices per dotted key of `task`, `model` or `train`."""
    trials: int = pydantic.Field(20, ge=1, le=10_000)
    """Maximum number of trials; the first uses the values of the use case."""
    minutes: float | None = pydantic.Field(None, gt=0)
    """Minutes after which no further trial starts; null for no limit."""
    workers: int = pydantic.Field(2, ge=1, le=256)
    """Concurrent trials on this machine; on a Dask cluster, as many as it has threads."""
    epochs: int | None = pydantic.Field(None, ge=1)
    """Maximum epochs per trial; null for those of `train`."""
    sampler: Literal["tpe", "random"] = "tpe"
    """How values are sampled: by earlier results (TPE), or at random."""
    pruner: Literal["median", "hyperband", "none"] = "median"
    """How unpromising trials are stopped early."""
    metric: str | None = None
    """Validation metric to optimise; null for the learning task's default."""

    @pydantic.field_validator("space")
    @classmethod
    def _known_sections(cls, space: dict[str, Range | Choices]) -> dict[str, Range | Choices]:
        for key in space:
            if key.split(".")[0] not in ("task", "model", "train"):
                raise ValueError(f"{key!r} is not in `task`, `model` or `train`")
        return space

    def own_values(self, use_case: Section) -> dict[str, Any]:
        """The use case's own values of the searched keys; without keys that it leaves to a component's default."""
        dump = use_case.model_dump(mode="json")
        own = {}
        for key in self.space:
            node: Any = dump
            for name in key.split("."):
                node = node.get(name) if isinstance(node, dict) else None
            if node is not None:
                own[key] = node["name"] if isinstance(node, dict) and not node.get("params") else node
        return own
