"""Resolve the columns a step applies to, and report missing ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import polars as pl

from lepton_tasks.core.errors import ConfigError
from lepton_tasks.core.registry import did_you_mean


def check_columns(
    names: Sequence[str],
    schema: Mapping[str, pl.DataType],
    *,
    where: str = "columns",
    suits: Callable[[pl.DataType], bool] = lambda dtype: True,
    wanted: str = "",
) -> None:
    """Raise `ConfigError` for a column that is missing, or whose type does not suit.

    Args:
        names: The columns a step was given.
        schema: The columns of the table.
        where: The step's parameter.
        suits: Whether a type will do.
        wanted: What will do, for people.
    """
    for name in names:
        if name not in schema:
            raise ConfigError(f"the table has no column {name!r}.", where=where, fix=did_you_mean(name, schema))
        if not suits(schema[name]):
            raise ConfigError(
                f"the column {name!r} holds {schema[name]}, not {wanted}.",
                where=where,
                fix="Name another column, or convert it first with the step `types`.",
            )
