"""Rules for raw data, derived from the previous run's raw data."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

from lepton_tasks.core.context import RunContext
from lepton_tasks.core.use_case import Expectation
from lepton_tasks.quality.check import PROFILE_FILE
from lepton_tasks.quality.history import reports_about
from lepton_tasks.quality.profile import rules_from


def rules_from_earlier(use_case: str, ctx: RunContext) -> tuple[list[Expectation], str]:
    """Warnings where columns, types, ranges, categories or shares of missing values moved; none without earlier data.

    The measure is the latest raw data of the use case that passed this stage: what was refused is no measure.

    Args:
        use_case: Its name.
        ctx: The run; its stage is the one whose reports are looked at.

    Returns:
        The rules, and a sentence for people that says where they come from.
    """
    passed = ctx.root / "artifacts" / ctx.stage
    for report in reversed(reports_about(use_case, ctx.stage, ctx.root)):
        path = Path(report["folder"], PROFILE_FILE)
        if path.is_relative_to(passed):
            with contextlib.suppress(FileNotFoundError):
                profile = json.loads(path.read_text())
                break
    else:
        return [], ""
    when = str(report["time"])[:16].replace("T", " ")
    types = [
        Expectation(type="expect_column_values_to_be_of_type", params={"column": name, "type_": about["type"]})
        for name, about in profile["columns"].items()
    ]
    rules = [rule.model_copy(update={"severity": "warning"}) for rule in (*rules_from(profile), *types)]
    return rules, f"Warnings compare with the raw data of {when} UTC."
