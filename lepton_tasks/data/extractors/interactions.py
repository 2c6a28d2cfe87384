"""Features `interactions`: user-item index pairs, with negative sampling."""

from __future__ import annotations

import base64
import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import polars as pl
import pydantic

from lepton_tasks.codecs.interactions import UNKNOWN
from lepton_tasks.core.context import RunContext
from lepton_tasks.core.errors import ConfigError, DataError
from lepton_tasks.core.use_case import Expectation
from lepton_tasks.data.extractors.expectations import PAIRS
from lepton_tasks.data.requests import json_request, select_rows
from lepton_tasks.data.tables.arrays import ArrayFile
from lepton_tasks.data.tables.rows import ROW, TableRows
from lepton_tasks.data.tables.steps.column_checks import check_columns

_DRAWS = 20  # attempts; a user with 90 % of the items then lacks a negative with probability 1/8


@dataclasses.dataclass(frozen=True)
class Interactions:
    """Users and items as indices fitted on the training split; 0 for unknown ones.

    Args:
        user: User column: text or integers.
        item: Item column: text or integers.
        rating: Column of ratings or weights; null for implicit feedback.
        time: Time column, stored with the pairs.
        negatives: Negative items sampled per row; 0 for none.
    """

    user: str
    item: str
    rating: str | None = None
    time: str | None = None
    negatives: Annotated[int, pydantic.Field(ge=0, le=1_000)] = 0

    @staticmethod
    def expectations(stage: Literal["raw", "features"]) -> Sequence[Expectation]:
        """Default expectations of these features."""
        return PAIRS[stage]

    def check(self, schema: Mapping[str, pl.DataType], label: str | None) -> None:
        """Raise `ConfigError` for a missing column, an unsuitable type, or a label."""
        check_columns(
            [self.user, self.item],
            schema,
            where="user, item",
            suits=lambda dtype: dtype == pl.String or dtype.is_integer(),
            wanted="text or whole numbers",
        )
        if self.rating is not None:
            check_columns(
                [self.rating], schema, where="rating", suits=lambda dtype: dtype.is_numeric(), wanted="numbers"
            )
        if self.time is not None:
            check_columns([self.time], schema, where="time", suits=lambda dtype: dtype.is_temporal(), wanted="times")
        if label is not None:
            raise ConfigError(
                f"the features `interactions` learn {self.rating or 'which item comes'!r}, not a label.",
                where="data.label",
                fix="Set `label: null`.",
            )

    def fit(self, rows: TableRows, ctx: RunContext) -> dict[str, Any]:
        """Users, items by popularity, their counts, the mean rating, and the user-item pairs."""
        chosen = rows.select(self._columns)
        parts = chosen.map(functools.partial(_counted, self), ctx, unit="interactions")
        pairs = pl.concat(parts).group_by("user", "item").agg(pl.col("count", "sum").sum(), pl.col("time", "row").max())
        pairs = pairs.sort("user", "time", "row")
        users = pairs["user"].unique().sort()
        popularity = pairs.group_by("item").agg(pl.col("count").sum()).sort("count", "item", descending=[True, False])
        items = popularity["item"]
        total = int(pairs["count"].sum())
        fitted = {
            "users": users.to_list(),
            "items": items.to_list(),
            "popularity": popularity["count"].to_list(),
            "mean_rating": float(pairs["sum"].sum()) / total if self.rating else None,
        }
        indices = pairs.select(_number("user", users), _number("item", items))  # pairs are sorted by user
        return fitted | {"seen": _stored_pairs(indices["user"].to_numpy(), indices["item"].to_numpy())}

    def transform(self, rows: TableRows, fitted: Mapping[str, Any], folder: Path, ctx: RunContext) -> dict[str, Any]:
        """Write one split, one row per interaction.

        ``inputs.npy``, int32 [N, 2], 1-based indices of user and item, 0 if unknown in training; ``targets.npy``,
        float32 [N], the rating, or 1; ``times.npy``, int64 [N], seconds since 1970, if `time` is set;
        ``negatives.npy``, int32 [N, negatives], items without interaction with the user in training and this split,
        sampled uniformly with the seed of the run, and 0 if none was found in 20 attempts.
        """
        task = functools.partial(
            _numbered, self, pl.Series(fitted["users"], dtype=pl.String), pl.Series(fitted["items"], dtype=pl.String)
        )
        found = pl.concat(rows.select(self._columns).map(task, ctx, unit="interactions"))
        arrays = {"inputs": found.select("user", "item").to_numpy(), "targets": found["target"].to_numpy()}
        if self.time is not None:
            arrays["times"] = found["time"].to_numpy()
        if self.negatives:
            items = len(fitted["items"])
            pairs = np.concatenate([arrays["inputs"], np.stack(seen_pairs(fitted), axis=1)])
            seen = np.unique(codes_of(pairs[:, 0], pairs[:, 1], items))
            users = arrays["inputs"][:, 0]
            arrays["negatives"] = draw_negatives(users, seen, items=items, count=self.negatives, seed=ctx.seed)
        for name, values in arrays.items():
            with ArrayFile(folder / f"{name}.npy", values.dtype, values.shape[1:]) as file:
                file.append(values)
        return {"rows": found.height, "bytes": sum(values.nbytes for values in arrays.values())}

    def codec(self, fitted: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
        """`InteractionCodec` with the fitted users and items."""
        names = {"users": fitted["users"], "items": fitted["items"]}
        return "interaction", {"user": self.user, "item": self.item, **names}

    def requests(self, rows: TableRows, numbers: np.ndarray, fitted: Mapping[str, Any]) -> list[bytes]:
        """The user and the item of each row."""
        names = [self.user, self.item]
        return [json_request(row, names) for row in select_rows(rows.select(names), numbers).iter_rows(named=True)]

    @property
    def _columns(self) -> list[str]:
        return list(dict.fromkeys(n for n in (self.user, self.item, self.rating, self.time) if n is not None))


def seen_pairs(fitted: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """User and item indices of the training pairs, int32, by user, latest last."""
    users, items = (np.frombuffer(base64.b64decode(fitted["seen"][name]), "<i4") for name in ("users", "items"))
    return users, items


def draw_negatives(users: np.ndarray, seen: np.ndarray, *, items: int, count: int, seed: int) -> np.ndarray:
    """Sample items without interaction per row, int32 [N, count]; 0 if none was found.

    Args:
        users: User index of each row.
        seen: Sorted codes ``user * (items + 1) + item`` of excluded pairs.
        items: Number of items; indices start at 1.
        count: Samples per row.
        seed: Random seed.
    """
    random = np.random.Generator(np.random.PCG64(seed))
    drawn = np.zeros((len(users), count), np.int32)
    if not items or not len(seen):
        return drawn
    missing = np.flatnonzero(drawn.ravel() == 0)
    for _ in range(_DRAWS):
        candidates = random.integers(1, items + 1, len(missing), dtype=np.int32)
        codes = codes_of(users[missing // count], candidates, items)
        free = seen[np.minimum(np.searchsorted(seen, codes), len(seen) - 1)] != codes
        drawn.ravel()[missing[free]] = candidates[free]
        missing = missing[~free]
        if not len(missing):
            break
    return drawn


def codes_of(users: np.ndarray, items: np.ndarray, count: int) -> np.ndarray:
    """A unique int64 code per user-item pair: ``user * (count + 1) + item``, for `count` items."""
    codes: np.ndarray = users.astype(np.int64) * (count + 1) + items
    return codes


def _stored_pairs(users: np.ndarray, items: np.ndarray) -> dict[str, str]:
    pairs = {"users": users, "items": items}
    return {name: base64.b64encode(values.astype("<i4").tobytes()).decode() for name, values in pairs.items()}


def _counted(features: Interactions, rows: pl.DataFrame) -> pl.DataFrame:
    """Count, rating sum and last time of each user-item pair of a part."""
    _check_ratings(features, rows)
    named = rows.select(
        user=pl.col(features.user).cast(pl.String),
        item=pl.col(features.item).cast(pl.String),
        sum=pl.col(features.rating).cast(pl.Float64) if features.rating else pl.lit(1.0),
        time=pl.col(features.time).cast(pl.Datetime("us")) if features.time else pl.lit(None, pl.Datetime("us")),
        row=pl.col(ROW),
    )
    named = named.drop_nulls(["user", "item"])
    return named.group_by("user", "item", maintain_order=True).agg(
        pl.len().cast(pl.Int64).alias("count"), pl.col("sum").sum(), pl.col("time", "row").max()
    )


def _number(column: str, known: pl.Series) -> pl.Expr:
    """The 1-based index of a name; `UNKNOWN` for unknown names."""
    numbers = pl.int_range(1, len(known) + 1, dtype=pl.Int32, eager=True)
    name = pl.col(column).cast(pl.String)
    return name.replace_strict(known, numbers, default=UNKNOWN, return_dtype=pl.Int32).alias(column)


def _check_ratings(features: Interactions, rows: pl.DataFrame) -> None:
    """Raise `DataError` for missing or non-finite ratings."""
    if features.rating is None:
        return
    ratings = rows[features.rating].cast(pl.Float64)
    if none := len(ratings) - int(ratings.is_finite().sum()):
        raise DataError(
            f"{none:,} of {len(ratings):,} interactions have no {features.rating!r}, or one that is not finite.",
            where="features.params.rating",
            fix=f"Reject them in `clean`: `{{name: missing, params: {{columns: [{features.rating}]}}}}`, or `ranges`.",
        )


def _numbered(features: Interactions, users: pl.Series, items: pl.Series, rows: pl.DataFrame) -> pl.DataFrame:
    _check_ratings(features, rows)
    columns = {
        "user": _number(features.user, users),
        "item": _number(features.item, items),
        "target": pl.col(features.rating).cast(pl.Float32) if features.rating else pl.lit(1.0, pl.Float32),
    }
    if features.time is not None:
        columns["time"] = pl.col(features.time).cast(pl.Datetime("us")).dt.epoch("s")
    return rows.select(**columns)
