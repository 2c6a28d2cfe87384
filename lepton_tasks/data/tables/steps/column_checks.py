"""Check that columns exist and have suitable types."""

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
    """Raise `ConfigError` for a missing column or an unsuitable type.

    Args:
        names: The columns to check.
        schema: The columns of the table.
        where: The parameter that names them, for the message.
        suits: Whether a type is suitable.
        wanted: Description of suitable types, for the message.
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
