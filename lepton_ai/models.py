"""Models with `fit`, `evaluate`, `predict`, `save` and `export`, by network architecture."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lepton_ai.base import Model, Score
from lepton_ai.use_cases import UseCaseModel, from_use_case
from lepton_tasks.core.errors import ArtifactError, ConfigError
from lepton_tasks.core.use_case import parse_use_case

if TYPE_CHECKING:
    from lepton_ai.datasets import Part

__all__ = ["CNN", "GAN", "MLP", "RNN", "Model", "Score", "UseCaseModel", "from_use_case", "load"]

_MAX_CLASSES = 100  # classes of a table; a target with more is probably an integer


def _image(input_shape: Sequence[int]) -> dict[str, Any]:
    """Image features of this shape; raises `ConfigError` unless it is ``(height, width, channels)``."""
    if len(input_shape) != 3:
        raise ConfigError(
            f"{tuple(input_shape)} is not (height, width, channels).", where="input_shape", fix="E.g. (28, 28, 1)."
        )
    return {"name": "image", "params": dict(zip(("height", "width", "channels"), input_shape, strict=True))}


class CNN(Model):
    """A convolutional image classifier.

    Args:
        input_shape: ``(height, width, channels)`` that images are resized to, in pixels; 1, 3 or 4 channels.
        num_classes: Number of classes.
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
        num_classes: Number of classes.
        vocab_size: Maximum size of the vocabulary.
        max_length: Maximum number of words per text.
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


class MLP(Model):
    """A classifier or regressor of table rows: embedded categories, scaled numbers, residual layers.

    ``evaluate`` of a regression returns the root mean squared error and the explained variance (R2).

    Args:
        regression: Whether to predict a number; by default yes if the target contains fractions.
        columns: Transforms of columns other than the default, e.g. ``{"income": "log"}``.
        network: Further params of the network, e.g. ``width=64``, ``depth=1``, ``dropout=0.3``.
    """

    kind = "rows"
    task = "tabular_classification"
    network = "mlp"

    def __init__(
        self, *, regression: bool | None = None, columns: Mapping[str, Any] | None = None, **network: Any
    ) -> None:
        super().__init__({"name": "table", "params": {"columns": dict(columns or {})}}, network, None)
        self._regression = regression

    def predict(self, inputs: Any) -> list[dict[str, Any]]:
        """Predict each row: a list of dicts by column name, or a data frame; see `Model.predict`."""
        from lepton_ai import tables

        self._ready()
        if isinstance(inputs, Mapping):
            raise ConfigError("this is one input, not a list of them.", where="inputs", fix="Write predict([...]).")
        return super().predict(tables.rows_of(inputs))

    def _task_and_steps(self, data: Part) -> tuple[str, list[dict[str, Any]]]:
        regression = data.fraction if self._regression is None else self._regression
        kind = "float" if regression else "int"
        steps = (
            [{"name": "types", "params": {"columns": {data.data.label: kind}}}] if regression != data.fraction else []
        )
        return "tabular_regression" if regression else "tabular_classification", steps

    def _check(self, labels: Sequence[str]) -> None:
        if self._regression is None and len(labels) > _MAX_CLASSES:
            raise ConfigError(
                f"the target has {len(labels)} different values.",
                where="regression",
                fix="Write MLP(regression=True) if it is a number, MLP(regression=False) if these are classes.",
            )

    def _score(self, figures: Mapping[str, float]) -> Score:
        return Score(figures["rmse"], figures["r2"]) if "rmse" in figures else super()._score(figures)


class GAN(Model):
    """A generative adversarial network: a generator of images and a critic.

    ``evaluate`` returns a Fréchet distance (0 is best) and the fraction of generated images in which a
    classifier trained on real ones recognises the requested class. ``predict`` accepts
    ``{"label": "3", "seed": 1}``; see also `draw`.

    Args:
        input_shape: ``(height, width, channels)`` of the images, in pixels; 1 or 3 channels.
        num_classes: Number of classes.
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


def load(path: str | Path) -> Any:
    """Load a model that `save` wrote, with its class; no code in the file is run.

    Raises:
        ArtifactError: the file is not a model, or its weights do not fit.
    """
    from lepton_ai import running

    name, trained = running.load(Path(path))
    if name == UseCaseModel.__name__:
        use_case_model = UseCaseModel(parse_use_case(trained.spec["use_case"], where=str(path)))
        use_case_model._trained = trained
        return use_case_model
    classes = {cls.__name__: cls for cls in (CNN, GAN, MLP, RNN)}
    if name not in classes:
        raise ArtifactError(f"holds a {name}, which is none of {', '.join(classes)}.", where=str(path))
    model = classes[name]
    instance = model.__new__(model)
    spec = trained.spec
    Model.__init__(instance, spec["use_case"]["features"], spec["model"]["params"], len(spec["labels"]))
    if isinstance(instance, MLP):
        instance._classes, instance._regression = None, spec["task"]["name"] == "tabular_regression"
    instance._task_params = spec["task"]["params"]
    instance.network = spec["model"]["name"]
    instance._trained = trained
    return instance
