"""Validate a table: run the suite, publish report and Data Docs, stop the run on critical failures."""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from lepton_tasks.core.artifacts import QualityReportRef
from lepton_tasks.core.context import RunContext
from lepton_tasks.core.errors import DataQualityError
from lepton_tasks.core.store import write_json
from lepton_tasks.core.use_case import Expectation
from lepton_tasks.data.tables.rows import ROW
from lepton_tasks.quality.history import reports_about
from lepton_tasks.quality.report_files import DOCS_PAGE, FAILED, REPORT_FILE
from lepton_tasks.quality.rows import Rows
from lepton_tasks.quality.suite import RuleResult, run_suite

PROFILE_FILE, FAILING_FILE = "profile.json", "failing_rows.parquet"
_SHOWN_VALUES = 5  # of a set, in messages
_MAX_PARAM_LENGTH = 100  # characters of a parameter in messages


Suite = tuple[Rows, Sequence[Expectation]]
"""A table and its rules."""


def check(
    suites: Sequence[Suite],
    ctx: RunContext,
    *,
    use_case: str,
    where: str,
    identity: str = ROW,
    origin: Callable[[int], str] | None = None,
    profile: dict[str, Any] | None = None,
    note: str = "",
) -> QualityReportRef:
    """Validate a table and publish the report, its Data Docs and the violating rows.

    Args:
        suites: Row selections of one table with their rules; the first selection is the whole table.
        ctx: Run context.
        use_case: Name of the use case, to include its report history.
        where: Key of the use case's own rules, for messages.
        identity: Column that identifies a row in the report.
        origin: Returns the origin of a row by its number.
        profile: Data profile to store with the report.
        note: A sentence about the rules, for the report.

    Raises:
        DataQualityError: a critical rule failed; the report is then stored in the stage's work folder.
        ConfigError: a rule or one of its parameters is unknown.
    """
    per_suite = [run_suite(rows, rules, ctx, where=where, identity=identity) for rows, rules in suites]
    results = [result for suite_results in per_suite for result in suite_results]
    about = {"use_case": use_case, "time": ctx.clock().isoformat(), "note": note}
    report = report_of(results, suites[0][0].height) | about
    draft = ctx.draft()
    write_report(draft.path, report, results, name=ctx.stage, history=reports_about(use_case, ctx.stage, ctx.root))
    write_failing_rows(draft.path / FAILING_FILE, suites[0][0], results, ctx, origin)
    if profile is not None:
        write_json(draft.path / PROFILE_FILE, profile)
    failed = [fault for fault in report["failed"] if fault["severity"] == "critical"]
    warned = [fault for fault in report["failed"] if fault["severity"] == "warning"]
    for fault in warned:
        ctx.log.warning("%s", describe(fault))
    if failed:
        kept = ctx.workdir / FAILED
        shutil.rmtree(kept, ignore_errors=True)
        draft.path.rename(kept)
        raise DataQualityError(
            f"{len(failed)} of {report['evaluated']} expectations failed: {'; '.join(map(describe, failed))}.",
            where=where,
            fix=f"See {kept / DOCS_PAGE}{_and_rows(kept)}; correct the data, or the rule.",
        )
    facts = {"expectations": report["evaluated"], "failed": len(failed), "warnings": len(warned)}
    return ctx.publish(draft, QualityReportRef, facts)


def describe(fault: dict[str, Any]) -> str:
    """A failed expectation as one line."""
    params = [_cut(f"{name}={value}") for name, value in fault["params"].items()]
    given = ", ".join([*([fault["column"]] if fault["column"] else []), *params])
    return f"{fault['type']} ({given}): observed {fault['observed']}"


def _cut(text: str) -> str:
    return text if len(text) <= _MAX_PARAM_LENGTH else text[:_MAX_PARAM_LENGTH] + "..."


def report_of(results: Sequence[RuleResult], rows: int) -> dict[str, Any]:
    """Results of all expectations as JSON values, failed ones with examples."""
    outcomes = [_outcome(one) for one in results]
    failed = [outcome for outcome in outcomes if not outcome["success"]]
    failed.sort(key=lambda fault: (fault["severity"], fault["type"], fault["column"] or ""))
    return {
        "success": not any(fault["severity"] == "critical" for fault in failed),
        "evaluated": len(outcomes),
        "rows": rows,
        "failed": [{key: value for key, value in fault.items() if key != "success"} for fault in failed],
        "outcomes": [{key: value for key, value in one.items() if key != "examples"} for one in outcomes],
    }


