"""Protocols of components; `core/catalogue.py` lists the implementations.

See also `table_protocols` and `release_protocols`.
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
"""Arrays [N, ...] by output name of a network."""


@runtime_checkable
class Source(Protocol):
    """Source of raw samples. Built with the YAML's params and ``data_root: Path``."""

    def state(self) -> Any:
        """JSON values that change when the source changes; cheap (names, sizes, times), no heavy import."""

    def read(self) -> Iterator[pa.Table]:
        """Batches of ``sample_id, uri, data, label`` in a stable order; raises `DataError` if there is nothing to read.

        ``data`` is null if the bytes are at ``uri``, ``label`` if there is none. Columns of
        `lepton_tasks.data.rows.OPTIONAL_COLUMNS` may be added; all batches have the same columns.
        """

    def describe(self) -> dict[str, Any]:
        """Metadata to store with the rows, as JSON values; ``classes``, if known, includes empty ones."""


@runtime_checkable
class CleaningStep(Protocol):
    """Rejects rows.

    Steps see *probes*: one row of metadata per sample (``sample_id, uri, label, size_bytes, sha256, error``, the
    source's optional columns and the facts of the feature extractor's `probe`), computed once, so that an image is
    decoded once however many steps there are.
    """

    def refuse(self, probes: pa.Table) -> Sequence[str | None]:
        """For each row the reason to reject it, or None to keep it. Sees only rows that earlier steps kept."""


@runtime_checkable
class RevisingStep(CleaningStep, Protocol):
    """A cleaning step that repairs rows before it rejects any."""

    def revise(self, probes: pa.Table) -> tuple[pa.Table, Sequence[str | None]]:
        """The same rows in the same order, and for each what was repaired, or None. Later steps see the changes."""


