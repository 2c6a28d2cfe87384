"""The sections `train` and `tune` of a use case."""

from __future__ import annotations

from typing import Any, Literal

import pydantic

from lepton_tasks.core.spec import ComponentSpec, Section


class Train(Section):
    """How the network is trained."""

    epochs: int = pydantic.Field(10, ge=1, le=10_000)
    """Passes over the training split at most."""
    batch_size: int = pydantic.Field(64, ge=1, le=65_536)
    """Samples per step and device."""
    learning_rate: float = pydantic.Field(1e-3, gt=0, le=10)
    """Peak learning rate."""
    weight_decay: float = pydantic.Field(0.01, ge=0)
    """Decoupled weight decay."""
    optimizer: ComponentSpec = ComponentSpec(name="adamw")
    """An optimiser of the catalogue."""
    schedule: ComponentSpec = ComponentSpec(name="one_cycle")
    """A learning-rate schedule of the catalogue."""
    loss: ComponentSpec | None = None
    """A loss of the catalogue; null for the learning task's own."""
    balance: Literal["none", "loss", "sampling"] = "none"
    """What is done about classes of very unequal size: ``loss`` lets rows of rare ones count more, ``sampling`` shows
    them more often."""
    label_smoothing: float = pydantic.Field(0.0, ge=0, lt=1)
    """Share of the target spread over all classes."""
    augment: tuple[ComponentSpec, ...] = ()
    """Augmentations of training batches, in order."""
    average: ComponentSpec | None = None
    """An average of the weights along the training, validated and kept in their place."""
    keep: Literal["best", "last"] = "best"
    """Which epoch's weights are kept. ``last`` goes through all epochs: better where the validation split is too small
    to tell a good epoch from a lucky one, and the schedule ends at 0."""
    patience: int = pydantic.Field(5, ge=1)
    """Epochs without improvement on the validation split after which training stops, if the best one is kept."""
    gradient_clip: float | None = pydantic.Field(None, gt=0)
    """Largest norm of the gradient."""
    accumulate: int = pydantic.Field(1, ge=1, le=10_000)
    """Batches whose gradients are added up for one step of the optimiser."""
    precision: Literal["32", "bf16", "16"] = "32"
    """Arithmetic of the forward and backward pass; on a GPU, products of ``32`` are computed in TF32."""
    compile: bool | Literal["graphs"] = False
    """Whether network and loss are compiled (torch.compile), which takes a minute and then saves time on most GPUs;
    ``graphs`` replays each step as one CUDA graph, for networks so small that the GPU waits for its orders."""
    devices: int = pydantic.Field(1, ge=1, le=1024)
    """Processes (one a GPU, or one a gloo worker on a CPU)."""
    strategy: Literal["ddp", "fsdp"] = "ddp"
    """With several processes: ``ddp`` has the whole network in each; ``fsdp`` a part of weights, gradients and
    optimiser state, for networks that one device cannot hold."""
    checkpoint_steps: int | None = pydantic.Field(None, ge=1)
    """Batches between two checkpoints to resume from; null for every ten seconds, or more, so that writing them takes
    at most a twentieth of the time."""

    @pydantic.field_validator("precision", mode="before")
    @classmethod
    def _bits(cls, value: Any) -> Any:
        return str(value) if type(value) is int else value  # as YAML reads a bare 16


class Range(Section):
    """Numbers from `low` to `high`, both of them included; whole ones if both are written as whole numbers."""

    low: int | float
    """Smallest."""
    high: int | float
    """Largest."""
    step: int | float | None = pydantic.Field(None, gt=0)
    """Distance of two neighbours; null for any number."""
    log: bool = False
    """Whether each order of magnitude is tried as often as the next."""

    @pydantic.model_validator(mode="after")
    def _in_order(self) -> Range:
        if not self.low < self.high:
            raise ValueError(f"low ({self.low:g}) is not below high ({self.high:g})")
        if self.log and (self.low <= 0 or self.step is not None):
            raise ValueError("with `log`, low is above 0 and there is no step")
        return self

    @property
    def whole(self) -> bool:
        """Whether whole numbers are tried."""
        return isinstance(self.low, int) and isinstance(self.high, int)


class Choices(Section):
    """One of a few values."""

    choices: tuple[Any, ...] = pydantic.Field(min_length=2)
    """The values."""


class Tune(Section):
    """The search for better values of some keys, on the validation split, before training."""

    space: dict[str, Range | Choices] = pydantic.Field(min_length=1)
    """By dotted key of `task`, `model` or `train`: a range or choices."""
    trials: int = pydantic.Field(20, ge=1, le=10_000)
    """Trainings at most; the first has the use case's own values."""
    minutes: float | None = pydantic.Field(None, gt=0)
    """After so many minutes no further trial begins; null for no limit."""
    workers: int = pydantic.Field(2, ge=1, le=256)
    """Trials side by side on this machine; on a Dask cluster, as many as it has threads."""
    epochs: int | None = pydantic.Field(None, ge=1)
    """Epochs of a trial at most; null for those of `train`."""
    sampler: Literal["tpe", "random"] = "tpe"
    """How values are chosen: by what was good so far, or evenly."""
    pruner: Literal["median", "hyperband", "none"] = "median"
    """Which trials are ended early."""
    metric: str | None = None
    """What is sought, of the validation split; null for the learning task's own metric."""

    @pydantic.field_validator("space")
    @classmethod
    def _known_sections(cls, space: dict[str, Range | Choices]) -> dict[str, Range | Choices]:
        for key in space:
            if key.split(".")[0] not in ("task", "model", "train"):
                raise ValueError(f"{key!r} is not in `task`, `model` or `train`")
        return space

    def own_values(self, use_case: Section) -> dict[str, Any]:
        """What the use case itself says of the keys that are sought; none of those it leaves to a default elsewhere."""
        dump = use_case.model_dump(mode="json")
        own = {}
        for key in self.space:
            node: Any = dump
            for name in key.split("."):
                node = node.get(name) if isinstance(node, dict) else None
            if node is not None:
                own[key] = node["name"] if isinstance(node, dict) and not node.get("params") else node
        return own
