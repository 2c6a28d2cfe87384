"""Build the Dags of a folder of use cases: for each file one that runs it, and one that monitors its model."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from airflow.sdk import DAG

from lepton_airflow.dag import build_dag
from lepton_airflow.watch import build_watch
from lepton_tasks.core.errors import ConfigError, LeptonError
from lepton_tasks.core.use_case_file import load_use_case


@dataclasses.dataclass(frozen=True)
class Dags:
    """The Dags of a folder of use cases, and the errors of files that produced none."""

    dags: tuple[DAG, ...]
    errors: tuple[LeptonError, ...]

    def raise_errors(self) -> None:
        """Raise one `ConfigError` with all errors, if there are any."""
        if self.errors:
            raise ConfigError("\n".join(str(error) for error in self.errors))


def use_case_folder(dag_file: str) -> Path:
    """``configs/use_cases`` of the project with `dag_file` in its ``dags`` folder."""
    return Path(dag_file).absolute().parents[1] / "configs" / "use_cases"


def build_dags(folder: Path) -> Dags:
    """Build the Dags of all YAML files in a folder; an invalid file does not affect the others."""
    dags: list[DAG] = []
    errors: list[LeptonError] = []
    for path in sorted(folder.glob("*.yaml")):
        try:
            use_case = load_use_case(path)
            dags += [dag for dag in (build_dag(path, use_case), build_watch(path, use_case)) if dag is not None]
        except LeptonError as error:
            errors.append(error)
    return Dags(tuple(dags), tuple(errors))
