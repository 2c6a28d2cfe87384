"""Base classes of all models: `fit`, `evaluate`, `predict`, `save` and `export` run the stages of a use case."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from lepton_tasks.core.errors import ConfigError

if TYPE_CHECKING:
    from lepton_ai.datasets import Part
    from lepton_tasks.core.use_case import UseCase
    from lepton_tasks.training.checkpoint import Checkpoint


_EXAMPLES = {
    "pictures": "ImageFolder.split('photos')",
    "texts": "Texts.split('reviews.csv')",
    "rows": "Table.split(frame, target='price')",
}


class Score(NamedTuple):
    """A model's score on unseen data."""

    loss: float
    """Loss, lower is better, e.g. the mean negative log-likelihood in nats."""
    metric: float
    """Metric, higher is better, e.g. accuracy."""


class Trained:
    """Methods of a trained model, independent of its data."""

    def __init__(self) -> None:
        self._trained: Checkpoint | None = None
        self.history: list[dict[str, Any]] = []
        """One row per epoch: losses, validation metrics, learning rate, samples/s, seconds."""

    def predict(self, inputs: Sequence[Any]) -> list[dict[str, Any]]:
        """Predict each input; predictions have the format of the endpoint.

        Args:
            inputs: A list of encoded samples (bytes), file paths, images (PIL, or NumPy uint8 [H, W] or [H, W, C]),
                texts, or JSON values in the format of the endpoint.

        Raises:
            ConfigError: the model is not trained, or `inputs` is not a list.
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
        """Write the model package that ``lepton serve FOLDER`` serves; its metrics are those of the test rows.

        Args:
            folder: Output folder; an existing package in it is replaced.
            name: Name of the served model; default the folder's.
            title: Title of the model card.
            description: Intended use, for the model card; Markdown.

        Raises:
            ConfigError: the model is not trained, its data have changed, or the folder or the name cannot be used.
            GateError: ONNX Runtime's outputs differ from the trained network's.
        """
        from lepton_ai import packaging

        about = {"title": title, "description": description}
        return packaging.export(self._ready(), Path(folder), name=name, about=about)

    def _ready(self) -> Checkpoint:
        if self._trained is None:
            raise ConfigError("the model is not trained yet.", where=type(self).__name__, fix="Call fit, or load one.")
        return self._trained


class Model(Trained):
    """Base class of all models.

    Args:
        features: The feature extractor and its params.
        network: Params of the network.
        num_classes: Number of classes; None for any number.
    """

    kind: ClassVar[str]
    """Kind of data: ``pictures``, ``texts`` or ``rows``."""
    task: ClassVar[str]
    network: str
    figures: ClassVar[tuple[str, str]] = ("loss", "accuracy")
    """The learning task's metrics that `evaluate` returns."""

    def __init__(self, features: dict[str, Any], network: dict[str, Any], num_classes: int | None) -> None:
        super().__init__()
        self._features, self._params, self._classes = features, network, num_classes
        self._task_params: dict[str, Any] = {}

    def __repr__(self) -> str:
        state = "not trained" if self._trained is None else "trained"
        classes = "" if self._classes is None else f" for {self._classes} classes"
        return f"<{type(self).__name__}{classes}, {state}>"

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
        """Train from new weights, with progress on the terminal; keep the best epoch on the validation rows.

        Args:
            data: The training part.
            epochs: Maximum number of epochs.
            batch_size: Samples per step.
            learning_rate: Peak learning rate.
            seed: Seed of weights and shuffling.
            train: Further keys of a use case's ``train`` section, e.g. ``augment=["flip"]``, ``devices=2``.

        Raises:
            LeptonError: the data cannot be used, or the training failed; the message contains the fix.
        """
        from lepton_ai import running

        if _part(data, self.kind).test:
            raise ConfigError("this is the test part.", where=data.name, fix="Take the training part.")
        settings = {"epochs": epochs, "batch_size": batch_size, "learning_rate": learning_rate, **train}
        self._trained, self.history = running.fit(self._use_case(data, settings), seed, self._check)
        return self

    def evaluate(self, data: Part) -> Score:
        """Loss and main metric on a data set's test part, with predictions as in serving.

        Raises:
            ConfigError: the model is not trained, or it was trained on some of the data.
        """
        from lepton_ai import running

        if not _part(data, self.kind).test:
            raise ConfigError("this is the training part.", where=data.name, fix="Take the test part.")
        trained = self._ready()
        _check_unseen(data, trained.spec["use_case"])
        figures = running.evaluate(self._use_case(data, {}), trained)
        return self._score(figures)

    def _score(self, figures: Mapping[str, float]) -> Score:
        return Score(*(figures[name] for name in self.figures))

    def _use_case(self, data: Part, train: dict[str, Any]) -> UseCase:
        from lepton_tasks.core.use_case import parse_use_case

        if data.kind != self.kind:
            raise ConfigError(
                f"{type(self).__name__} takes {self.kind}, not {data.kind}.",
                where=data.name,
                fix=f"E.g. `train, test = {_EXAMPLES[self.kind]}`.",
            )
        task, steps = self._task_and_steps(data)
        raw = {
            "name": f"sdk_{re.sub('[^a-z0-9]', '_', data.name.lower())}"[:63],
            "task": {"name": task, "params": self._task_params},
            "data": data.data.model_dump(),
            "clean": [*(step.model_dump() for step in data.clean), *steps],
            "features": {**self._features, "params": self._features["params"] | data.features},
            "model": {"name": self.network, "params": self._params},
            "train": train,
            "seed": data.seed,
        }
        return parse_use_case(raw, where=type(self).__name__)

    def _task_and_steps(self, data: Part) -> tuple[str, list[dict[str, Any]]]:
        """The learning task and its cleaning steps."""
        return self.task, []

    def _check(self, labels: Sequence[str]) -> None:
        """Raise `ConfigError` if the number of classes differs from the model's."""
        if self._classes is not None and len(labels) != self._classes:
            raise ConfigError(
                f"the data have {len(labels)} classes: {', '.join(labels)}.",
                where="num_classes",
                fix=f"Write num_classes={len(labels)}.",
            )


def _part(data: Any, kind: str) -> Part:
    """Return `data`; raise `ConfigError` if it is not a `Part`."""
    from lepton_ai.datasets import Part

    if not isinstance(data, Part):
        raise ConfigError(
            f"expected a part of a data set, not a {type(data).__name__}.",
            where="data",
            fix=f"Take one of `train, test = {_EXAMPLES[kind]}`, or another of lepton_ai.datasets.",
        )
    return data


def _check_unseen(data: Part, trained_case: Mapping[str, Any]) -> None:
    """Raise `ConfigError` if the data are split differently from the training data, so that they overlap.

    Args:
        data: The test part.
        trained_case: The use case of the training.
    """
    current = data.data.model_dump(mode="json")
    same = trained_case["data"] == current and trained_case["seed"] == data.seed
    if trained_case["data"]["source"] == current["source"] and not same:
        raise ConfigError(
            "the model has learned from some of these rows: it was fitted on another split of the same data.",
            where=data.name,
            fix="Take the test part of the same split "
            f"(seed={trained_case['seed']}, test={trained_case['data']['split']['test']:g}).",
        )
