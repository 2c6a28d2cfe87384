"""Input codecs of recommenders: user and item names -> indices, identical in training and serving."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import numpy as np

from lepton_tasks.codecs.fields import Field
from lepton_tasks.codecs.json_rows import JsonRequests, json_object
from lepton_tasks.core.errors import DataError
from lepton_tasks.core.registry import did_you_mean

UNKNOWN = 0
"""Index of a user or item that is not in the training data."""


@dataclasses.dataclass(frozen=True)
class InteractionCodec(JsonRequests):
    """A user and an item: ``{"<user>": 7, "<item>": "b-12"}``; indices start at 1.

    Args:
        user: Name of the user's field.
        item: Name of the item's field.
        users: Known users by index.
        items: Known items by index, most popular first.
    """

    user: str
    item: str
    users: list[str]
    items: list[str]

    def decode(self, payload: bytes) -> np.ndarray:
        """Indices of user and item, int32 [2], 0 if unknown; raises `DataError` if one is missing."""
        request = json_object(payload)
        for name in (self.user, self.item):
            if isinstance(request.get(name), bool) or not isinstance(request.get(name), str | int):
                raise DataError(f"{name!r} is missing, or neither text nor a whole number.")
        users, items = self._indices
        pair = (users.get(str(request[self.user]), UNKNOWN), items.get(str(request[self.item]), UNKNOWN))
        return np.array(pair, np.int32)

    def fields(self) -> list[Field]:
        """User and item; the choices are those of the training data."""
        return [
            Field(self.user, "text", required=True, choices=tuple(self.users)),
            Field(self.item, "text", required=True, choices=tuple(self.items)),
        ]

    def observe(self, payload: bytes, sample: np.ndarray) -> dict[str, Any]:
        """Whether user and item are in the training data, 0 or 1."""
        return {"user_known": int(sample[0] != UNKNOWN), "item_known": int(sample[1] != UNKNOWN)}

    @functools.cached_property
    def _indices(self) -> tuple[dict[str, int], dict[str, int]]:
        return _index_by_name(self.users), _index_by_name(self.items)


@dataclasses.dataclass(frozen=True)
class VisitorCodec(JsonRequests):
    """A user and recent items: ``{"<user>": 7, "recent": ["b-12", "a-3"]}``.

    Both may be omitted: an anonymous visitor is represented by recent items, if any.

    Args:
        user: Name of the user's field.
        users: Known users by index.
        items: Known items by index, most popular first.
        recent: Maximum number of recent items used.
    """

    user: str
    users: list[str]
    items: list[str]
    recent: int

    def decode(self, payload: bytes) -> np.ndarray:
        """Indices of the user and the recent items, latest first, int32 [1 + recent]; 0 if unknown or absent.

        Raises:
            DataError: a field is unknown or of the wrong type.
        """
        request = json_object(payload)
        if unknown := sorted(set(request) - {self.user, "recent"}):
            raise DataError(f"there is no field {unknown[0]!r}.", fix=did_you_mean(unknown[0], (self.user, "recent")))
        user, recent = request.get(self.user), request.get("recent", [])
        if isinstance(user, bool) or not isinstance(user, str | int | None):
            raise DataError(f"{self.user!r} is neither text nor a whole number.")
        if not isinstance(recent, list) or any(isinstance(i, bool) or not isinstance(i, str | int) for i in recent):
            raise DataError("'recent' is not a list of items, the latest last.")
        users, items = self._indices
        known = [items[str(item)] for item in reversed(recent) if str(item) in items][: self.recent]
        row = np.zeros(1 + self.recent, np.int32)
        row[0] = users.get(str(user), UNKNOWN)
        row[1 : 1 + len(known)] = known
        return row

    def fields(self) -> list[Field]:
        """User and recent items; the choices are those of the training data."""
        return [
            Field(self.user, "text", choices=tuple(self.users)),
            Field("recent", "list", choices=tuple(self.items)),
        ]

    def observe(self, payload: bytes, sample: np.ndarray) -> dict[str, Any]:
        """Whether the user, and any of the items, is in the training data, 0 or 1; null if not in the request."""
        request = json_object(payload)
        user, recent = request.get(self.user), request.get("recent")
        return {
            "user_known": None if user is None else int(sample[0] != UNKNOWN),
            "items_known": int(bool(sample[1:].any())) if recent else None,
        }

    @functools.cached_property
    def _indices(self) -> tuple[dict[str, int], dict[str, int]]:
        return _index_by_name(self.users), _index_by_name(self.items)


def _index_by_name(names: list[str]) -> dict[str, int]:
    return {name: number for number, name in enumerate(names, start=1)}
