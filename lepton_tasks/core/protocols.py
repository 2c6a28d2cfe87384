"""Protocols that components implement; `core/catalogue.py` lists the implementations.

Those of tables are in `table_protocols`, those of what follows a training in `release_protocols`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Protocol, TypeAlias, runtime_checkable

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    import torch

    from lepton_tasks.core.context import RunContext
    from lepton_tasks.core.use_case import Expectation
    from lepton_tasks.data.samples import Samples

Outputs: TypeAlias = "Mapping[str, np.ndarray]"
"""Arrays [N, ...] by the names of a network's outputs."""


@runtime_checkable
class Source(Protocol):
    """Where raw samples come from. Built with the YAML's params and ``data_root: Path``."""

    def state(self) -> Any:
        """JSON values that change when the source changes; cheap (names, sizes, times), no heavy import."""

    def read(self) -> Iterator[pa.Table]:
        """Batches of ``sample_id, uri, data, label`` in a stable order; raises `DataError` if there is nothing to read.

        ``data`` is null where the bytes lie at ``uri``, ``label`` where there is none. Columns of
        `lepton_tasks.data.rows.FURTHER` may be added; all batches have the same.
        """

    def describe(self) -> dict[str, Any]:
        """JSON values worth keeping beside the rows; ``classes``, where it knows them, counts the empty ones too."""


@runtime_checkable
class CleaningStep(Protocol):
    """One reason to refuse rows.

    Steps see *probes*: one light row per sample (``sample_id, uri, label, size_bytes, sha256, error``, what the source
    added and what the feature extractor's `probe` found), made once, so that a picture is decoded once however many
    steps there are.
    """

    def refuse(self, probes: pa.Table) -> Sequence[str | None]:
        """A reason for each row to be refused, or None to keep it. Sees only rows that earlier steps kept."""


@runtime_checkable
class RevisingStep(CleaningStep, Protocol):
    """A cleaning step that changes rows before it refuses any."""

    def revise(self, probes: pa.Table) -> tuple[pa.Table, Sequence[str | None]]:
        """As many rows in the same order, and for each what was repaired, or None. Later steps see the changed rows."""


