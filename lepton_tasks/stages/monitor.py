"""Stage monitor: run the use case's monitors on the endpoint."""

from __future__ import annotations

import logging

from lepton_tasks.core.artifacts import EndpointRef, MonitorReportRef
from lepton_tasks.core.catalogue import MONITORS
from lepton_tasks.core.context import RunContext
from lepton_tasks.core.store import write_json
from lepton_tasks.core.use_case import UseCase

_LEVELS = {"ok": logging.INFO, "warning": logging.WARNING, "critical": logging.ERROR}


def monitor(use_case: UseCase, ctx: RunContext, *, endpoint: EndpointRef) -> MonitorReportRef:
    """Run the monitors and publish ``findings.json``. Findings do not fail the run."""
    findings = []
    for i, spec in enumerate(use_case.monitor):
        asked = MONITORS.build(spec.name, spec.params, where=f"{use_case.name}.yaml: monitor.{i}")
        findings += asked.check(use_case, ctx, endpoint)
    for finding in findings:
        ctx.log.log(_LEVELS[finding["severity"]], "%s: %s", finding["monitor"], finding["message"])
    counts = {severity: sum(f["severity"] == severity for f in findings) for severity in _LEVELS}
    draft = ctx.draft()
    write_json(draft.path / "findings.json", findings)
    return ctx.publish(draft, MonitorReportRef, {"findings": len(findings), **counts})
