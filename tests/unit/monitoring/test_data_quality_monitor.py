import subprocess
import sys

from lepton_tasks.core.artifacts import EndpointRef
from lepton_tasks.core.context import RunContext
from lepton_tasks.core.use_case import parse_use_case
from lepton_tasks.monitoring.data_quality import DataQuality
from lepton_tasks.serving.observing.request_log import RequestLog

USE_CASE = parse_use_case(
    {"name": "tiny", "task": "image_classification", "data": {"source": "s"}, "features": "f", "model": "m"}, where=""
)
ENDPOINT = EndpointRef(uri="store://deploy/x", digest="d", stage="deploy", facts={"url": "http://x", "version": "1"})


def test_without_requests_all_is_well_and_great_expectations_stays_away(tmp_path):
    code = (
        f"import sys, {__name__} as t\n"
        f"ctx = t.RunContext.local(t.Path({str(tmp_path)!r}))\n"
        "(finding,) = t.DataQuality().check(t.USE_CASE, ctx, t.ENDPOINT)\n"
        "assert (finding.severity, finding.message) == ('ok', 'no requests yet'), finding\n"
        "assert 'great_expectations' not in sys.modules\n"
    ).replace("t.Path", "__import__('pathlib').Path")
    subprocess.run([sys.executable, "-c", code], check=True, cwd="tests/unit/monitoring")


def test_made_up_requests_do_not_count(tmp_path):
    log = RequestLog(tmp_path / "serving" / "requests")
    log.add("tiny", {"time": 1.0, "status": 200, "probe": "smoke_test"})
    log.start()
    log.close()
    (finding,) = DataQuality().check(USE_CASE, RunContext.local(tmp_path), ENDPOINT)
    assert finding.message == "no requests yet"
