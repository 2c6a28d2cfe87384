import numpy as np
import pytest
from tiny_packages import graph, make_package
from tiny_training import use_case

from lepton_tasks.core.catalogue import COMPRESSIONS
from lepton_tasks.core.components import check_params_of
from lepton_tasks.core.compress_settings import Compress
from lepton_tasks.core.errors import ArtifactError, ConfigError, StageError
from lepton_tasks.core.release_protocols import CompressionInput
from lepton_tasks.core.spec import ComponentSpec
from lepton_tasks.serving.package import load_package
from lepton_tasks.stages.candidates import EXPORTED, Candidate, build, choose, measure_latency
from lepton_tasks.stages.pipeline import stages_of
from lepton_tasks.training.compress.report import comparison_plot, comparison_table


def measured(name, size, latency, drop, *, mismatch=None, reason=""):
    figures = {"bytes": size, "latency_ms": latency, "validation_drop": drop, "validation_mismatch": mismatch}
    return Candidate(name, reason=reason, figures={} if reason else figures | {"parts": {"a": drop}})


def chosen(*others, **settings):
    candidates = [measured(EXPORTED, 100, 1.0, 0.0), *others]
    return choose(candidates, Compress(**settings), "accuracy").name, [c.reason for c in candidates[1:]]


def test_the_smallest_that_keeps_to_the_limits_is_taken():
    name, reasons = chosen(measured("small", 30, 1.0, 0.01), measured("fast", 50, 0.4, 0.0))
    assert (name, reasons) == ("small", ["", "small is smaller"])


def test_or_the_fastest_if_that_is_preferred():
    name, reasons = chosen(measured("small", 30, 1.0, 0.01), measured("fast", 50, 0.4, 0.0), prefer="latency")
    assert (name, reasons) == ("fast", ["fast is faster", ""])


@pytest.mark.parametrize(
    ("candidate", "reason"),
    [
        (measured("x", 30, 0.5, 0.0101), "accuracy is 0.0101 worse; 0.01 is allowed"),
        (measured("x", 30, 0.5, float("nan")), "accuracy is nan worse; 0.01 is allowed"),
        (measured("x", 30, 0.5, 0.0, mismatch=0.06), "6.0% of the labels differ; 5.0% is allowed"),
        (measured("x", 30, 5.0, 0.0), "it takes 5.00 times as long; 1.1 is allowed"),
        (measured("x", 99, 0.95, 0.0), "it is neither smaller nor faster"),
        (measured("x", 0, 0, 0, reason="failed: no"), "failed: no"),
    ],
)
def test_without_any_the_exported_graph_stays_and_the_reason_is_told(candidate, reason):
    assert chosen(candidate) == (EXPORTED, [reason])


class Made:
    """A compression that writes what it was told to, or raises."""

    content = b""

    def compress(self, model, made):
        if not self.content:
            raise TypeError("no such layer")
        made.write_bytes(self.content)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "failed: no such layer"),
        (b"no graph", "ONNX Runtime refuses the graph"),
        (graph().replace(b"probabilities", b"possibilities"), "the graph has no tensor 'probabilities'"),
    ],
)
def test_a_graph_that_does_not_run_is_no_candidate(tmp_path, monkeypatch, content, reason):
    make_package(tmp_path / "package")
    monkeypatch.setattr(COMPRESSIONS, "entries", {"made": f"{__name__}:Made"})
    monkeypatch.setattr(Made, "content", content)
    package = load_package(tmp_path / "package")
    model = CompressionInput(
        tmp_path / "package" / "model.onnx", lambda count: np.zeros((count, 8, 8, 1), np.uint8), None
    )
    candidate = build(ComponentSpec(name="made"), model, package, tmp_path / "made.onnx")
    assert candidate.reason.startswith("failed: ")
    assert reason in candidate.reason
    with pytest.raises(ArtifactError):
        _ = candidate.loaded


