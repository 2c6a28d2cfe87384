"""Features `content`: user-item interactions with item texts."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any

import polars as pl
import pydantic

from lepton_tasks.core.context import RunContext
from lepton_tasks.core.errors import ConfigError
from lepton_tasks.data.extractors.visits import Visits
from lepton_tasks.data.tables.rows import TableRows
from lepton_tasks.data.tables.steps.column_checks import check_columns

_WORD = r"[\p{L}\p{N}]+"


@dataclasses.dataclass(frozen=True)
class Content(Visits):
    """Like `visits`, with items described by their texts.

    Args:
        text: Text columns about the item; the first is its title.
        min_items: Minimum number of items with a word; rarer words carry no similarity.
        most_words: Maximum number of words per item, the rarest ones.
    """

    text: tuple[str, ...] = ()
    min_items: Annotated[int, pydantic.Field(ge=1)] = 2
    most_words: Annotated[int, pydantic.Field(ge=1, le=256)] = 24

    def check(self, schema: Mapping[str, pl.DataType], label: str | None) -> None:
        """Like `Visits`, and for a missing text column."""
        super().check(schema, label)
        if not self.text:
            raise ConfigError("no column of text is named.", where="text", fix="For example `text: [title, genres]`.")
        check_columns(self.text, schema, where="text", suits=lambda dtype: dtype == pl.String, wanted="text")

    def fit(self, rows: TableRows, ctx: RunContext) -> dict[str, Any]:
        """Like `Interactions`, with ``words`` of all items, their ``weights`` (idf), ``item_words`` and ``titles``.

        ``item_words`` are 1-based indices into the words, per item; weights are ln((1 + N) / (1 + items)) + 1.
        """
        fitted = super().fit(rows, ctx)
        parts = rows.select([self.item, *self.text]).map(self._described, ctx, unit="interactions")
        described = pl.concat(parts).unique("item", keep="first", maintain_order=True)
        items = pl.DataFrame({"item": fitted["items"]}, schema={"item": pl.String})
        described = items.join(described, on="item", how="left", maintain_order="left")
        words = described.select("item", word=_words(self.text)).explode("word").unique(maintain_order=True)
        known = words.drop_nulls().group_by("word").agg(count=pl.len()).filter(pl.col("count") >= self.min_items)
        known = known.sort("count", "word", descending=[True, False]).with_row_index("number", offset=1)
        known = known.with_columns(weight=((1 + len(items)) / (1 + pl.col("count"))).log() + 1)
        numbers = words.join(known, on="word").sort("number", descending=True)
        of_items = numbers.group_by("item", maintain_order=True).agg(pl.col("number").head(self.most_words))
        of_items = items.join(of_items, on="item", how="left", maintain_order="left")
        return fitted | {
            "words": known["word"].to_list(),
            "weights": known["weight"].to_list(),
            "item_words": of_items["number"].fill_null([]).to_list(),
            "titles": described[self.text[0]].fill_null("").to_list(),
        }

    def _described(self, rows: pl.DataFrame) -> pl.DataFrame:
        return rows.select(pl.col(self.item).cast(pl.String).alias("item"), *self.text).unique("item", keep="first")


def _words(columns: tuple[str, ...]) -> pl.Expr:
    return pl.concat_str(columns, separator=" ", ignore_nulls=True).str.to_lowercase().str.extract_all(_WORD)
