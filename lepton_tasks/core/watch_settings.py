"""The `watch` section: when the deployed model is checked between runs, and how findings are repaired."""

from __future__ import annotations

from typing import Annotated, Literal

import pydantic

from lepton_tasks.core.spec import ComponentSpec, Section


def _cron(text: str) -> str:
    if len(text.split()) != 5 and not text.startswith("@"):
        raise ValueError(f"{text!r} is not a cron expression of five fields")
    return text


Cron = Annotated[str, pydantic.AfterValidator(_cron)]
"""Five fields, or a name such as ``@daily``."""


class Watch(Section):
    """Checks of the deployed model between runs. Monitors are set in `monitor`, alert channels in the environment."""

    schedule: Cron | None = "@hourly"
    """Cron expression in UTC, or null for no checks; ``@hourly`` is at a minute that follows from the name."""
    alert_from: Literal["warning", "critical"] = "warning"
    """Minimum severity that is alerted."""
    remind_hours: float = pydantic.Field(24.0, gt=0)
    """Hours after which an alert is repeated while its finding lasts."""
    remedies: tuple[ComponentSpec, ...] = (ComponentSpec(name="rollback"), ComponentSpec(name="retrain"))
    """Remedies in order; the first that applies to a finding is used. See `lepton list remedies`."""
