import pytest

from lepton_tasks.cli import release
from lepton_tasks.cli.release import in_words, read_truths, rollout_of, told_comparison
from lepton_tasks.core.errors import ConfigError
from lepton_tasks.core.rollout import Rollout
from lepton_tasks.serving.versions.comparison import compare


def test_a_rollout_from_options():
    assert rollout_of(None, None, False, []) == Rollout()
    canary = rollout_of("5, 50,100", None, False, ["min_requests=50", "step_seconds=1"])
    assert (canary.kind, canary.steps, canary.min_requests) == ("canary", (5, 50, 100), 50)
    assert rollout_of(None, 20, False, []).share == 20
    assert rollout_of(None, None, True, []).kind == "hold"


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("10", 5, False, []), "exclude each other"),
        (("ten", None, False, []), "rollout steps.0"),
        (("50,10", None, False, []), "do not grow"),
        ((None, None, False, ["share=0"]), "rollout share"),
        ((None, None, False, ["shares=1"]), "rollout shares"),
    ],
)
def test_a_wrong_rollout_is_refused_with_the_option(options, reason):
    with pytest.raises(ConfigError, match=reason):
        rollout_of(*options)


def test_what_is_served_in_words():
    challenger = {"version": "3", "kind": "canary", "weight": 0.1, "progress": {"reason": "20 of 50 requests"}}
    assert in_words({"version": "2", "previous": "1", "challenger": challenger}) == (
        "version 2; previous 1; canary 3 at 10%: 20 of 50 requests"
    )
    assert in_words({"version": "2", "previous": None, "challenger": None, "undone": "3", "seconds": 0.01}) == (
        "version 2 (removed 3 in 0.01 s)"
    )
    assert in_words({"version": None, "reason": "it is being loaded."}) == "not ready: it is being loaded."


def test_a_comparison_in_lines():
    records = [
        {"version": v, "status": 200, "label": "cat", "seconds": 0.01, "probability": 0.9} for v in "12" for _ in "abc"
    ]
    lines = told_comparison({"name": "tiny", "hours": 24, **compare(records, base="1")})
    assert lines[0] == "tiny, the last 24 h"
    assert lines[2].split() == ["1", "3", "0", "10.0", "10.0", "cat", "100%"]
    assert lines[4].endswith("no difference beyond chance")
    assert told_comparison({"name": "tiny", "hours": 1, **compare([])})[1] == "no requests"


def test_right_labels_make_an_accuracy(tmp_path):
    path = tmp_path / "labels.csv"
    path.write_text("trace,label\n" + "".join(f"t{i},{'cat' if i < 30 else 'dog'}\n" for i in range(40)))
    records = [
        {"version": "12"[i % 2], "status": 200, "label": "cat", "seconds": 0.01, "trace": f"t{i}"} for i in range(40)
    ]
    lines = told_comparison({"name": "tiny", "hours": 1, **compare(records, base="1", truths=read_truths(path))})
    assert lines[-1].startswith("  accuracy 75.00%, +0.00% (95 %: -2")
    path.write_text("id,label\n1,cat\n")
    assert read_truths(path) == {"1": "cat"}
    path.write_text("name,label\n1,cat\n")
    with pytest.raises(ConfigError, match=r"id \(or trace\) and label"):
        read_truths(path)


def test_servers_that_follow_the_registry_are_released_to_through_it(tmp_path, monkeypatch):
    file = tmp_path / "pods.yaml"
    file.write_text("serving: {target: followers, replicas: http://replicas.svc:8100}\n")
    monkeypatch.setenv("LEPTON_ENVIRONMENT", str(file))
    asked = []

    class Followers:
        def __init__(self, environment, root, name, *, meter):
            asked.append((environment.serving.addresses, name))

        def rollback(self):
            return {"version": "1", "undone": "2"}

    monkeypatch.setattr(release, "Followers", Followers)
    assert release.roll_back("tiny") == {"version": "1", "undone": "2"}
    assert asked == [(("http://replicas.svc:8100",), "tiny")]
    with pytest.raises(ConfigError, match="no challenger to promote"):
        release.promote_challenger("tiny")
    with pytest.raises(ConfigError, match="'canary' is not possible"):
        release.deploy_version("tiny", "2", Rollout(kind="canary"))
