"""Locations of data check reports: published if the data passed, else in the work folder."""

from __future__ import annotations

from pathlib import Path

CHECKS = ("validate_raw", "validate_cleaned", "validate_features")
"""The stages that check data."""
REPORT_FILE, DOCS_PAGE = "report.json", "docs/index.html"
FAILED = "report"  # folder in the stage's work folder


def report_folder(root: Path, stage: str, fingerprint: str, *, failed: bool) -> Path:
    """The folder of a check's report in the state folder `root`; it may have been removed."""
    if failed:
        return root / "work" / stage / fingerprint / FAILED
    return root / "artifacts" / stage / fingerprint
