import pytest
import yaml
from registry_server import model_registry

from lepton_tasks.cli import release
from lepton_tasks.cli.release import comparison_lines, read_truths, rollout_of, state_line
from lepton_tasks.core.catalogue import DEPLOY_TARGETS
from lepton_tasks.core.environment import use_case_file
from lepton_tasks.core.errors import ConfigError
from lepton_tasks.core.rollout import Rollout
from lepton_tasks.deployment.followers import FollowersTarget
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


def test_what_is_served_state_line():
    challenger = {"version": "3", "kind": "canary", "weight": 0.1, "progress": {"reason": "20 of 50 requests"}}
    assert state_line({"version": "2", "previous": "1", "challenger": challenger}) == (
        "version 2; previous 1; canary 3 at 10%: 20 of 50 requests"
    )
    assert state_line({"version": "2", "previous": None, "challenger": None, "undone": "3", "seconds": 0.01}) == (
        "version 2 (removed 3 in 0.01 s)"
    )
    assert state_line({"version": None, "reason": "it is being loaded."}) == "not ready: it is being loaded."


def test_a_comparison_in_lines():
    records = [
        {"version": v, "status": 200, "label": "cat", "seconds": 0.01, "probability": 0.9} for v in "12" for _ in "abc"
    ]
    lines = comparison_lines({"name": "tiny", "hours": 24, **compare(records, base="1")})
    assert lines[0] == "tiny, the last 24 h"
    assert lines[2].split() == ["1", "3", "0", "10.0", "10.0", "cat", "100%"]
    assert lines[4].endswith("no difference beyond chance")
    assert comparison_lines({"name": "tiny", "hours": 1, **compare([])})[1] == "no requests"


def test_right_labels_make_an_accuracy(tmp_path):
    path = tmp_path / "labels.csv"
    path.write_text("trace,label\n" + "".join(f"t{i},{'cat' if i < 30 else 'dog'}\n" for i in range(40)))
    records = [
        {"version": "12"[i % 2], "status": 200, "label": "cat", "seconds": 0.01, "trace": f"t{i}"} for i in range(40)
    ]
    lines = comparison_lines({"name": "tiny", "hours": 1, **compare(records, base="1", truths=read_truths(path))})
    assert lines[-1].startswith("  accuracy 75.00%, +0.00% (95 %: -2")
    path.write_text("\ufeffid,label\n1,cat\n")  # as Excel writes it
    assert read_truths(path) == {"1": "cat"}
    path.write_text("name,label\n1,cat\n")
    with pytest.raises(ConfigError, match=r"cannot read labels: no column 'trace'\. .* id \(or trace\) and label"):
        read_truths(path)


class Target:
    """Serves one version after another, and holds any that is not to answer at once."""

    def __init__(self, champion="1"):
        self.champion, self.previous, self.challenger, self.asked = champion, None, None, []

    def deploy(self, use_case, ctx, release):
        self.asked.append((use_case.name, release.version, release.digest, release.package().is_dir()))
        if use_case.deploy.rollout.kind == "immediate":
            self.previous, self.champion = self.champion, release.version
        else:
            self.challenger = release.version
        return self._served()

    def promote(self, use_case, ctx):
        self.previous, self.champion, self.challenger = self.champion, self.challenger, None
        return self._served()

    def rollback(self, use_case, ctx):
        undone, self.champion, self.previous = self.champion, self.previous, None
        return self._served() | {"undone": undone, "seconds": 0.1}

    def _served(self):
        return {"version": self.champion, "previous": self.previous, "challenger": self.challenger}


@pytest.fixture
def registry(tmp_path, monkeypatch):
    """Versions 1 and 2 of "wine"; the environment deploys to the target `process`."""
    with model_registry() as running:
        (folder := tmp_path / "package").mkdir()
        (folder / "card.md").write_text("# Wine")
        for version in ("1", "2"):
            running.add("wine", version, folder, f"digest {version}")
        running.aliases["wine"] = {"champion": "1"}
        (file := tmp_path / "environment.yaml").write_text(
            f"tracking_url: {running.url}\nserving: {{target: process, replicas: http://replicas.svc:8100}}\n"
        )
        (tmp_path / "state").mkdir()
        monkeypatch.setenv("LEPTON_ENVIRONMENT", str(file))
        monkeypatch.setenv("LEPTON_HOME", str(tmp_path / "state"))
        monkeypatch.delenv("LEPTON_TRACKING_URL", raising=False)
        yield running


@pytest.fixture
def targets(monkeypatch):
    made = {name: Target() for name in DEPLOY_TARGETS.names()}
    monkeypatch.setattr(DEPLOY_TARGETS, "build", lambda name, *_, **__: made[name])
    return made


def of_project(tmp_path, monkeypatch, **deploy):
    """Make a project whose use case says this about deployment the current one."""
    raw = yaml.safe_load(use_case_file("wine").read_text()) | {"deploy": deploy}
    folder = tmp_path / "project" / "configs" / "use_cases"
    folder.mkdir(parents=True)
    (folder / "wine.yaml").write_text(yaml.safe_dump(raw))
    monkeypatch.chdir(tmp_path / "project")


@pytest.mark.parametrize("named", [None, *DEPLOY_TARGETS.names()])
def test_a_release_goes_to_the_use_cases_own_target_or_else_to_the_environments(
    named, registry, targets, tmp_path, monkeypatch
):
    of_project(tmp_path, monkeypatch, target=named, rollout={"kind": "shadow"})
    target = targets[named or "process"]
    assert release.deploy_version("wine", "2", Rollout())["version"] == "2"
    assert target.asked == [("wine", "2", "digest 2", True)]
    assert registry.aliases["wine"] == {"champion": "2", "previous": "1"}
    assert release.roll_back("wine")["undone"] == "2"
    assert registry.aliases["wine"] == {"champion": "1"}
    assert release.deploy_version("wine", "2", Rollout(kind="hold"))["version"] == "1"
    assert registry.aliases["wine"] == {"champion": "1", "challenger": "2"}
    assert release.promote_challenger("wine")["version"] == "2"
    assert registry.aliases["wine"] == {"champion": "2", "previous": "1"}
    others = [other for other in targets.values() if other is not target]
    assert others
    assert all(other.asked == [] for other in others)
    assert list((tmp_path / "state").iterdir()) == []  # of the package, nothing stays


def test_a_model_without_a_use_case_goes_to_the_environments_target(registry, targets, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert release.deploy_version("wine", "2", Rollout())["version"] == "2"
    assert targets["process"].asked == [("wine", "2", "digest 2", True)]
    with pytest.raises(ConfigError, match="no version 3 of 'wine'"):
        release.deploy_version("wine", "3", Rollout())


def test_what_a_target_cannot_do_it_says_with_the_way_out(registry, tmp_path, monkeypatch):
    of_project(tmp_path, monkeypatch, target="followers")
    with pytest.raises(ConfigError, match=r"no challenger to promote\. `lepton deploy wine VERSION`"):
        release.promote_challenger("wine")
    with pytest.raises(ConfigError, match=r"'canary' is not possible.*Use immediate"):
        release.deploy_version("wine", "2", Rollout(kind="canary"))
    assert registry.aliases["wine"] == {"champion": "1"}
    monkeypatch.setattr(FollowersTarget, "rollback", lambda *_: {"version": "2", "previous": None, "undone": "1"})
    assert release.roll_back("wine")["version"] == "2"
    assert registry.aliases["wine"] == {"champion": "2"}
