"""Names of users and items -> their numbers; the same code in training and in serving."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np

from lepton_tasks.codecs.json_rows import JsonRequests, json_object
from lepton_tasks.core.errors import DataError

UNKNOWN = 0
"""The number of a user or item that training has not seen."""


@dataclasses.dataclass(frozen=True)
class InteractionCodec(JsonRequests):
    """The input codec of a user and an item: ``{"<user>": 7, "<item>": "b-12"}``; numbers count from 1.

    Args:
        user: Name of the user's field.
        item: Name of the item's field.
        users: Known users, in the order of their numbers.
        items: Known items, the most popular first.
    """

    user: str
    item: str
    users: list[str]
    items: list[str]

    def decode(self, payload: bytes) -> np.ndarray:
        """The numbers of user and item, int32 [2], 0 for an unknown one; raises `DataError` if one is missing."""
        request = json_object(payload)
        for name in (self.user, self.item):
            if isinstance(request.get(name), bool) or not isinstance(request.get(name), str | int):
                raise DataError(f"{name!r} is missing, or neither text nor a whole number.")
        users, items = self._numbers
        pair = (users.get(str(request[self.user]), UNKNOWN), items.get(str(request[self.item]), UNKNOWN))
        return np.array(pair, np.int32)

    @functools.cached_property
    def _numbers(self) -> tuple[dict[str, int], dict[str, int]]:
        users, items = ({name: i for i, name in enumerate(names, start=1)} for names in (self.users, self.items))
        return users, items
