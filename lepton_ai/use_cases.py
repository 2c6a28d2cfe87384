"""Models of use cases, for every learning task, with data and settings from a YAML file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lepton_ai.base import Trained

if TYPE_CHECKING:
    from lepton_tasks.core.use_case import UseCase


class UseCaseModel(Trained):
    """The model of a use case; `tune` and `compress` are left to ``lepton run``.

    Args:
        use_case: Defines data, features, network and training.
    """

    def __init__(self, use_case: UseCase) -> None:
        super().__init__()
        self.use_case = use_case.model_copy(update={"tune": None, "compress": None})

    def __repr__(self) -> str:
        state = "not trained" if self._trained is None else "trained"
        return f"<{type(self).__name__} {self.use_case.name}, {state}>"

    def fit(self) -> UseCaseModel:
        """Prepare the data and train, with progress on the terminal.

        Raises:
            ConfigError: the use case only prepares data, or a setting is wrong.
            LeptonError: the data cannot be used, or the training failed; the message contains the fix.
        """
        from lepton_ai import running
        from lepton_tasks.core.components import check_params_of

        _ = self.use_case.learning_task
        check_params_of(self.use_case, where=f"{self.use_case.name}.yaml")
        self._trained, self.history = running.fit(self.use_case, self.use_case.seed, lambda labels: None)
        return self

    def evaluate(self) -> dict[str, float]:
        """Metrics of the learning task on the test split; raises `ConfigError` if the model is not trained."""
        from lepton_ai import running

        return running.evaluate(self.use_case, self._ready())


def from_use_case(path: str | Path, overrides: Mapping[str, Any] | None = None) -> UseCaseModel:
    """The model of a use case, not trained yet.

    Args:
        path: A YAML file, e.g. ``configs/use_cases/wine.yaml``.
        overrides: Dotted keys and their values, e.g. ``{"train.epochs": 3}``.

    Raises:
        ConfigError: with file, key and value.
    """
    from lepton_tasks.core.use_case_file import load_use_case

    return UseCaseModel(load_use_case(Path(path).expanduser(), overrides))
