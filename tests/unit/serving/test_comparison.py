import pytest

from lepton_tasks.serving.versions.comparison import compare


def record(version, *, status=200, label="cat", seconds=0.01, probability=0.9, **more):
    return {
        "version": version,
        "status": status,
        "label": label,
        "seconds": seconds,
        "probability": probability,
        **more,
    }


def answers(version, count, *, failed=0, cats=0.5, **more):
    good = [record(version, label="cat" if i < cats * count else "dog", seconds=0.01 + i / 1e5) for i in range(count)]
    return good + [record(version, status=500, label=None, probability=None, **more)] * failed


def test_versions_that_do_alike_are_not_told_apart():
    found = compare([*answers("1", 900, failed=9), *answers("2", 100, failed=1)], base="1")
    assert found["base"] == "1"
    assert found["versions"]["1"]["answers"] == 909
    assert found["versions"]["2"]["labels"] == {"cat": 0.5, "dog": 0.5}
    assert found["versions"]["2"]["p50_ms"] == pytest.approx(10.5, abs=0.1)
    against = found["against"]["2"]
    assert against["failed_interval"][0] < 0 < against["failed_interval"][1]
    assert (against["failed_p"], against["labels_p"]) == (pytest.approx(1.0, abs=0.05), pytest.approx(1.0, abs=0.05))
    assert against["verdict"] == "no difference beyond chance"


def test_more_errors_and_other_labels_are_significant():
    found = compare([*answers("1", 900, failed=9), *answers("2", 100, failed=15, cats=0.9)])["against"]["2"]
    assert found["failed_difference"] == pytest.approx(15 / 115 - 9 / 909)
    assert found["failed_interval"][0] > 0
    assert found["failed_p"] < 0.001
    assert found["labels_psi"] > 0.25
    assert "fails more often" in found["verdict"]
    assert "other labels" in found["verdict"]


def test_accuracy_where_the_truth_is_known():
    records = [record("1", trace=str(i)) for i in range(100)] + [record("2", trace=str(100 + i)) for i in range(100)]
    truths = {str(i): "cat" if i < 90 or i >= 140 else "dog" for i in range(200)}
    found = compare(records, truths=truths, base="1")
    assert (found["versions"]["1"]["accuracy"], found["versions"]["2"]["accuracy"]) == (0.9, 0.6)
    assert found["against"]["2"]["accuracy_difference"] == pytest.approx(-0.3)
    assert found["against"]["2"]["accuracy_interval"] == pytest.approx((-0.407, -0.183), abs=0.002)
    assert "right less often" in found["against"]["2"]["verdict"]


def test_made_up_requests_and_gone_clients_are_left_out():
    records = [record("1"), record("1", probe="smoke_test"), record("1", status=499)]
    assert compare(records)["versions"]["1"]["answers"] == 1
    assert compare([]) == {"versions": {}, "base": None, "against": {}}
