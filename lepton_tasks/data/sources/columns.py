"""One schema for all files of a table: inferred or declared types, and text conversion."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import polars as pl

from lepton_tasks.core.errors import ConfigError, DataError
from lepton_tasks.core.registry import did_you_mean

TypeName = Literal["int", "float", "bool", "text", "date", "datetime"]

TYPES: dict[str, pl.DataType] = {
    "int": pl.Int64(),
    "float": pl.Float64(),
    "bool": pl.Boolean(),
    "text": pl.String(),
    "date": pl.Date(),
    "datetime": pl.Datetime("us"),
}
Schema = dict[str, pl.DataType]

REJECTED_LINES: Schema = {"line": pl.Int64(), "text": pl.String(), "reason": pl.String()}
"""Schema of unreadable lines."""

_TRUE, _FALSE = ("true", "t", "yes", "y", "1"), ("false", "f", "no", "n", "0")
_WHOLE = r"^[+-]?\d+$"
_ZERO_FIRST = r"^[+-]?0\d"
_LOCAL = ("%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M", "%Y-%m-%dT%H:%M")
_TIMES = (*_LOCAL, "%Y-%m-%d", *(f"{form}%#z" for form in _LOCAL))  # with Z, +01, +01:00 or +0100 last


def type_name(dtype: pl.DataType) -> str:
    """Name of a type in YAML, or else Polars' name."""
    return next((name for name, known in TYPES.items() if known == dtype), str(dtype))


def parsed(column: str, dtype: pl.DataType) -> pl.Expr:
    """Parse texts as one of `TYPES`; null for invalid ones."""
    text = pl.col(column)
    if dtype == pl.String:
        return text
    text = text.str.strip_chars()
    if dtype == pl.Boolean:
        low = text.str.to_lowercase()
        return pl.when(low.is_in(_TRUE)).then(pl.lit(value=True)).when(low.is_in(_FALSE)).then(pl.lit(value=False))
    if dtype == pl.Date:
        return text.str.to_date("%Y-%m-%d", strict=False)
    if dtype == pl.Datetime("us"):
        return text.map_batches(_times, return_dtype=dtype, is_elementwise=True)
    return text.cast(dtype, strict=False)


def _times(texts: pl.Series) -> pl.Series:
    """Parse UTC times in any of the formats `_TIMES`, each tried on the texts that the previous ones do not match."""
    times = pl.Series(texts.name, [None], pl.Datetime("us")).new_from_index(0, len(texts))
    for form in _TIMES:
        unparsed = (times.is_null() & texts.is_not_null()).arg_true()
        if not len(unparsed):
            break
        found = texts.gather(unparsed).str.to_datetime(form, strict=False, time_unit="us").dt.replace_time_zone(None)
        times = found if len(unparsed) == len(times) else times.scatter(unparsed, found)
    return times


def inferred(texts: pl.Series) -> pl.DataType:
    """The narrowest type that represents all texts without loss; `pl.Null` without values.

    Integers with leading zeros or more than 64 bits stay text: they are codes, and would lose digits.
    """
    values = texts.drop_nulls().unique().str.strip_chars().to_frame("value")
    text = values["value"]
    if not len(text):
        return pl.Null()
    if text.str.contains(_WHOLE).all():
        fits = not text.str.contains(_ZERO_FIRST).any() and not text.cast(pl.Int64, strict=False).has_nulls()
        return pl.Int64() if fits else pl.String()
    if text.str.contains(_ZERO_FIRST + r"*$").any():
        return pl.String()
    if text.str.to_lowercase().is_in(["true", "false"]).all():
        return pl.Boolean()
    for dtype in (pl.Float64(), pl.Date(), pl.Datetime("us")):
        if not values.select(parsed("value", dtype)).to_series().has_nulls():
            return dtype
    return pl.String()


def widened(one: pl.DataType, other: pl.DataType) -> pl.DataType | None:
    """The common type of both by implicit conversion; None if there is none."""
    if one == other or other == pl.Null:
        return one
    if one == pl.Null:
        return other
    if one.is_numeric() and other.is_numeric() and not (one.is_decimal() or other.is_decimal()):
        return pl.Int64() if one.is_integer() and other.is_integer() else pl.Float64()
    return None


