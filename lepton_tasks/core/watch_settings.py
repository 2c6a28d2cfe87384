"""The `watch` section: when the deployed model is checked between runs, and how findings are repaired."""

from __future__ import annotations

import re
from typing import Annotated, Literal

import pydantic

from lepton_tasks.core.spec import ComponentSpec, Section

_FIELDS = {"minute": (0, 59), "hour": (0, 23), "day of the month": (1, 31), "month": (1, 12), "day of the week": (0, 7)}
_NAMES = ("@hourly", "@daily", "@midnight", "@weekly", "@monthly", "@yearly", "@annually")


def _cron(text: str) -> str:
    """The text if it may be cron; Airflow, which has the parser, finds what is left."""
    fields = text.split()
    if text not in _NAMES and len(fields) != len(_FIELDS):
        raise ValueError(f"it is no cron expression of five fields, as `0 3 * * 1`, nor one of {', '.join(_NAMES)}")
    for field, (what, (least, most)) in zip(fields, _FIELDS.items(), strict=False):
        for number in re.findall(r"(?<![#/\w])\d+", field):
            if not least <= int(number) <= most:
                raise ValueError(f"the {what} is {least} to {most}, not {number}")
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
