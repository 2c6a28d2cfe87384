"""Models with `fit`, `evaluate`, `predict` and `save`, which run the stages of a use case."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from lepton_tasks.core.errors import ArtifactError, ConfigError

if TYPE_CHECKING:
    from lepton_ai.datasets import Part
    from lepton_tasks.core.use_case import UseCase
    from lepton_tasks.training.checkpoint import Checkpoint


class Score(NamedTuple):
    """A model's score on unseen data."""

    loss: float
    """What is better when smaller, e.g. the mean negative log-likelihood in nats."""
    metric: float
    """What is better when larger, e.g. accuracy."""


class Model:
    """Base class of all models.

    Args:
        features: The feature extractor and its params.
        network: Params of the network.
        num_classes: Of the data it is for.
    """

    kind: ClassVar[str]
    """Of the data it takes: ``pictures`` or ``texts``."""
    task: ClassVar[str]
    network: str
    figures: ClassVar[tuple[str, str]] = ("loss", "accuracy")
    """What `evaluate` gives, of the learning task's metrics."""

    def __init__(self, features: dict[str, Any], network: dict[str, Any], num_classes: int) -> None:
        self._features, self._params, self._classes = features, network, num_classes
        self._task_params: dict[str, Any] = {}
        self._trained: Checkpoint | None = None
        self.history: list[dict[str, Any]] = []
        """One row an epoch: losses, validation metrics, learning rate, samples/s, seconds."""

    def __repr__(self) -> str:
        state = "not trained" if self._trained is None else "trained"
        return f"<{type(self).__name__} for {self._classes} classes, {state}>"

    def fit(
        self,
        data: Part,
        *,
        epochs: int = 10,
        batch_size: int = 32,
        learning_rate: float = 1e-3,
        seed: int = 0,
        **train: Any,
    ) -> Model:
        """Train from new weights, with progress on the terminal; the best epoch on the validation rows is kept.

        Args:
            data: The part to learn from.
            epochs: Passes over it at most.
            batch_size: Samples a step.
            learning_rate: At its peak.
            seed: Of weights and shuffles.
            train: Further keys of a use case's ``train`` section, e.g. ``augment=["flip"]``, ``devices=2``.

        Raises:
            LeptonError: the data cannot be used, or the training failed; the message says what to do.
        """
        from lepton_ai import running

        if _part(data).test:
            raise ConfigError("this is the test part.", where=data.name, fix="Take the training part.")
        settings = {"epochs": epochs, "batch_size": batch_size, "learning_rate": learning_rate, **train}
        self._trained, self.history = running.fit(self._use_case(data, settings), seed, self._check)
        return self

    def evaluate(self, data: Part) -> Score:
        """Loss and main metric on a data set's test part, as the served model would answer.

        Raises:
            ConfigError: the model is not trained, or some of the data are those it learned from.
        """
        from lepton_ai import running

        if not _part(data).test:
            raise ConfigError("this is the training part.", where=data.name, fix="Take the test part.")
        trained = self._ready()
        _check_unseen(data, trained.spec["use_case"])
        figures = running.evaluate(self._use_case(data, {}), trained)
        return Score(*(figures[name] for name in self.figures))

    def predict(self, inputs: Sequence[Any]) -> list[dict[str, Any]]:
        """Predict each input; answers have the endpoint's form.

        Args:
            inputs: A list: encoded samples (bytes), paths of files that hold them, pictures (PIL, or NumPy uint8 [H, W]
                or [H, W, C]), texts, or JSON values as the endpoint takes.

        Raises:
            ConfigError: the model is not trained, or `inputs` is a single one.
            DataError: an input cannot be read.
        """
        from lepton_ai import running

        if isinstance(inputs, str | bytes | Path | Mapping):
            raise ConfigError("this is one input, not a list of them.", where="inputs", fix="Write predict([...]).")
        return running.predict(self._ready(), inputs)

    def save(self, path: str | Path) -> Path:
        """Write the trained model atomically to one file; `load` reads it without running code."""
        from lepton_ai import running

        return running.save(self._ready(), type(self).__name__, Path(path))

    def export(self, folder: str | Path, *, name: str | None = None, title: str = "", description: str = "") -> Path:
        """Write the model package that ``lepton serve FOLDER`` serves; its figures are those of the test rows.

        Args:
            folder: To write to; an older package in it is replaced.
            name: Of the served model; by default the folder's.
            title: For the model card.
            description: Intended use, for the model card; Markdown.

        Raises:
            ConfigError: the model is not trained, its data have changed, or the folder or the name cannot be used.
            GateError: ONNX Runtime answers otherwise than the trained network.
        """
        from lepton_ai import packaging

        about = {"title": title, "description": description}
        return packaging.export(self._ready(), Path(folder), name=name, about=about)

    def _ready(self) -> Checkpoint:
        if self._trained is None:
            raise ConfigError("the model is not trained yet.", where=type(self).__name__, fix="Call fit, or load one.")
        return self._trained

    def _use_case(self, data: Part, train: dict[str, Any]) -> UseCase:
        from lepton_tasks.core.use_case import parse_use_case

        if data.kind != self.kind:
            raise ConfigError(f"{type(self).__name__} takes {self.kind}, not {data.kind}.", where=data.name)
        raw = {
            "name": f"sdk_{re.sub('[^a-z0-9]', '_', data.name.lower())}"[:63],
            "task": {"name": self.task, "params": self._task_params},
            "data": data.data.model_dump(),
            "clean": [step.model_dump() for step in data.clean],
            "features": {**self._features, "params": self._features["params"] | self._of_data(data)},
            "model": {"name": self.network, "params": self._params},
            "train": train,
            "seed": data.seed,
        }
        return parse_use_case(raw, where=type(self).__name__)

    def _of_data(self, data: Part) -> dict[str, Any]:
        """Params of the features that depend on the data."""
        return {}

    def _check(self, labels: Sequence[str]) -> None:
        """Raise `ConfigError` if the number of classes differs from the model's."""
        if len(labels) != self._classes:
            raise ConfigError(
                f"the data have {len(labels)} classes: {', '.join(labels)}.",
                where="num_classes",
                fix=f"Write num_classes={len(labels)}.",
            )