def write_report(
    folder: Path, report: dict[str, Any], results: Sequence[RuleResult], *, name: str, history: Sequence[dict[str, Any]]
) -> None:
    """Write ``report.json`` and the Data Docs, with a plot of the history if there is one."""
    from lepton_tasks.quality.docs import write_docs
    from lepton_tasks.quality.history import plot_history

    (folder / "docs").mkdir(parents=True, exist_ok=True)
    write_json(folder / REPORT_FILE, report)
    picture = plot_history([*history, report], folder / "docs" / "history.png") if history and results else None
    write_docs(folder / DOCS_PAGE, report, [one.result for one in results], name=name, history=picture)


def write_failing_rows(
    path: Path, rows: Rows, results: Sequence[RuleResult], ctx: RunContext, origin: Callable[[int], str] | None
) -> None:
    """Write the rows that violate failed rules, with ``rule, severity, column, origin``; no file without rows."""
    wanted = [
        {
            ROW: number,
            "rule": one.result.expectation_config.type,
            "severity": one.result.expectation_config.severity.value,
            "column": one.result.expectation_config.kwargs.get("column"),
            "origin": origin(number) if origin else None,
        }
        for one in results
        if not one.result.success
        for number in one.rows
    ]
    if not wanted:
        return
    schema = {ROW: pl.Int64, "rule": pl.String, "severity": pl.String, "column": pl.String, "origin": pl.String}
    marks = pl.DataFrame(wanted, schema=schema)
    found = rows.map(functools.partial(_pick, marks[ROW].unique().sort()), ctx)
    marks.join(pl.concat(found), on=ROW, suffix="_of_row", maintain_order="left").write_parquet(path)


def _pick(numbers: pl.Series, frame: pl.DataFrame) -> pl.DataFrame:
    hidden = [name for name in frame.columns if name.startswith("__")]
    return frame.drop(hidden).filter(pl.col(ROW).is_in(numbers.implode()))


def _and_rows(kept: Path) -> str:
    return f", and the rows in {kept / FAILING_FILE}" if (kept / FAILING_FILE).exists() else ""


def _outcome(one: RuleResult) -> dict[str, Any]:
    config = one.result.expectation_config
    outcome = one.result.to_json_dict()["result"]  # without NumPy types
    params = {key: value for key, value in config.kwargs.items() if key != "batch_id"}
    share = outcome.get("unexpected_percent")
    return {
        "type": config.type,
        "column": params.pop("column", None),
        "severity": str(config.severity.value),
        "params": json.loads(json.dumps(params, default=str)),
        "success": bool(one.result.success),
        "observed": _observed(outcome, one.result.exception_info) + _of_sample(one),
        "share": None if share is None else share / 100,
        "examples": outcome.get("partial_unexpected_index_list") or [],
    }


def _of_sample(one: RuleResult) -> str:
    return "" if one.sampled is None else f" in a sample of {one.sampled:,} rows"


def _of_sets(outcome: dict[str, Any]) -> str:
    """Counts and examples of unexpected and missing values of a set."""
    parts = []
    for kind, what in (("unexpected", "not expected"), ("missing", "missing")):
        if count := outcome.get(f"{kind}_count", 0):
            few = ", ".join(map(str, outcome.get(f"partial_{kind}_list", [])[:_SHOWN_VALUES]))
            more = ", ..." if count > _SHOWN_VALUES else ""
            parts.append(f"{count:,} {what}" + (f" ({few}{more})" if few else ""))
    return "; ".join(parts) or "these values"


def _observed(outcome: dict[str, Any], exceptions: dict[str, Any]) -> str:
    if "element_count" in outcome:
        share = outcome.get("unexpected_percent") or 0.0
        return f"{outcome['unexpected_count']:,} of {outcome['element_count']:,} rows ({share:.1f} %) violate it"
    if outcome.get("observed_value") is not None:
        return str(outcome["observed_value"])
    if "unexpected_count" in outcome:  # of sets of values
        return _of_sets(outcome)
    # Without a result the check itself failed, usually because of a missing column.
    nested = [value["exception_message"] for value in exceptions.values() if isinstance(value, dict)]
    message = exceptions.get("exception_message") or next(iter(nested), "")
    return str(message).removeprefix("Error: ").rstrip(".")
