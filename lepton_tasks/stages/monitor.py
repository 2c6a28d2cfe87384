"""Stage monitor: run the use case's monitors on the endpoint."""

from __future__ import annotations

import logging
import shutil

from lepton_tasks.core.artifacts import EndpointRef, Fact, MonitorReportRef
from lepton_tasks.core.catalogue import MONITORS
from lepton_tasks.core.context import RunContext
from lepton_tasks.core.finding import SEVERITIES, write_findings
from lepton_tasks.core.use_case import UseCase
from lepton_tasks.monitoring import in_mlflow
from lepton_tasks.monitoring.alert import record
from lepton_tasks.monitoring.book import home_of
from lepton_tasks.monitoring.notebook import plot_path
from lepton_tasks.quality.report_files import DOCS_PAGE
from lepton_tasks.stages.gathering import gather_requests

_LEVELS = {"ok": logging.INFO, "warning": logging.WARNING, "critical": logging.ERROR}


def monitor(use_case: UseCase, ctx: RunContext, *, endpoint: EndpointRef) -> MonitorReportRef:
    """Run the monitors, and publish ``findings.json`` with plots. Findings do not fail the run.

    They are also recorded in the model's monitoring book and logged to the version's MLflow run. Alerts are sent by the
    caller (see `stages.watch`).
    """
    findings = gather_requests(use_case, ctx)
    for i, spec in enumerate(use_case.monitor):
        component = MONITORS.build(spec.name, spec.params, where=f"{use_case.name}.yaml: monitor.{i}")
        findings += component.check(use_case, ctx, endpoint)
    for finding in findings:
        ctx.log.log(_LEVELS[finding.severity], "%s: %s", finding.monitor, finding.message)
    facts = endpoint.facts
    champion = facts.get("previous_version") if facts.get("role") == "challenger" else facts.get("version")
    book = record(
        use_case,
        ctx,
        findings,
        version=str(champion) if champion else None,
        deployed_at=float(facts.get("deployed_at") or 0.0),
    )
    counts: dict[str, Fact] = {severity: sum(f.severity == severity for f in findings) for severity in SEVERITIES}
    draft = ctx.draft()
    write_findings(draft.path, findings)
    for spec in use_case.monitor:
        if (plot := plot_path(ctx, use_case, spec.name)).exists():
            shutil.copyfile(plot, draft.path / plot.name)
    if (docs := home_of(ctx.root, use_case.name) / DOCS_PAGE).exists():
        shutil.copyfile(docs, draft.path / "data_quality.html")
    version = facts.get("version")
    files = sorted(draft.path.iterdir())
    in_mlflow.show(use_case, ctx, findings, book, version=str(version) if version else None, report=files)
    return ctx.publish(draft, MonitorReportRef, {"findings": len(findings), **counts})
