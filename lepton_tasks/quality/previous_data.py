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
    """Warnings for changes of columns, types, ranges, categories or missing values; none without earlier data.

    The reference is the latest raw data of the use case that passed this stage.

    Args:
        use_case: Name of the use case.
        ctx: Run context; its stage's reports are used.

    Returns:
        The rules, and a sentence about their origin.
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
