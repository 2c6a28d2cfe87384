"""Monitor `drift`: changes in the distribution of inputs and answers since training."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import pydantic

from lepton_tasks.codecs.monitored_values import PREDICTION_FIELDS
from lepton_tasks.core.artifacts import EndpointRef
from lepton_tasks.core.context import RunContext
from lepton_tasks.core.finding import Finding, Severity
from lepton_tasks.core.use_case import UseCase
from lepton_tasks.monitoring.distribution import Shift, bins_of, shift_of
from lepton_tasks.monitoring.notebook import Notebook, package_json, requests_since
from lepton_tasks.serving.observing.request_log import ANSWER, REDACTED

_OF_ANSWERS = "answers."  # before the names of what is kept of an answer
_SURE = f"{_OF_ANSWERS}probability"


@dataclasses.dataclass(frozen=True)
class Drift:
    """Compare the distribution of inputs with the training data, and of answers with those to the test data.

    A column has drifted if its population stability index (PSI) is at least `moderate`, and the difference is beyond
    chance. The profile in the model package is the reference. Requests since the last comparison count.

    Args:
        moderate: PSI from which drift is a warning.
        large: PSI from which drift is critical; that of probabilities is never.
        false_alarms: Share of checks without any drift that may report some; the test of each column is corrected for
            the number of columns.
        least: Minimum number of answered samples.
        last: Maximum number of samples examined, the latest ones.
        named: Number of columns, the worst ones, that get a finding of their own.
    """

    moderate: Annotated[float, pydantic.Field(gt=0)] = 0.1
    large: Annotated[float, pydantic.Field(gt=0)] = 0.25
    false_alarms: Annotated[float, pydantic.Field(gt=0, lt=1)] = 0.01
    least: Annotated[int, pydantic.Field(ge=20)] = 100
    last: Annotated[int, pydantic.Field(ge=20)] = 20_000
    named: Annotated[int, pydantic.Field(ge=1)] = 10

    def check(self, use_case: UseCase, ctx: RunContext, endpoint: EndpointRef) -> list[Finding]:
        """A finding for each of the worst columns; one that says so if none has drifted, or nothing can be compared."""
        notes = Notebook(ctx, use_case, "drift", endpoint)
        profile = package_json(ctx, endpoint, "profile.json")
        if not profile.get("columns") and "answers" not in profile:
            return [_ok("the model package has no profile of the training data to compare with", 0, "columns")]
        since = notes.mark.get("until", 0.0)
        records = requests_since(ctx, use_case, notes.version, since)
        answered = collections.deque((record for record in records if record["status"] == 200), maxlen=self.last)
        if len(answered) < self.least:
            return [_too_few(len(answered), self.least, bool(since))]
        shifts, remarks = self._shifts(profile, answered)
        indices = {shift.column: round(shift.index, 5) for shift in shifts}
        first, *others = self._told(shifts, len(answered))
        findings = [dataclasses.replace(first, figures=indices or None), *others, *remarks]
        notes.remember({"until": answered[-1]["time"]})
        history = notes.add({"time": answered[-1]["time"], "samples": len(answered), "psi": indices})
        if shifts:
            from lepton_tasks.monitoring.plots import plot_drift

            plot_drift(notes.plot, history, shifts, moderate=self.moderate, large=self.large)
        return findings

    def _shifts(
        self, profile: Mapping[str, Any], records: Sequence[Mapping[str, Any]]
    ) -> tuple[list[Shift], list[Finding]]:
        """The shift of each column that can be compared, the largest first, and what cannot be compared and why."""
        hidden = {name for record in records for name in record.get(REDACTED) or ()}
        columns = {name: about for name, about in profile.get("columns", {}).items() if name not in hidden}
        told = [values for record in records if (values := record.get("values"))]
        shifts, remarks = [], []
        if len(told) >= self.least:
            shifts += [_shift(name, about, [values.get(name) for values in told]) for name, about in columns.items()]
        elif columns:
            text = f"{len(told)} samples with values are too few to compare inputs (minimum: {self.least})"
            remarks.append(_ok(text, None, "samples"))
        if "answers" not in profile:
            text = "the model package has no reference for answers, so only inputs are compared; export it again"
            remarks.append(_ok(text, 0, "answers"))
        elif ANSWER not in hidden:
            known = profile["answers"]["columns"]
            shifts += [
                _shift(_OF_ANSWERS + name, known[name], [record.get(name) for record in records])
                for name in PREDICTION_FIELDS
                if name in known
            ]
        if hidden:
            text = f"redacted in the request log, so not compared: {', '.join(sorted(hidden))}"
            remarks.append(_ok(text, len(hidden), "columns"))
        return sorted((one for one in shifts if one is not None), key=lambda shift: -shift.index), remarks

    def _told(self, shifts: Sequence[Shift], samples: int) -> list[Finding]:
        if not shifts:
            return [_ok("neither requests nor answers can be compared with the training data", 0, "columns")]
        drifted = [shift for shift in self._beyond_chance(shifts) if shift.index >= self.moderate]
        if not drifted:
            worst = shifts[0]
            limit = "within chance" if worst.index >= self.moderate else f"limit {self.moderate:g}"
            text = (
                f"{samples:,} samples are distributed like the training data in {len(shifts)} columns "
                f"(largest difference: {worst.column}, PSI {worst.index:.2f}; {limit})"
            )
            return [_ok(text, worst.index, "PSI", limit=self.moderate)]
        findings = [self._finding(shift, samples) for shift in drifted[: self.named]]
        if rest := drifted[self.named :]:
            names = ", ".join(shift.column for shift in rest)
            text = f"{len(rest)} more columns have drifted: {names}"
            severity: Severity = "critical" if "critical" in map(self._severity, rest) else "warning"
            findings.append(dataclasses.replace(_ok(text, len(rest), "columns"), severity=severity))
        return findings

    def _beyond_chance(self, shifts: Sequence[Shift]) -> list[Shift]:
        """Those whose difference is significant; of all that are not, at most `false_alarms` in a check, on average.

        Source: Holm, "A simple sequentially rejective multiple test procedure", 1979.
        """
        found = []
        for i, shift in enumerate(sorted(shifts, key=lambda shift: shift.p_value)):
            if shift.p_value >= self.false_alarms / (len(shifts) - i):
                break
            found.append(shift)
        return sorted(found, key=lambda shift: -shift.index)

    def _severity(self, shift: Shift) -> Severity:
        """Drift in how sure answers are is only a hint: what was trained on is answered more surely than test rows."""
        return "critical" if shift.index >= self.large and shift.column != _SURE else "warning"

    def _finding(self, shift: Shift, samples: int) -> Finding:
        severity = self._severity(shift)
        limit = self.large if severity == "critical" else self.moderate
        name, before, after = shift.most
        answers = shift.column.startswith(_OF_ANSWERS)
        what, than = ("answers", "test") if answers else ("requests", "training")
        text = (
            f"{shift.column.removeprefix(_OF_ANSWERS)} of {what} has drifted (PSI {shift.index:.2f}, limit {limit:g}, "
            f"{samples:,} samples): {name} is {after:.1%} of them, against {before:.1%} in the {than} data"
        )
        return Finding(
            monitor="drift",
            severity=severity,
            message=text,
            value=round(shift.index, 5),
            limit=limit,
            unit="PSI",
            subject=shift.column,
        )


def _shift(column: str, about: Mapping[str, Any], values: Sequence[Any]) -> Shift | None:
    bins = bins_of(about)
    return None if bins is None else shift_of(column, bins, values)


def _too_few(count: int, least: int, before: bool) -> Finding:
    text = f"{count} samples are too few to compare with the training data (minimum: {least})"
    if not count:
        text = "no requests since the last comparison" if before else "no requests yet"
    return _ok(text, None, "PSI")


def _ok(message: str, value: float | None, unit: str, limit: float | None = None) -> Finding:
    return Finding(monitor="drift", severity="ok", message=message, value=value, limit=limit, unit=unit)
