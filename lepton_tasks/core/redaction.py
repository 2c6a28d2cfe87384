"""Redaction rules of the request log, set by a use case or a server."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable
from typing import Annotated, Literal

import pydantic

from lepton_tasks.core.errors import ConfigError
from lepton_tasks.core.registry import did_you_mean
from lepton_tasks.core.spec import Section

Patterns = tuple[Annotated[str, pydantic.Field(min_length=1)], ...]


class Redaction(Section):
    """Redaction of logged request values; columns are named by patterns."""

    keep: Patterns | None = None
    """The only columns to log; null for all."""
    drop: Patterns = ()
    """Columns not to log."""
    hash: Patterns = ()
    """Columns logged as a keyed hash, so that equal values stay comparable."""
    truncate: dict[str, Annotated[int, pydantic.Field(ge=0)]] = {}
    """Columns truncated to this many characters."""
    answer: Literal["keep", "drop", "hash"] = "keep"
    """Treatment of the predicted and the true label."""
    sample: float = pydantic.Field(1.0, ge=0, le=1)
    """Fraction of samples to log."""

    @property
    def hides(self) -> bool:
        """Whether it changes logged values."""
        return bool(self.keep is not None or self.drop or self.hash or self.truncate or self.answer != "keep")

    def check_columns(self, columns: Iterable[str], *, where: str) -> None:
        """Raise `ConfigError` for the first pattern that matches no column: a typing error would redact nothing."""
        known = list(columns)
        for key in ("keep", "drop", "hash", "truncate"):
            for pattern in getattr(self, key) or ():
                if not fnmatch.filter(known, pattern):
                    raise ConfigError(
                        f"no column like {pattern!r} is logged.",
                        where=f"{where}.{key}",
                        fix=did_you_mean(pattern, known) if known else "This model's log has no columns.",
                    )
