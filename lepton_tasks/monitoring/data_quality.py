"""Data quality of served requests: refused ones, unsure answers, blank inputs."""

from __future__ import annotations

import collections
import dataclasses
import json
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
import pyarrow.compute as pc
import pydantic

from lepton_tasks.core.artifacts import EndpointRef
from lepton_tasks.core.context import RunContext
from lepton_tasks.core.store import write_json
from lepton_tasks.core.use_case import Expectation, UseCase
from lepton_tasks.serving.request_log import REQUESTS_FOLDER, read_requests

Share = Annotated[float, pydantic.Field(ge=0, le=1)]

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
    """Checks the requests since its last check with Great Expectations; the Data Docs lie in the state folder.

    Args:
        max_failed: Largest allowed share of samples that got no answer.
        confidence: A probability of the given label below this is an unsure answer.
        max_unsure: Largest allowed share of unsure answers.
        max_blank: Largest allowed share of inputs whose values are all the same.
        last: How many samples are looked at, the latest ones.
    """

    max_failed: Share = 0.05
    confidence: Share = 0.5
    max_unsure: Share = 0.2
    max_blank: Share = 0.01
    last: Annotated[int, pydantic.Field(ge=1)] = 100_000

    def check(self, use_case: UseCase, ctx: RunContext, endpoint: EndpointRef) -> list[dict[str, Any]]:
        """One finding a rule; a broken rule is a warning."""
        home = ctx.root / "monitoring" / use_case.name
        mark = home / "data_quality.json"
        since = json.loads(mark.read_text())["until"] if mark.exists() else 0.0
        records = read_requests(ctx.root / "serving" / REQUESTS_FOLDER, use_case.name, since=since)
        real = collections.deque((record for record in records if not record["probe"]), maxlen=self.last)
        if not real:
            message = "no requests since the last check" if since else "no requests yet"
            return [_finding("ok", message, 0, None, "requests")]
        findings = self._judge(_table(real), home, use_case.name, ctx)
        write_json(mark, {"until": real[-1]["time"]})
        return findings

    def _judge(self, table: pa.Table, home: Path, name: str, ctx: RunContext) -> list[dict[str, Any]]:
        from lepton_tasks.quality.check import report_of, write_report
        from lepton_tasks.quality.rows import FrameRows
        from lepton_tasks.quality.suite import judge

        rules = self._rules()
        suite = [rule.expectation() for rule in rules]
        judged = judge(FrameRows.of(table), suite, ctx, where=f"{name}.yaml: monitor", identity="sample_id")
        report = report_of(judged, table.num_rows) | {"use_case": name, "time": ctx.clock().isoformat()}
        write_report(home, report, judged, name="requests", history=[])
        broken = {fault["column"] for fault in report["failed"]}
        findings = []
        for rule in rules:
            asked = table.filter(pc.is_valid(pc.field(rule.column)))
            share = asked.filter(rule.against).num_rows / max(1, asked.num_rows)
            message = f"{share:.1%} of {asked.num_rows:,} samples {rule.question} (limit {rule.limit:.1%})"
            findings.append(_finding("warning" if rule.column in broken else "ok", message, share, rule.limit, "share"))
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


def _table(records: collections.deque[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist([{**record, "sample_id": str(i)} for i, record in enumerate(records)], schema=_SCHEMA)


def _finding(severity: str, message: str, value: float, limit: float | None, unit: str) -> dict[str, Any]:
    return {
        "monitor": "data_quality",
        "severity": severity,
        "message": message,
        "value": value,
        "limit": limit,
        "unit": unit,
    }
