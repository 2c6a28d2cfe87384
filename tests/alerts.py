"""A use case, findings and clocks for tests of alerts and remedies."""

import dataclasses
import datetime as dt

from lepton_tasks.core.finding import Finding
from lepton_tasks.core.use_case import parse_use_case

BEGIN = dt.datetime(2026, 5, 1, tzinfo=dt.UTC)
RAW = {
    "name": "wine",
    "task": "tabular_classification",
    "data": {"source": "sklearn_wine"},
    "features": "table",
    "model": "mlp",
    "monitor": ["data_quality", "drift", "performance"],
}
USE_CASE = parse_use_case(RAW, where="wine.yaml")


def drift(severity):
    return Finding(
        monitor="drift",
        severity=severity,
        message="PSI is 0.31 (limit 0.2)",
        value=0.31,
        limit=0.2,
        unit="PSI",
        subject="alcohol",
    )


def errors(severity="critical"):
    return Finding(
        monitor="performance", severity=severity, message="7 % of answers failed", value=0.07, limit=0.05, unit="share"
    )


def at(ctx, seconds):
    """The context, so many seconds after the beginning."""
    return dataclasses.replace(ctx, clock=lambda: BEGIN + dt.timedelta(seconds=seconds))
