"""Copy remote servers' request logs before monitors and `lepton ab` read them."""

from __future__ import annotations

from lepton_tasks.core.access import TOKEN_FILE, log_id, own_key
from lepton_tasks.core.context import RunContext
from lepton_tasks.core.errors import UnavailableError
from lepton_tasks.core.finding import Finding, Severity
from lepton_tasks.core.use_case import UseCase
from lepton_tasks.monitoring.book import ENDPOINT
from lepton_tasks.serving.observing.request_log import REQUESTS_FOLDER
from lepton_tasks.stages.deploy import target_of

_SUBJECT = "request log"
_MIB = 2**20


def gather_requests(use_case: UseCase, ctx: RunContext) -> list[Finding]:
    """Copy new records of the servers' request logs into the state folder; see `stages.log_copies`.

    Returns:
        One finding, on whether all logs could be read; none if the server writes into the state folder.
    """
    try:
        servers = target_of(use_case, ctx).logs(ctx)
    except UnavailableError as error:
        return [Finding(ENDPOINT, "critical", f"no request log is read: {error}", 0.0, None, "servers", _SUBJECT)]
    if not servers:
        return []
    from lepton_tasks.stages.log_copies import gather

    home = ctx.root / "serving"
    token = home / TOKEN_FILE
    own = log_id(token.read_text().strip()) if token.exists() else ""
    found = gather(home / REQUESTS_FOLDER, use_case.name, servers, key=own_key(home), own=own)
    missing, size = len(found.faults), found.bytes / _MIB
    message = f"the request logs of {found.servers} servers are read ({size:,.1f} MiB are new)"
    severity: Severity = "ok"
    if missing:
        severity = "critical" if missing == found.servers else "warning"
        why = "; ".join(f"{at}: {fault}" for at, fault in found.faults.items())
        message = f"the request logs of {missing} of {found.servers} servers are not complete: {why}"
    return [Finding(ENDPOINT, severity, message, float(missing), 0.0, "servers", _SUBJECT)]