@runtime_checkable
class FeatureExtractor(Protocol):
    """Converts samples to arrays. Fitted on the training split only; the fitted values are JSON."""

    facts: ClassVar[Mapping[str, pa.DataType]]
    """Columns and types of the facts of `probe`."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one sample's array."""

    def probe(self, payload: bytes) -> tuple[dict[str, Any], np.ndarray]:
        """Facts about one sample, including ``content_sha256``, and its array, uint8 of `shape`.

        The only place where samples are decoded. Equal content has the same ``content_sha256`` in any lossless
        encoding. Raises `DataError` if it cannot be decoded.
        """

    @staticmethod
    def expectations(stage: Literal["raw", "features"]) -> Sequence[Expectation]:
        """Default expectations of these features; those about ``label`` apply only to labelled data."""

    def fit(self, samples: Samples, ctx: RunContext) -> dict[str, Any]:
        """Fit on the samples of the training split."""

    def transform(self, samples: Samples, fitted: Mapping[str, Any], folder: Path, ctx: RunContext) -> dict[str, Any]:
        """Write the arrays of one split into `folder`; returns facts (rows, bytes)."""

    def codec(self, fitted: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
        """Name and params of the input codec that serving uses to compute the same arrays."""

    def requests(self, arrays: np.ndarray) -> list[bytes]:
        """Encode arrays [N, *shape] as request bodies, which the codec decodes to the same arrays."""


@runtime_checkable
class Fetching(Protocol):
    """A source, of samples or of a table, that downloads its files before reading."""

    def fetch(self, ctx: RunContext) -> None:
        """Download missing files and report progress; raises `UnavailableError` with the manual alternative."""


@runtime_checkable
class Codec(Protocol):
    """Converts bytes or JSON to arrays, with NumPy only; shared by training and serving."""

    media_type: ClassVar[str]
    """Media type of one sample's bytes, e.g. ``image/png``."""
    suffix: ClassVar[str]
    """Suffix of a file with one sample, including the dot."""

    def decode(self, payload: bytes) -> np.ndarray:
        """Decode one sample from a request's bytes; raises `DataError` with the reason."""

    def payload(self, instance: Any) -> bytes:
        """The bytes of a sample given as a JSON value; raises `DataError` with the expected form."""


@runtime_checkable
class Observing(Protocol):
    """A codec that extracts request statistics to compare with the training data."""

    def observe(self, payload: bytes, sample: np.ndarray) -> dict[str, Any]:
        """A few JSON values by name, null for a missing one; must be fast: it is called for every request.

        Args:
            payload: A request's bytes.
            sample: The output of `Codec.decode`.
        """


@runtime_checkable
class OutputCodec(Protocol):
    """Converts model outputs to responses."""

    def encode(self, outputs: Outputs, row: int) -> dict[str, Any]:
        """The response for one row of a batch, as JSON values."""


class Rows(NamedTuple):
    """Inputs and targets of the rows of a split."""

    inputs: np.ndarray
    """[N, ...]; may be a memory map."""
    targets: np.ndarray
    """[N, ...]"""
    lengths: np.ndarray | None = None
    """int [N], length of each input without padding; rows of similar length are then batched together."""
    cut: bool = False
    """Whether the inputs [M, T] of a batch are truncated along T to the longest row of the batch."""


class Phase(NamedTuple):
    """A part of each training step with its own loss and parameters, for alternating training such as GANs."""

    name: str
    """Its loss is logged as ``<name>_loss``."""
    parameters: Sequence[torch.nn.Parameter]
    """Parameters that its optimizer updates."""
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    """The scalar to minimise, from augmented inputs and targets."""
    every: int = 1
    """It runs in every `every`-th step."""


class Validation(NamedTuple):
    """How a network is validated after each epoch."""

    rows: Rows
    """Rows of the validation split."""
    network: torch.nn.Module
    """Maps the rows' inputs to `outputs`."""
    outputs: tuple[str, ...]
    """Names of its outputs, in order."""
    metrics: Callable[[Outputs, np.ndarray], dict[str, float]]
    """Computes metrics by name from outputs and targets."""


@runtime_checkable
class LearningTask(Protocol):
    """A learning task: targets, loss, metrics, plots, output. No Lightning; torch only where needed.

    Built with the YAML's params, ``fitted`` (the feature extractor's fitted values) and ``labels`` (class names).
    *Stored* rows are those of the features artifact. `lepton_tasks.learning.task.Task` is the usual base class.
    """

    metric: ClassVar[str]
    """Default metric for model selection and the gate."""
    features: ClassVar[tuple[str, ...]]
    """Names of the supported feature extractors."""
    outputs: ClassVar[tuple[str, ...]]
    """Names of the outputs of `evaluable` and `deployable`, in order."""
    network_parameters: ClassVar[tuple[str, ...]]
    """Names of `network_arguments`; a network must accept them."""
    loss_of: ClassVar[tuple[str, ...]]
    """Kinds of losses that a use case may name: ``classes``, ``numbers``, ``rankings``, ``cosines``, ``embeddings``;
    empty if the task always uses its own loss."""
    boxes: ClassVar[bool]
    """Whether targets are bounding boxes, which geometric augmentations must transform as well."""
    smooths: ClassVar[bool]
    """Whether `targets` supports ``train.label_smoothing``."""
    replayable: ClassVar[bool]
    """Whether `metrics` can be computed from served responses: `evaluable` and `deployable` have the same outputs."""

    def network_arguments(self) -> dict[str, Any]:
        """Arguments of the network that depend on the data (``input_shape``, ``num_classes``), as JSON values."""

    def initialise(self, network: torch.nn.Module) -> None:
        """Set fitted values (word vectors, a mean) in a new network."""

    def calibrate(self, network: torch.nn.Module, rows: Rows) -> None:
        """Set what is learned without gradients (e.g. a threshold), once after training.

        Args:
            network: With its final weights; buffers may be changed.
            rows: The result of `training_rows`.
        """

    def training_rows(self, features: Path) -> Rows:
        """Training data; raises `DataError` if there is none."""

    def evaluation_rows(self, features: Path, split: str) -> Rows:
        """Inputs of `evaluable` and targets of `metrics`, of the validation or test split."""

    def inputs(self, stored: torch.Tensor) -> torch.Tensor:
        """Convert stored inputs to the form that augmentations and `trainable` take."""

    def targets(self, stored: torch.Tensor, label_smoothing: float) -> torch.Tensor:
        """Convert stored targets to the form that augmentations and `loss` take."""

    def trainable(self, network: torch.nn.Module) -> torch.nn.Module:
        """The network with its preprocessing for training: from `inputs` to the outputs that `loss` takes."""

    def embedded(self, network: torch.nn.Module) -> torch.nn.Module:
        """Replacement of `trainable` for losses on ``embeddings``."""

    def evaluable(self, network: torch.nn.Module) -> torch.nn.Module:
        """The network for evaluation: from inputs of `evaluation_rows` to `outputs`."""

    def validation(self, network: torch.nn.Module, features: Path) -> Validation:
        """Validation after each epoch: as on the test split, or a cheaper proxy."""

    def deployable(self, network: torch.nn.Module) -> torch.nn.Module:
        """The network with numeric preprocessing and post-processing, ready for ONNX export.

        Maps what the input codec decodes to `outputs`, a tensor or a tuple of tensors. The argument name of its
        `forward` becomes the name of the graph's input.
        """

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The scalar to minimise, from outputs of `trainable` and `targets`."""

    def phases(self, network: torch.nn.Module) -> Sequence[Phase]:
        """Phases of a training step; empty for ordinary training of all parameters on `loss`."""

    def metrics(self, outputs: Outputs, targets: np.ndarray) -> dict[str, float]:
        """Metrics of a split by name; `lepton_tasks.core.metrics` derives from the name which direction is better."""

    def score(self, metrics: Mapping[str, float]) -> tuple[float, ...]:
        """Score for selecting the best epoch, from the metrics of `validation`; the larger tuple is better."""

    def details(self, outputs: Outputs, rows: Rows) -> dict[str, dict[str, float]]:
        """Metrics per label, or per other part of the split, for the model card; may be empty."""

    def right(self, outputs: Outputs, targets: np.ndarray) -> np.ndarray | None:
        """Which rows are predicted correctly, bool [N], to compare two models row by row; None if undefined."""

    def confidence(self, outputs: Outputs) -> np.ndarray:
        """Confidence of each prediction, float [N] in [0, 1]; ones if not applicable."""

    def baseline(self, rows: Rows) -> dict[str, float]:
        """The same metrics for a trivial predictor, as a reference."""

    def plots(self, folder: Path, rows: Rows, outputs: Outputs, *, worst: int) -> list[Path]:
        """Write plots as PNG files into `folder`; `worst` is the number of worst errors to draw."""

    def epoch_plot(self, path: Path, rows: Rows, outputs: Outputs) -> None:
        """Plot the progress of training on the validation split as the PNG file `path`; optional."""

    def input_codec(self) -> tuple[str, dict[str, Any]] | None:
        """Name and params of the input codec if requests are not rows; None for the feature extractor's."""

    def requests(self, rows: Rows) -> list[bytes] | None:
        """Encode rows of `evaluation_rows` as request bodies; None to use the feature extractor's."""

    def network_plots(self, folder: Path, network: torch.nn.Module, rows: Rows) -> list[Path]:
        """Write plots of the network's internals on `rows` as PNG files into `folder`; may be none."""

    def output_codec(self) -> tuple[str, dict[str, Any]]:
        """Name and params of the output codec."""