def test_latencies_are_taken_of_one_row_and_of_a_batch(tmp_path):
    make_package(tmp_path)
    candidate, failed = Candidate("x", package=load_package(tmp_path)), Candidate("y", reason="failed: no")
    measure_latency([candidate, failed], np.zeros((2, 8, 8, 1), np.uint8))
    assert 0 < candidate.figures["latency_ms"] < 50
    assert candidate.figures["rows_per_second"] > 1000 / candidate.figures["latency_ms"]  # a batch costs less a row
    assert failed.figures == {}


def test_the_table_and_the_picture_show_all_candidates(tmp_path):
    failed = measured("broken", 0, 0, 0, reason="failed: a | b")
    candidates = [measured(EXPORTED, 2048, 1.0, 0.0), measured("small", 512, 0.5, 0.004, mismatch=0.01), failed]
    rows = [candidate.report() for candidate in candidates]
    lines = comparison_table(rows, "small", "accuracy").splitlines()
    assert lines[3] == "| small | 0.5 | 0.500 |  |  | +0.0040 | 1.0% | +0.0040 (a) |  |  | **served** |"
    assert lines[4].endswith("| failed: a / b |")
    comparison_plot(tmp_path / "plot.png", rows, "small", "accuracy")
    assert (tmp_path / "plot.png").stat().st_size > 5_000


class Breaking:
    """A package whose graph fails from some batch on."""

    def run(self, batch):
        if len(batch) > 1:
            raise RuntimeError("no room")


def test_a_graph_that_fails_later_is_out_and_the_others_are_measured(tmp_path):
    make_package(tmp_path)
    exported = Candidate(EXPORTED, package=load_package(tmp_path))
    breaking = Candidate("x", spec=ComponentSpec(name="x"), package=Breaking())
    measure_latency([exported, breaking], np.zeros((2, 8, 8, 1), np.uint8))
    assert breaking.reason == "failed: no room"
    assert "latency_ms" in exported.figures
    with pytest.raises(RuntimeError):
        measure_latency([Candidate(EXPORTED, package=Breaking())], np.zeros((2, 8, 8, 1), np.uint8))


def test_a_training_that_was_told_to_stop_ends_the_stage(tmp_path, monkeypatch):
    make_package(tmp_path)
    monkeypatch.setattr(COMPRESSIONS, "entries", {"made": f"{__name__}:Stopped"})
    model = CompressionInput(tmp_path / "model.onnx", lambda count: np.zeros((count, 8, 8, 1), np.uint8), None)
    with pytest.raises(StageError):
        build(ComponentSpec(name="made"), model, load_package(tmp_path), tmp_path / "made.onnx")


class Stopped:
    def compress(self, model, made):
        raise StageError("training was told to stop.")


@pytest.mark.parametrize(
    ("student", "message"),
    [
        ("cnm", "no model named 'cnm'. Did you mean 'cnn'?"),
        ("rnn", "the model 'rnn' does not take input_shape"),
    ],
)
def test_a_student_that_does_not_suit_is_found_when_the_use_case_is_checked(student, message):
    case = use_case(compress={"candidates": [{"name": "distilled", "params": {"student": student}}]})
    with pytest.raises(ConfigError, match=message) as caught:
        check_params_of(case, where="quarters.yaml")
    assert "quarters.yaml: compress.candidates.0.params.student" in str(caught.value)


def test_a_network_that_cannot_be_pruned_is_found_when_the_use_case_is_checked():
    case = use_case(task="image_generation", model="dcgan", compress={"candidates": ["pruned"]})
    with pytest.raises(ConfigError, match=r"0.name: no channels can be removed from the model 'dcgan'. Suitable: auto"):
        check_params_of(case, where="quarters.yaml")


def test_the_stage_is_there_only_if_it_is_asked_for():
    assert "compress" not in [stage.name for stage in stages_of(use_case())]
    stages = {stage.name: stage for stage in stages_of(use_case(compress={}))}
    names = list(stages)
    assert names[names.index("compress") - 1 :][:3] == ["export", "compress", "verify_package"]
    assert "compressed" in stages["verify_package"].needs
