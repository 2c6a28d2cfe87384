"""Build and check the cleaning steps of a table use case."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import polars as pl

from lepton_tasks.core.catalogue import TABLE_STEPS
from lepton_tasks.core.errors import ConfigError
from lepton_tasks.core.spec import ComponentSpec
from lepton_tasks.core.use_case import UseCase
from lepton_tasks.data.tables.rows import visible

Kind = Literal["row", "key", "whole", "fitted"]


@dataclasses.dataclass(frozen=True)
class NamedStep:
    """One cleaning step.

    Attributes:
        code: Its position in the use case, from 1; the code of its rejected rows in ``refused.npy``.
        spec: Name and params.
        step: The step itself.
    """

    code: int
    spec: ComponentSpec
    step: Any

    @property
    def kind(self) -> Kind:
        """The protocol that the step implements."""
        if hasattr(self.step, "fit"):
            return "fitted"
        return "key" if hasattr(self.step, "keys") else "whole" if hasattr(self.step, "apply") else "row"


def steps_of(use_case: UseCase) -> list[NamedStep]:
    """Build the cleaning steps of a use case."""
    return [
        NamedStep(
            code, spec, TABLE_STEPS.build(spec.name, spec.params, where=f"{use_case.name}.yaml: clean.{code - 1}")
        )
        for code, spec in enumerate(use_case.clean, start=1)
    ]


def check_steps(steps: Sequence[NamedStep], schema: Mapping[str, pl.DataType], *, where: str) -> None:
    """Check each step against the schema after the preceding steps.

    Raises:
        ConfigError: naming the step and the column.
    """
    for step in steps:
        try:
            step.step.check(schema)
        except ConfigError as error:
            key = f"{where}: clean.{step.code - 1}.{step.spec.name}"
            raise ConfigError(error.what, where=f"{key}.{error.where}".rstrip("."), fix=error.fix) from error
        if step.kind == "row":
            changed = step.step.change(pl.LazyFrame(schema=schema)).collect_schema()
            schema = visible(changed)
