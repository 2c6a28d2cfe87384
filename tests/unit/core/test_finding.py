import json

from lepton_tasks.core.finding import FINDINGS_FILE, Finding, read_findings, worst, write_findings

FINDING = Finding(monitor="m", severity="warning", message="a", value=2.0, limit=1.0, unit="GiB", subject="disk")


def test_findings_are_plain_json_and_read_back_as_they_were(tmp_path):
    write_findings(tmp_path, [FINDING])
    assert json.loads((tmp_path / FINDINGS_FILE).read_text()) == [
        {
            "monitor": "m",
            "severity": "warning",
            "message": "a",
            "value": 2.0,
            "limit": 1.0,
            "unit": "GiB",
            "subject": "disk",
        }
    ]
    assert read_findings(tmp_path) == [FINDING]


def test_the_worst_severity_counts():
    assert worst([]) == "ok"
    assert worst([FINDING, Finding(monitor="m", severity="ok", message="b")]) == "warning"
