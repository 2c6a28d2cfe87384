"""Monitor `data_quality`: failed requests, low-confidence answers, and drift from the training data."""

from __future__ import annotations

import collections
import dataclasses
import datetime as dt
import functools
import json
from collections.abc import Sequence, Set
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import pyarrow as pa
import pyarrow.compute as pc
import pydantic

from lepton_tasks.core.artifacts import EndpointRef
from lepton_tasks.core.context import RunContext
from lepton_tasks.core.finding import Finding
from lepton_tasks.core.store import write_json
from lepton_tasks.core.use_case import Expectation, UseCase
from lepton_tasks.monitoring.book import home_of
from lepton_tasks.serving.observing.request_log import ANSWER, REDACTED, REQUESTS_FOLDER, read_requests

if TYPE_CHECKING:
    from lepton_tasks.quality.rows import FrameRows
    from lepton_tasks.quality.suite import RuleResult

_finding = functools.partial(Finding, "data_quality")

Share = Annotated[float, pydantic.Field(ge=0, le=1)]

_TIME = "request_time"
_SHOWN = 20  # earlier checks that are shown beside the latest
_SCHEMA = pa.schema(
    [
        ("sample_id", pa.string()),
        ("version", pa.string()),
        ("status", pa.int64()),
        ("probability", pa.float64()),
        ("std", pa.float64()),
    ]
)


@dataclasses.dataclass(frozen=True)
class _Rule:
    """At most a share `limit` of the values of `column` may be `against` it; `params` says so to the suite."""

    column: str
    question: str
    limit: float
    params: dict[str, Any]
    against: pc.Expression

    def expectation(self) -> Expectation:
        params = {"column": self.column, "mostly": 1 - self.limit, **self.params}
        kind = "expect_column_values_to_be_in_set" if "value_set" in params else "expect_column_values_to_be_between"
        return Expectation(type=kind, params=params, severity="warning")


@dataclasses.dataclass(frozen=True)
class DataQuality:
    """Check requests since the last check with Great Expectations; Data Docs are in the state folder.

    What was asked is compared with the profile of the training data in the model package, and with the use case's
    ``quality.served``.

    Args:
        max_failed: Largest allowed share of samples without an answer.
        confidence: A probability of the given label below this is an unsure answer.
        max_unsure: Largest allowed share of unsure answers.
        max_blank: Largest allowed share of inputs whose values are all the same.
        least: Samples that are waited for, and those with values before they are compared with the training data.
        last: Maximum number of samples examined, the latest ones.
    """

    max_failed: Share = 0.05
    confidence: Share = 0.5
    max_unsure: Share = 0.2
    max_blank: Share = 0.01
    least: Annotated[int, pydantic.Field(ge=1)] = 50
    last: Annotated[int, pydantic.Field(ge=1)] = 100_000

    def check(self, use_case: UseCase, ctx: RunContext, endpoint: EndpointRef) -> list[Finding]:
        """One finding for each rule about answers, and for what was asked one a broken rule, or one if all held."""
        home = home_of(ctx.root, use_case.name)
        mark = home / "data_quality.json"
        marks = json.loads(mark.read_text()) if mark.exists() else {}
        since, compared = marks.get("until", 0.0), marks.get("compared", marks.get("until", 0.0))
        records = read_requests(ctx.root / "serving" / REQUESTS_FOLDER, use_case.name, since=min(since, compared))
        real = collections.deque((record for record in records if not record.get("probe")), maxlen=self.last)
        new = [record for record in real if record["time"] > since]
        if not new:
            message = "no requests since the last check" if since else "no requests yet"
            return [_finding("ok", message, None, None, "requests")]
        if len(new) < self.least:  # one bad request of two is no news
            message = f"{len(new)} samples are too few to judge (minimum: {self.least})"
            return [_finding("ok", message, None, self.least, "samples")]
        profile, own = _profile(ctx, endpoint), use_case.quality.served
        asked = [record for record in real if record["time"] > compared and record.get("values")]
        if profile is None and not own:
            asked = []
        enough = len(asked) >= self.least
        findings = self._judge(new, asked if enough else [], profile, home, use_case, ctx)
        if asked and not enough:
            message = f"{len(asked)} samples are too few to compare with the training data"
            findings.append(_finding("ok", message, None, self.least, "samples"))
        until = real[-1]["time"]
        write_json(mark, {"until": until, "compared": until if enough or not asked else compared})
        return findings

    def _judge(
        self,
        new: Sequence[dict[str, Any]],
        asked: Sequence[dict[str, Any]],
        profile: dict[str, Any] | None,
        home: Path,
        use_case: UseCase,
        ctx: RunContext,
    ) -> list[Finding]:
        from lepton_tasks.quality.check import report_of, write_failing_rows, write_report
        from lepton_tasks.quality.rows import FrameRows
        from lepton_tasks.quality.suite import run_suite

        where, table = f"{use_case.name}.yaml: quality.served", _table(new)
        rules = [rule for rule in self._rules() if table[rule.column].null_count < table.num_rows]
        suite = [rule.expectation() for rule in rules]
        judged = run_suite(FrameRows.of(table), suite, ctx, where=where, identity="sample_id")
        broken = {one.result.expectation_config.kwargs["column"] for one in judged if not one.result.success}
        findings = [_about_answers(rule, table, rule.column in broken) for rule in rules]
        values: list[RuleResult] = []
        if asked:
            hidden = {name for record in asked for name in record.get(REDACTED) or () if name != ANSWER}
            rows, expected = _values(asked, profile, hidden)
            own = [rule for rule in use_case.quality.served if hidden.isdisjoint(_columns(rule))]
            values = run_suite(rows, [*expected, *own], ctx, where=where, identity=_TIME)
            findings += _about_values(report_of(values, rows.height))
            if hidden:
                message = f"redacted in the request log, so not compared: {', '.join(sorted(hidden))}"
                findings.append(_finding("ok", message, len(hidden), None, "columns"))
        report = report_of([*judged, *values], table.num_rows)
        report |= {"use_case": use_case.name, "time": ctx.clock().isoformat()}
        past = home / "history.json"
        history = json.loads(past.read_text()) if past.exists() else []
        write_report(home, report, [*judged, *values], name="requests", history=history)
        write_json(past, [*history, report][-_SHOWN:])
        if asked:
            failing = home / "failing_requests.parquet"
            failing.unlink(missing_ok=True)
            write_failing_rows(failing, rows, values, ctx, None)
        return findings

    def _rules(self) -> list[_Rule]:
        unsure = {"min_value": self.confidence, "max_value": 1.0 + 1e-6}
        return [
            _Rule("status", "got no answer", self.max_failed, {"value_set": [200]}, pc.field("status") != 200),
            _Rule(
                "probability",
                f"were answered with a probability below {self.confidence:g}",
                self.max_unsure,
                unsure,
                (pc.field("probability") < self.confidence) | (pc.field("probability") > 1.0 + 1e-6),
            ),
            _Rule(
                "std",
                "were blank (all values the same)",
                self.max_blank,
                {"min_value": 0.0, "strict_min": True},
                pc.field("std") <= 0,
            ),
        ]