def _part(data: Any) -> Part:
    """Return `data`; raise `ConfigError` if it is not a `Part`."""
    from lepton_ai.datasets import Part

    if not isinstance(data, Part):
        raise ConfigError(
            f"expected a part of a data set, not a {type(data).__name__}.",
            where="data",
            fix="Take one of `train, test = ImageFolder.split('photos')`, or another of lepton_ai.datasets.",
        )
    return data


def _image(input_shape: Sequence[int]) -> dict[str, Any]:
    """The features of pictures of a shape; raises `ConfigError` unless it is ``(height, width, channels)``."""
    if len(input_shape) != 3:
        raise ConfigError(
            f"{tuple(input_shape)} is not (height, width, channels).", where="input_shape", fix="E.g. (28, 28, 1)."
        )
    return {"name": "image", "params": dict(zip(("height", "width", "channels"), input_shape, strict=True))}


def _check_unseen(data: Part, learned: Mapping[str, Any]) -> None:
    """Raise `ConfigError` if the data are split differently from the training data, so that the model has seen some.

    Args:
        data: The test part.
        learned: The use case that the model was trained by.
    """
    mine = data.data.model_dump(mode="json")
    same = learned["data"] == mine and learned["seed"] == data.seed
    if learned["data"]["source"] == mine["source"] and not same:
        raise ConfigError(
            "the model has learned from some of these rows: it was fitted on another split of the same data.",
            where=data.name,
            fix="Take the test part of the same split "
            f"(seed={learned['seed']}, test={learned['data']['split']['test']:g}).",
        )


class CNN(Model):
    """A convolutional image classifier.

    Args:
        input_shape: ``(height, width, channels)`` that images are resized to, in pixels; 1, 3 or 4 channels.
        num_classes: Of the data.
        residual: Whether to use a deeper network of residual blocks, for photos.
        network: Further params of the network, e.g. ``width=64``.
    """

    kind = "pictures"
    task = "image_classification"

    def __init__(self, input_shape: Sequence[int], num_classes: int, *, residual: bool = False, **network: Any) -> None:
        super().__init__(_image(input_shape), network, num_classes)
        self.network = "residual_cnn" if residual else "cnn"


class RNN(Model):
    """A recurrent text classifier.

    Args:
        num_classes: Of the data.
        vocab_size: Maximum size of the vocabulary.
        max_length: Maximum number of words that are read per text.
        tokenizer: ``word``, ``bpe`` or ``wordpiece``.
        network: Further params of the network, e.g. ``cell="lstm"``, ``width=256``, ``bidirectional=False``.
    """

    kind = "texts"
    task = "text_classification"
    network = "rnn"

    def __init__(
        self,
        num_classes: int,
        *,
        vocab_size: int = 20_000,
        max_length: int = 128,
        tokenizer: str = "word",
        **network: Any,
    ) -> None:
        params = {"vocab_size": vocab_size, "max_length": max_length, "tokenizer": tokenizer}
        super().__init__({"name": "text", "params": params}, network, num_classes)

    def _of_data(self, data: Part) -> dict[str, Any]:
        return {"columns": list(data.columns)}


class GAN(Model):
    """A generative adversarial network: a generator of images and a critic.

    ``evaluate`` gives a Fréchet distance (0 is best) and the share of generated images in which a
    classifier of the real ones recognises the requested class. ``predict`` takes
    ``{"label": "3", "seed": 1}``; see also `draw`.

    Args:
        input_shape: ``(height, width, channels)`` of the pictures, pixels; 1 or 3 channels.
        num_classes: Of the data.
        objective: ``non_saturating``, ``hinge`` or ``wasserstein``.
        network: Further params of the network, e.g. ``width=32``.
    """

    kind = "pictures"
    task = "image_generation"
    network = "dcgan"
    figures = ("fid", "recognised")

    def __init__(
        self, input_shape: Sequence[int], num_classes: int, *, objective: str = "non_saturating", **network: Any
    ) -> None:
        super().__init__(_image(input_shape), network, num_classes)
        self._task_params = {"objective": objective}

    def draw(self, label: str, *, seed: int = 0) -> bytes:
        """An image of the requested class as a PNG file; equal seeds give equal images."""
        return base64.b64decode(self.predict([{"label": label, "seed": seed}])[0]["image"])


def load(path: str | Path) -> Model:
    """Load a model that `Model.save` wrote; no code in the file is run.

    Raises:
        ArtifactError: the file is not a model, or its weights do not fit.
    """
    from lepton_ai import running

    name, trained = running.load(Path(path))
    classes = {cls.__name__: cls for cls in (CNN, GAN, RNN)}
    if name not in classes:
        raise ArtifactError(f"holds a {name}, which is none of {', '.join(classes)}.", where=str(path))
    model = classes[name]
    made = model.__new__(model)
    spec = trained.spec
    Model.__init__(made, spec["use_case"]["features"], spec["model"]["params"], len(spec["labels"]))
    made._task_params = spec["task"]["params"]
    made.network = spec["model"]["name"]
    made._trained = trained
    return made
