"""Features `visits`: interaction histories for next-item recommendation."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
import pydantic

from lepton_tasks.data.extractors.interactions import Interactions
from lepton_tasks.data.requests import select_rows
from lepton_tasks.data.tables.rows import TableRows


@dataclasses.dataclass(frozen=True)
class Visits(Interactions):
    """Like `interactions`; a request contains a user and the user's recent items.

    Args:
        recent: Number of recent items used, the latest ones.
    """

    recent: Annotated[int, pydantic.Field(ge=1, le=200)] = 10

    def codec(self, fitted: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
        """`VisitorCodec` with the fitted users and items."""
        names = {"users": fitted["users"], "items": fitted["items"]}
        return "visitor", {"user": self.user, "recent": self.recent, **names}

    def requests(self, rows: TableRows, numbers: np.ndarray, fitted: Mapping[str, Any]) -> list[bytes]:
        """The user of each row, with the row's item as the recent item."""
        found = select_rows(rows.select([self.user, self.item]), numbers)
        return [
            json.dumps({self.user: user, "recent": [item]}, ensure_ascii=False).encode()
            for user, item in found.select(self.user, self.item).iter_rows()
        ]