def common_schema(
    samples: Iterable[tuple[str, Mapping[str, pl.DataType]]],
    declared: Mapping[str, TypeName],
    *,
    optional: bool = False,
    fix: str = "Declare it: `types: {{{column}: {name}}}` in `data.source.params`.",
) -> Schema:
    """The common columns and types of all files, in the order of the first.

    Args:
        samples: Address and schema of each file.
        declared: Types declared by the user; they take precedence.
        optional: Whether a column may be missing in a file.
        fix: Advice if files disagree.

    Raises:
        DataError: a column is missing in a file, or two files disagree on its type.
        ConfigError: a declared column is in no file.
    """
    found: dict[str, tuple[str, pl.DataType]] = {}
    first: tuple[str, Mapping[str, pl.DataType]] | None = None
    for address, schema in samples:
        if first is not None and not optional:
            _check_names(first, (address, schema))
        first = first or (address, schema)
        for column, dtype in schema.items():
            if column in declared:
                found[column] = (address, TYPES[declared[column]])
                continue
            seen_in, seen = found.get(column, (address, dtype))
            wide = widened(seen, dtype)
            if wide is None:
                raise DataError(
                    f"column {column!r} holds {type_name(dtype)} here, but {type_name(seen)} in {seen_in}.",
                    where=address,
                    fix=fix.format(column=column, name="text"),
                )
            # Remember the first file with the current type, for messages.
            found[column] = (seen_in if wide == seen else address, wide)
    for column in declared:
        if column not in found:
            raise ConfigError(
                f"no column {column!r}.", where=f"data.source.params.types.{column}", fix=did_you_mean(column, found)
            )
    schema = {column: pl.String() if dtype == pl.Null else dtype for column, (_, dtype) in found.items()}
    check_reserved(schema, first[0] if first else "")
    return schema


def _check_names(one: tuple[str, Mapping[str, Any]], other: tuple[str, Mapping[str, Any]]) -> None:
    for (has, names), (lacks, others) in ((one, other), (other, one)):
        if lost := [name for name in names if name not in others]:
            raise DataError(
                f"no column {lost[0]!r}, which {has} has.",
                where=lacks,
                fix="All files of a table have the same columns: remove the odd one, or read it separately.",
            )


def check_reserved(names: Iterable[str], address: str) -> None:
    """Raise `DataError` for an empty or reserved name."""
    for number, name in enumerate(names, 1):
        if not name.strip():
            raise DataError(
                f"column {number} has no name, as the index that pandas writes, or what follows a last delimiter.",
                where=address,
                fix="Name it in the file, or write the file without it (pandas: `index=False`).",
            )
        if name == "_row" or name.startswith("__"):
            raise DataError(
                f"the column name {name!r} is reserved.",
                where=address,
                fix="Rename it in the file, or write the file without it (an index of pandas: `index=False`).",
            )


def typed(texts: pl.DataFrame, schema: Schema) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Convert text columns to the schema; also returns ``index: uint32, reason: str`` of rows with invalid values.

    Columns that already have their type are unchanged.
    """
    wrong = {name: f"__wrong_{i}" for i, name in enumerate(schema) if schema[name] != texts.schema[name]}
    values = texts.with_columns(
        *(parsed(name, schema[name]).alias(f"__new_{i}") for i, name in enumerate(schema) if name in wrong)
    )
    values = values.with_columns(
        *(
            (pl.col(name).is_not_null() & pl.col(f"__new_{i}").is_null()).alias(f"__wrong_{i}")
            for i, name in enumerate(schema)
            if name in wrong
        )
    )
    rows = values.select(
        pl.col(f"__new_{i}").alias(name) if name in wrong else pl.col(name) for i, name in enumerate(schema)
    )
    bad = [flag for flag in wrong.values() if values[flag].any()]
    if not bad:
        return rows, pl.DataFrame(schema={"index": pl.UInt32, "reason": pl.String})
    reasons = [
        pl.when(flag).then(
            pl.concat_str(
                pl.lit(f"column {name!r}: '"),
                pl.col(name).str.slice(0, 80),
                pl.lit(f"' is not {type_name(schema[name])}"),
            )
        )
        for name, flag in wrong.items()
        if flag in bad
    ]
    refused = (
        values.with_row_index("index")
        .filter(pl.any_horizontal(bad))
        .select("index", pl.coalesce(reasons).alias("reason"))
    )
    return rows.filter(~values.select(pl.any_horizontal(bad)).to_series()), refused


def rejections(lines: Sequence[tuple[int | None, str, str]]) -> pl.DataFrame:
    """A frame of `REJECTED_LINES`."""
    return pl.DataFrame(lines, schema=REJECTED_LINES, orient="row")