@runtime_checkable
class FeatureExtractor(Protocol):
    """Samples -> arrays. Fitted on the training split only; the fitted values are JSON."""

    facts: ClassVar[Mapping[str, pa.DataType]]
    """Columns and types of what `probe` finds."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one sample's array."""

    def probe(self, payload: bytes) -> tuple[dict[str, Any], np.ndarray]:
        """Light facts about one sample, ``content_sha256`` among them, and its array, uint8 of `shape`.

        Samples are decoded here and nowhere else. Equal content has the same ``content_sha256`` however it is encoded
        without loss. Raises `DataError` if it cannot be decoded.
        """

    @staticmethod
    def expectations(stage: Literal["raw", "features"]) -> Sequence[Expectation]:
        """Rules that every use case with these features shares; those about ``label`` are left out without labels."""

    def fit(self, samples: Samples, ctx: RunContext) -> dict[str, Any]:
        """Values learned from the samples of the training split."""

    def transform(self, samples: Samples, fitted: Mapping[str, Any], folder: Path, ctx: RunContext) -> dict[str, Any]:
        """Write the arrays of one split into `folder`; returns facts (rows, bytes)."""

    def codec(self, fitted: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
        """Name and params of the input codec that serving uses to compute the same arrays."""

    def requests(self, arrays: np.ndarray) -> list[bytes]:
        """Samples, as arrays [N, *shape], in the form that a client sends them; the codec decodes them to the same."""


@runtime_checkable
class Fetching(Protocol):
    """A source, of samples or of a table, that fetches its files before they are read."""

    def fetch(self, ctx: RunContext) -> None:
        """Fetch what is not there yet, and tell the progress; raises `UnavailableError` naming the way by hand."""


@runtime_checkable
class Codec(Protocol):
    """Bytes or JSON <-> arrays, with NumPy only; shared by training and serving."""

    media_type: ClassVar[str]
    """Of one sample's bytes, e.g. ``image/png``."""
    suffix: ClassVar[str]
    """Of a file that holds one sample, with its dot."""

    def decode(self, payload: bytes) -> np.ndarray:
        """One sample from a request's bytes; raises `DataError` with the reason."""

    def payload(self, instance: Any) -> bytes:
        """The bytes of a sample that came as a JSON value; raises `DataError` saying what to send."""


@runtime_checkable
class Observing(Protocol):
    """A codec that extracts request statistics to compare with the training data."""

    def observe(self, payload: bytes, sample: np.ndarray) -> dict[str, Any]:
        """A few JSON values by name, null for a missing one; cheap: it is part of answering a request.

        Args:
            payload: A request's bytes.
            sample: What `Codec.decode` made of them.
        """


@runtime_checkable
class OutputCodec(Protocol):
    """Model outputs -> what a caller reads."""

    def encode(self, outputs: Outputs, row: int) -> dict[str, Any]:
        """The answer for one row of a batch, as JSON values."""


class Rows(NamedTuple):
    """Rows of a split: what goes into a network and what should come out."""

    inputs: np.ndarray
    """[N, ...]; may be a memory map."""
    targets: np.ndarray
    """[N, ...]"""
    lengths: np.ndarray | None = None
    """int [N], how long each input is before its padding; batches are then made of rows of like length."""
    cut: bool = False
    """Whether the inputs [M, T] of a batch are cut to the longest of its rows: their `lengths` are along T."""


class Phase(NamedTuple):
    """A part of each training step with a loss and parameters of its own, for networks that learn in turn."""

    name: str
    """Its loss is noted as ``<name>_loss``."""
    parameters: Sequence[torch.nn.Parameter]
    """What its optimiser changes; the others stay as they are."""
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    """The scalar to minimise, from inputs and targets as augmented."""
    every: int = 1
    """It is left out of all steps but each `every`-th."""


class Validation(NamedTuple):
    """How a network is judged after each epoch."""

    rows: Rows
    """Of the validation split."""
    network: torch.nn.Module
    """Takes the rows' inputs."""
    outputs: tuple[str, ...]
    """Names of what it answers, in order."""
    metrics: Callable[[Outputs, np.ndarray], dict[str, float]]
    """Figures by name, from what it answers and the rows' targets."""


@runtime_checkable
class LearningTask(Protocol):
    """A learning task: targets, loss, metrics, plots, output. No Lightning; torch only where needed.

    Built with the YAML's params, ``fitted`` (what the feature extractor learned) and ``labels`` (names of the classes).
    *Stored* rows are those of the features artifact. `lepton_tasks.learning.task.Task` has what most tasks share.
    """

    metric: ClassVar[str]
    """The metric that a model is chosen and gated by, unless the use case names another."""
    features: ClassVar[tuple[str, ...]]
    """Names of the feature extractors whose rows it can learn from."""
    outputs: ClassVar[tuple[str, ...]]
    """Names of what the networks of `evaluable` and `deployable` answer, in order."""
    network_parameters: ClassVar[tuple[str, ...]]
    """Names of `network_arguments`: a network that takes other ones does not suit the task."""
    loss_of: ClassVar[tuple[str, ...]]
    """Which losses of the catalogue a use case may name: of ``classes``, ``numbers``, ``rankings``, ``cosines`` or
    ``embeddings``; empty for none but its own."""
    boxes: ClassVar[bool]
    """Whether targets are boxes, so that what moves pictures must move them, too."""
    smooths: ClassVar[bool]
    """Whether `targets` heeds ``train.label_smoothing``."""
    replayable: ClassVar[bool]
    """Whether the answer to a request is what `metrics` takes: true if `evaluable` and `deployable` answer alike."""

    def network_arguments(self) -> dict[str, Any]:
        """Arguments of the network that follow from the data (``input_shape``, ``num_classes``), as JSON values."""

    def initialise(self, network: torch.nn.Module) -> None:
        """Put what was fitted (word vectors, a mean) into a new network."""

    def calibrate(self, network: torch.nn.Module, rows: Rows) -> None:
        """Set what a network learns without gradients (a threshold), once, when its weights are final.

        Args:
            network: With the weights that are kept; its buffers may be changed.
            rows: Of `training_rows`.
        """

    def training_rows(self, features: Path) -> Rows:
        """What is learned from; raises `DataError` if there is nothing."""

    def evaluation_rows(self, features: Path, split: str) -> Rows:
        """What `evaluable` answers and `metrics` judges, of the validation or the test split."""

    def inputs(self, stored: torch.Tensor) -> torch.Tensor:
        """Stored inputs in the form that augmentations work on and `trainable` takes."""

    def targets(self, stored: torch.Tensor, label_smoothing: float) -> torch.Tensor:
        """Stored targets in the form that augmentations work on and `loss` takes."""

    def trainable(self, network: torch.nn.Module) -> torch.nn.Module:
        """The network with what must come before it in training: `inputs` -> what `loss` takes."""

    def embedded(self, network: torch.nn.Module) -> torch.nn.Module:
        """What takes the place of `trainable` for a loss of ``embeddings``."""

    def evaluable(self, network: torch.nn.Module) -> torch.nn.Module:
        """The network as it is judged: inputs of `evaluation_rows` -> `outputs`."""

    def validation(self, network: torch.nn.Module, features: Path) -> Validation:
        """How the network is judged after each epoch: as on the test split, or by something that takes less time."""

    def deployable(self, network: torch.nn.Module) -> torch.nn.Module:
        """The network with numeric preprocessing before and post-processing after it, ready for ONNX.

        What the input codec decodes -> `outputs`, a tensor or a tuple of them. The name of the argument of its
        `forward` is the name of the graph's input.
        """

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The scalar to minimise, from what `trainable` gives and `targets`."""

    def phases(self, network: torch.nn.Module) -> Sequence[Phase]:
        """What a step does in turn; empty if all parameters follow `loss` of `trainable`, as nearly always."""

    def metrics(self, outputs: Outputs, targets: np.ndarray) -> dict[str, float]:
        """Figures on a split, by name; `lepton_tasks.core.metrics` tells by the name which way is better."""

    def score(self, metrics: Mapping[str, float]) -> tuple[float, ...]:
        """What the best epoch is chosen by, from the metrics of `validation`; the larger tuple is better."""

    def details(self, outputs: Outputs, rows: Rows) -> dict[str, dict[str, float]]:
        """Figures of each label, or of other parts of the split, for the model card; may be empty."""

    def right(self, outputs: Outputs, targets: np.ndarray) -> np.ndarray | None:
        """Which rows are answered correctly, bool [N], to compare two models row by row; None if undefined."""

    def confidence(self, outputs: Outputs) -> np.ndarray:
        """How sure each answer is, float [N] in [0, 1]; ones if that is no question."""

    def baseline(self, rows: Rows) -> dict[str, float]:
        """The same metrics of a trivial predictor, to compare every run with."""

    def plots(self, folder: Path, rows: Rows, outputs: Outputs, *, worst: int) -> list[Path]:
        """Pictures a person looks at, as PNG files in `folder`; `worst` is how many mistakes are drawn."""

    def epoch_plot(self, path: Path, rows: Rows, outputs: Outputs) -> None:
        """A picture of how far a training is, as the PNG file `path`, from the validation split; may draw nothing."""

    def input_codec(self) -> tuple[str, dict[str, Any]] | None:
        """Name and params of the input codec where requests are no rows; None for the feature extractor's."""

    def requests(self, rows: Rows) -> list[bytes] | None:
        """Rows of `evaluation_rows` in the form that a client sends them; None if the extractor does it."""

    def network_plots(self, folder: Path, network: torch.nn.Module, rows: Rows) -> list[Path]:
        """Pictures of what goes on inside the network as it reads `rows`, as PNG files in `folder`; may be none."""

    def output_codec(self) -> tuple[str, dict[str, Any]]:
        """Name and params of the output codec."""
