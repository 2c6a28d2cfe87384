import json

from lepton_tasks.core.finding import FINDINGS_FILE, Finding, ranks, worst, write_findings

FINDING = Finding(monitor="m", severity="warning", message="a", value=2.0, limit=1.0, unit="GiB", subject="disk")


def test_findings_are_plain_json(tmp_path):
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


def test_the_worst_severity_counts():
    assert worst([]) == "ok"
    assert worst([FINDING, Finding(monitor="m", severity="ok", message="b")]) == "warning"


def test_a_monitor_is_as_severe_as_its_worst_finding():
    assert ranks([("a", "ok"), ("b", "critical"), ("a", "warning"), ("a", "ok")]) == {"a": 1, "b": 2}