def _table(records: Sequence[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist([{**record, "sample_id": str(i)} for i, record in enumerate(records)], schema=_SCHEMA)


def _profile(ctx: RunContext, endpoint: EndpointRef) -> dict[str, Any] | None:
    """The profile in the package that is deployed; None if it was exported before packages had one."""
    if not (uri := endpoint.facts.get("package_uri")):
        return None
    path = ctx.store.folder_at(str(uri)) / "profile.json"
    return json.loads(path.read_text()) if path.exists() else None


def _columns(rule: Expectation) -> set[str]:
    """The columns that an expectation is about."""
    named = (value for key, value in rule.params.items() if key.startswith("column"))
    return {name for value in named for name in ([value] if isinstance(value, str) else value)}


def _values(
    asked: Sequence[dict[str, Any]], profile: dict[str, Any] | None, hidden: Set[str]
) -> tuple[FrameRows, list[Expectation]]:
    """What was asked, with the time of each request, and the rules of the profile about it; no `hidden` columns."""
    import polars as pl

    from lepton_tasks.quality.profile import compared_with
    from lepton_tasks.quality.rows import FrameRows
    from lepton_tasks.quality.served import values_frame

    if profile is not None:
        columns = {name: about for name, about in profile["columns"].items() if name not in hidden}
        profile = {**profile, "columns": columns}
    frame = values_frame([record["values"] for record in asked], profile)
    frame = frame.drop([name for name in frame.columns if name in hidden])
    times = [dt.datetime.fromtimestamp(record["time"], dt.UTC).isoformat(timespec="milliseconds") for record in asked]
    rows = FrameRows(frame.with_columns(pl.Series(_TIME, times)))
    return rows, compared_with(profile) if profile else []


def _about_answers(rule: _Rule, table: pa.Table, broken: bool) -> Finding:
    asked = table.filter(pc.is_valid(pc.field(rule.column)))
    share = asked.filter(rule.against).num_rows / max(1, asked.num_rows)
    message = f"{share:.1%} of {asked.num_rows:,} samples {rule.question} (limit {rule.limit:.1%})"
    return _finding("warning" if broken else "ok", message, share, rule.limit, "share", rule.column)


def _about_values(report: dict[str, Any]) -> list[Finding]:
    from lepton_tasks.quality.check import describe

    findings = []
    for fault in report["failed"]:
        limit = 1 - float(fault["params"].get("mostly", 1.0))
        message = f"requests violate an expectation: {describe(fault)}"
        subject = fault["column"] or ""
        findings.append(_finding(fault["severity"], message, fault["share"] or 0.0, limit, "share", subject))
    if not findings:
        message = f"{report['rows']:,} samples match the training data ({report['evaluated']} expectations met)"
        findings.append(_finding("ok", message, report["evaluated"], None, "expectations"))
    return findings
