"""From a checkpoint to a verified package: evaluate, gate, export, verify, on real networks and ONNX Runtime."""

import json
import shutil

import numpy as np
import pytest
import torch
from tiny_features import PAIRS, build_network, build_task, served
from tiny_packages import make_package
from tiny_training import FITTED, LABELS, PREPROCESSOR, SIDE, job, use_case, write_features

from lepton_tasks.core.artifacts import CheckpointRef, DatasetRef, EvaluationRef, ModelPackageRef, PreprocessorRef
from lepton_tasks.core.catalogue import MODELS
from lepton_tasks.core.context import RunContext
from lepton_tasks.core.errors import ArtifactError, ConfigError, GateError
from lepton_tasks.core.store import write_json
from lepton_tasks.learning.image_classification import ImageClassification
from lepton_tasks.models.inference import predict
from lepton_tasks.serving.package import load_package, write_package
from lepton_tasks.stages import champion_comparison
from lepton_tasks.stages.replay import read_outputs, write_outputs
from lepton_tasks.stages.runner import run_stage
from lepton_tasks.training.checkpoint import read_checkpoint, write_checkpoint
from lepton_tasks.training.export import export_onnx

RUN = "the-run"


class Tracker:
    """What a stage sent to MLflow."""

    sent = []

    def __init__(self, url):
        pass

    def __getattr__(self, name):
        return lambda run_id, *values, **more: self.sent.append((name, run_id, *values, *more.values()))


@pytest.fixture
def registry(monkeypatch):
    """Aliases of a registry without a server, and everything that is sent to a run."""
    aliases = {}
    monkeypatch.setattr("lepton_tasks.tracking.mlflow.Tracker", Tracker)
    monkeypatch.setattr(champion_comparison.registry, "alias", lambda url, name, alias: aliases.get(alias))
    monkeypatch.setattr(Tracker, "sent", [])
    return aliases


def learned(network, features, steps=60):
    """`network` after a few steps on the tiny features."""
    task = ImageClassification(FITTED, LABELS)
    trainable = task.trainable(network)
    inputs = task.inputs(torch.from_numpy(np.load(features / "train" / "inputs.npy")))
    targets = task.targets(torch.from_numpy(np.load(features / "train" / "targets.npy")), 0.0)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.02)
    for _ in range(steps):
        loss = task.loss(trainable(inputs), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return network.eval()


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A state folder with published features, preprocessor and a checkpoint of a network that learned them."""
    root = tmp_path_factory.mktemp("home")
    ctx = RunContext.local(root)
    features = ctx.store.draft("transform", "f" * 32)
    write_features(features.path)
    preprocessor = ctx.store.draft("fit_features", "p" * 32)
    write_json(preprocessor.path / "preprocessor.json", PREPROCESSOR)
    torch.manual_seed(0)
    of = job(tmp_path_factory.mktemp("job"))
    network = MODELS.build(of.model.name, of.model.params, **of.learning_task().network_arguments())
    torch.save(learned(network, features.path).state_dict(), of.best)
    write_json(of.history, [{"epoch": 0, "train_loss": 0.5, "validation_loss": 0.4, "validation_accuracy": 0.9}])
    checkpoint = ctx.store.draft("train", "c" * 32)
    write_checkpoint(checkpoint.path, of, {"epochs": 1, "best_epoch": 0, "parameters": 1234, "seconds": 1.5})
    refs = {
        "features": features.publish(DatasetRef),
        "preprocessor": preprocessor.publish(PreprocessorRef),
        "checkpoint": checkpoint.publish(CheckpointRef, {"mlflow_run_id": RUN}),
        "splits": DatasetRef(uri="store://split/" + "0" * 32, digest="0" * 64, stage="split"),  # pictures need none
    }
    return root, refs


@pytest.fixture
def evaluated(home, registry):
    root, refs = home
    ctx = RunContext.local(root)
    result = run_stage("evaluate", use_case(), ctx, refs)
    return ctx, {**refs, "evaluation": result.ref}


@pytest.fixture
def packaged(evaluated):
    ctx, refs = evaluated
    exported = run_stage("export", use_case(), ctx, refs).ref
    return ctx, {**refs, "exported": exported, "package": exported}


def altered(ctx, ref, change, stage, kind=EvaluationRef):
    """A published copy of an artifact with `change` applied to its folder."""
    draft = ctx.store.draft(stage, "altered" + str(abs(hash(change)))[:8])
    shutil.copytree(ctx.open(ref), draft.path, dirs_exist_ok=True)
    for name in ("_ref.json", "_manifest.json"):
        (draft.path / name).unlink()
    change(draft.path)
    return draft.publish(kind, ref.facts, replace=True)


def as_champion(ref, run_id="an-older-run", version="4"):
    tags = {"lepton.package_uri": ref.uri, "lepton.package_digest": ref.digest}
    return {"version": version, "run_id": run_id, "tags": tags}


def test_evaluation_tells_how_good_the_network_is_and_shows_it(evaluated):
    ctx, refs = evaluated
    folder, facts = ctx.open(refs["evaluation"]), refs["evaluation"].facts
    outputs = read_outputs(folder / "outputs.npz")["probabilities"]
    targets = np.load(ctx.open(refs["features"]) / "test" / "targets.npy")
    assert facts["test_accuracy"] == (outputs.argmax(1) == targets).mean() > 0.7
    assert facts["baseline_accuracy"] == pytest.approx(max(np.bincount(targets)) / len(targets))
    np.testing.assert_allclose(outputs.sum(1), 1, atol=1e-5)
    metrics = json.loads((folder / "metrics.json").read_text())
    assert sum(row["rows"] for row in metrics["details"].values()) == len(targets)
    assert {path.name for path in folder.glob("*.png")} == {"confusion_matrix.png", "worst.png"}


def test_a_package_answers_as_the_network_does(packaged):
    ctx, refs = packaged
    result = run_stage("verify_package", use_case(), ctx, refs)
    assert json.loads((ctx.open(result.ref) / "parity.json").read_text()) == result.ref.facts
    assert load_package(ctx.open(result.ref)).run(np.zeros((1, SIDE, SIDE, 1), np.uint8))
    assert result.ref.facts["max_difference"] < 1e-5
    assert result.ref.facts["metric_onnx"] == result.ref.facts["metric_torch"]
    assert result.ref.facts["rows"] == 24
    package = load_package(ctx.open(refs["package"]))
    assert package.spec.inputs[0].model_dump() == {"name": "image", "dtype": "uint8", "shape": (None, SIDE, SIDE, 1)}
    assert package.spec.outputs[0].shape == (None, 2)
    card = (package.folder / "card.md").read_text()
    for evidence in ("Tells where the light is.", refs["features"].digest, "| test | 24 |", "1,234 parameters"):
        assert evidence in card


def noise(folder):
    outputs = read_outputs(folder / "served.npz")
    outputs["probabilities"][3] += 0.01
    write_outputs(folder / "served.npz", outputs)


def test_a_package_that_answers_otherwise_is_refused(packaged):
    ctx, refs = packaged
    refs = {**refs, "evaluation": altered(ctx, refs["evaluation"], noise, "evaluate")}
    with pytest.raises(GateError, match=r'export.max_difference: the package.s answers differ.*"max_difference": 0.0'):
        run_stage("verify_package", use_case(), ctx, refs)


def test_a_package_whose_example_is_answered_otherwise_is_refused(packaged):
    ctx, refs = packaged

    def mislabel(folder):
        example = json.loads((folder / "expected.json").read_text())
        example["label"] = next(label for label in LABELS if label != example["label"])
        package = load_package(folder)
        write_package(
            folder,
            onnx=folder / "model.onnx",
            spec=package.spec,
            preprocessor=PREPROCESSOR,
            card="",
            example=((folder / "example.png").read_bytes(), example),
        )

    refs = {**refs, "exported": altered(ctx, refs["package"], mislabel, "export", ModelPackageRef)}
    with pytest.raises(GateError, match='"example_difference": Infinity'):
        run_stage("verify_package", use_case(), ctx, refs)


def test_a_package_altered_after_it_was_sealed_is_refused(packaged):
    ctx, refs = packaged

    def cut(folder):
        (folder / "model.onnx").write_bytes((folder / "model.onnx").read_bytes()[:-100])

    refs = {**refs, "exported": altered(ctx, refs["package"], cut, "export", ModelPackageRef)}
    with pytest.raises(ArtifactError, match=r"model.onnx is missing or differs"):
        run_stage("verify_package", use_case(), ctx, refs)


def compressing(**settings):
    return use_case(compress={"candidates": ["int8_static"], "max_metric_drop": 0.1, "max_slowdown": 100, **settings})


def test_the_smallest_graph_that_answers_as_well_is_packed_with_its_own_figures(packaged):
    ctx, refs = packaged
    result = run_stage("compress", compressing(), ctx, refs)
    assert result.ref.facts["chosen"] == "int8_static"
    assert result.ref.facts["size_ratio"] < 0.9  # so small a graph is nodes more than weights
    sealed = run_stage("verify_package", compressing(), ctx, {**refs, "compressed": result.ref}).ref
    package = load_package(ctx.open(sealed))
    assert package.spec.compression.name == sealed.facts["compression"] == "int8_static"
    assert (package.folder / "model.onnx").stat().st_size == result.ref.facts["onnx_bytes"]
    payload, expected = package.example()
    assert package.predict(payload) == expected != load_package(ctx.open(refs["exported"])).example()[1]
    report = json.loads((package.folder / "compression.json").read_text())
    assert package.spec.metrics == report["candidates"][1]["test_metrics"]
    assert package.spec.validation == report["candidates"][1]["validation_metrics"]
    assert "| int8_static |" in (package.folder / "card.md").read_text()
    assert [sent[1:] for sent in Tracker.sent if sent[0] == "files"][-1][-1] == "compression"


def test_a_smaller_network_learns_from_the_trained_one(packaged):
    ctx, refs = packaged
    student = {"student": {"name": "cnn", "params": {"width": 2}}, "epochs": 12}
    settings = compressing(candidates=[{"name": "distilled", "params": student}], max_metric_drop=0.5, max_mismatch=1)
    result = run_stage("compress", settings, ctx, refs)
    report = json.loads((ctx.open(result.ref) / "compression.json").read_text())
    assert result.ref.facts["chosen"].startswith("distilled"), report
    assert result.ref.facts["size_ratio"] < 0.9
    assert report["candidates"][1]["validation"] > 0.7  # it has learned something
    assert not list((ctx.root / "work" / "compress").glob("*/*"))


def test_a_network_without_its_weakest_channels_is_trained_on(packaged):
    ctx, refs = packaged
    pruned = {"name": "pruned", "params": {"share": 0.5, "epochs": 3, "rate": 1.0}}
    settings = compressing(candidates=[pruned], max_metric_drop=0.5, max_mismatch=1)
    result = run_stage("compress", settings, ctx, refs)
    report = json.loads((ctx.open(result.ref) / "compression.json").read_text())
    assert result.ref.facts["chosen"].startswith("pruned"), report
    assert result.ref.facts["size_ratio"] < 0.9
    assert report["candidates"][1]["validation"] > 0.7


def test_a_changed_byte_in_any_file_of_a_package_is_refused(packaged, tmp_path):
    ctx, refs = packaged
    refs = {**refs, "compressed": run_stage("compress", compressing(), ctx, refs).ref}
    sealed = ctx.open(run_stage("verify_package", compressing(), ctx, refs).ref)
    manifest = json.loads((sealed / "manifest.json").read_text())
    made = {path.name for path in sealed.iterdir()} - {"manifest.json", "_ref.json", "_manifest.json"}
    assert set(manifest) == made >= {"compression.json", "expected.json", "model.onnx", "parity.json", "profile.json"}
    for name in manifest:
        copy = shutil.copytree(sealed, tmp_path / name)
        data = bytearray((copy / name).read_bytes())
        data[len(data) // 2] ^= 1
        (copy / name).write_bytes(data)
        with pytest.raises(ArtifactError, match=f"{name} is missing or differs"):
            load_package(copy)


def test_if_no_graph_is_good_enough_the_exported_one_stays(packaged):
    ctx, refs = packaged
    result = run_stage("compress", compressing(max_slowdown=1e-9), ctx, refs)
    assert result.ref.facts["chosen"] == "exported"
    kept, exported = ctx.open(result.ref), ctx.open(refs["exported"])
    for name in ("model.onnx", "expected.json", "package.json"):
        assert (kept / name).read_bytes() == (exported / name).read_bytes()
    assert "times as long" in (kept / "card.md").read_text()


def test_a_compressed_graph_that_loses_too_much_on_the_test_split_is_refused(packaged):
    ctx, refs = packaged
    compressed = run_stage("compress", compressing(), ctx, refs).ref

    def reverse(folder):
        outputs = read_outputs(folder / "served.npz")
        targets = np.load(ctx.open(refs["features"]) / "test" / "targets.npy")
        outputs["probabilities"][:] = np.eye(2)[targets]  # as if the trained network knew it all
        write_outputs(folder / "served.npz", outputs)
        write_outputs(folder / "outputs.npz", outputs)

    refs = {**refs, "compressed": compressed, "evaluation": altered(ctx, refs["evaluation"], reverse, "evaluate")}
    with pytest.raises(GateError, match=r"compress.max_metric_drop: .*0.12\d+ is above the limit of 0.002"):
        run_stage("verify_package", compressing(max_metric_drop=0.001), ctx, refs)


def test_a_compressed_graph_that_falls_behind_the_champion_is_refused(packaged, registry, monkeypatch):
    ctx, refs = packaged
    refs = {**refs, "compressed": run_stage("compress", compressing(), ctx, refs).ref}
    registry["champion"] = as_champion(refs["exported"])
    settings = compressing(max_metric_drop=1, max_mismatch=1)
    passed = run_stage("verify_package", settings, ctx, refs)
    assert "champion" not in passed.ref.facts  # or an unchanged run would make a version of its own
    answers, light = champion_comparison.replay.outputs_of, []

    def worse(package, payloads):
        outputs = answers(package, payloads)
        if package.spec.compression is not None:
            light.append(len(payloads))
            outputs["probabilities"] = np.tile(np.float32([0.4, 0.6]), (len(payloads), 1))
        return outputs

    monkeypatch.setattr(champion_comparison.replay, "outputs_of", worse)
    registry["champion"]["version"] = "5"  # so that it is asked anew
    with pytest.raises(
        GateError, match=r"gate.max_drop: accuracy 0.\d+ of the graph that would be served \(int8_static"
    ):
        run_stage("verify_package", settings, ctx, refs)
    assert light


def test_what_the_log_must_not_hold_travels_in_the_package(packaged):
    ctx, refs = packaged
    redact = {"hash": ["bright*"], "answer": "drop"}
    sealed = run_stage("verify_package", use_case(deploy={"redact": redact}), ctx, refs).ref
    rule = load_package(ctx.open(sealed)).redaction
    assert (rule.hash, rule.answer, rule.sample) == (("bright*",), "drop", 1.0)
    wrong = use_case(deploy={"redact": {"drop": ["brihgtness"]}})
    message = r"deploy.redact.drop: no column like 'brihgtness' is logged. Did you mean 'brightness'\?"
    with pytest.raises(ConfigError, match=message):
        run_stage("verify_package", wrong, ctx, refs)
    assert load_package(ctx.open(run_stage("verify_package", use_case(), ctx, refs).ref)).redaction is None


def test_the_package_tells_what_the_rows_it_was_made_with_are_like_as_requests(packaged):
    ctx, refs = packaged
    profile = json.loads((ctx.open(refs["package"]) / "profile.json").read_text())
    rows = sum(len(np.load(ctx.open(refs["features"]) / split / "inputs.npy")) for split in ("train", "validation"))
    assert profile["rows"] == rows
    assert list(profile["columns"]) == ["brightness", "contrast"]
    assert 0 < profile["columns"]["brightness"]["mean"] < 1
    tested = len(np.load(ctx.open(refs["features"]) / "test" / "inputs.npy"))
    assert profile["test_rows"] == profile["answers"]["rows"] == tested
    assert sorted(profile["answers"]["columns"]) == ["label", "probability"]
    assert sum(count for _, count in profile["answers"]["columns"]["label"]["top"]) == tested
    assert profile["training"] == {}  # nobody counted the energy of these weights


def test_without_a_champion_the_thresholds_decide(evaluated):
    ctx, refs = evaluated
    result = run_stage("gate", use_case(gate={"thresholds": {"accuracy": 0.6}}), ctx, refs)
    assert result.ref.facts == {"passed": True, "champion": None}
    assert ("tags", RUN, {"lepton.gate": "passed"}) in Tracker.sent


def test_a_missed_threshold_is_named_and_logged_and_publishes_nothing(evaluated):
    ctx, refs = evaluated
    before = set((ctx.root / "artifacts" / "gate").glob("*"))
    with pytest.raises(GateError) as caught:
        run_stage("gate", use_case(gate={"thresholds": {"accuracy": 0.999}}), ctx, refs)
    accuracy = refs["evaluation"].facts["test_accuracy"]
    assert str(caught.value).startswith(
        f"quarters.yaml: gate.thresholds.accuracy: accuracy {accuracy:.4f} on the test split is below 0.9990."
    )
    assert ("tags", RUN, {"lepton.gate": "failed"}) in Tracker.sent
    assert set((ctx.root / "artifacts" / "gate").glob("*")) == before
    assert not list((ctx.root / "artifacts" / ".drafts").glob("gate-*"))


def test_a_figure_that_is_not_a_number_is_refused_even_without_thresholds(evaluated):
    ctx, refs = evaluated

    def spoil(folder):
        metrics = json.loads((folder / "metrics.json").read_text())
        write_json(folder / "metrics.json", {**metrics, "test": {**metrics["test"], "loss": float("nan")}})

    refs = {**refs, "evaluation": altered(ctx, refs["evaluation"], spoil, "evaluate")}
    with pytest.raises(GateError, match=r"quarters.yaml: gate: loss on the test split is nan, which is no figure"):
        run_stage("gate", use_case(), ctx, refs)


def test_a_metric_that_does_not_exist_is_named(evaluated):
    ctx, refs = evaluated
    with pytest.raises(ConfigError, match=r"no metric named 'acuracy'. Did you mean 'accuracy'\?"):
        run_stage("gate", use_case(gate={"thresholds": {"acuracy": 0.5}}), ctx, refs)


def guess(folder):
    """The candidate answers every row with the same label."""
    outputs = read_outputs(folder / "outputs.npz")["probabilities"]
    outputs[:] = [0.4, 0.6]
    write_outputs(folder / "outputs.npz", {"probabilities": outputs})
    metrics = json.loads((folder / "metrics.json").read_text())
    targets = np.arange(len(outputs)) % 2
    write_json(folder / "metrics.json", {**metrics, "test": {**metrics["test"], "accuracy": float(targets.mean())}})


def test_a_worse_candidate_than_the_champion_is_refused_and_the_champion_named(packaged, registry):
    ctx, refs = packaged
    registry["champion"] = as_champion(refs["package"])
    accuracy = refs["evaluation"].facts["test_accuracy"]
    refs = {**refs, "evaluation": altered(ctx, refs["evaluation"], guess, "evaluate")}
    with pytest.raises(GateError) as caught:
        run_stage("gate", use_case(), ctx, refs)
    assert f"the champion (version 4) has {accuracy:.4f}" in str(caught.value)
    assert "Version 4 stays champion." in str(caught.value)


def test_a_candidate_as_good_as_the_champion_passes_with_a_figure_for_chance(packaged, registry):
    ctx, refs = packaged
    registry["champion"] = as_champion(refs["package"])
    result = run_stage("gate", use_case(), ctx, refs)
    champion = json.loads((ctx.open(result.ref) / "verdict.json").read_text())["champion"]
    assert champion["accuracy"] == refs["evaluation"].facts["test_accuracy"]
    assert (champion["compared"], champion["only_champion_right"], champion["p_value"]) == (True, 0, 1.0)


def test_the_champion_is_not_compared_with_itself(packaged, registry):
    ctx, refs = packaged
    registry["champion"] = as_champion(refs["package"], run_id=RUN)
    assert champion_comparison.champion_state(use_case(), ctx, evaluation=refs["evaluation"]) is None
    verdict = run_stage("gate", use_case(), ctx, refs).ref
    champion = json.loads((ctx.open(verdict) / "verdict.json").read_text())["champion"]
    assert champion == {"version": "4", "compared": False, "reason": "it is the same model"}


def test_a_champion_for_other_inputs_is_not_compared_and_the_reason_is_kept(evaluated, registry, tmp_path):
    ctx, refs = evaluated
    other = ctx.store.draft("export", "other")
    make_package(other.path)
    registry["champion"] = as_champion(other.publish(ModelPackageRef, replace=True))
    result = run_stage("gate", use_case(), ctx, refs)
    champion = json.loads((ctx.open(result.ref) / "verdict.json").read_text())["champion"]
    assert champion["reason"] == "its labels is ['dark', 'light'], the candidate's ['lower', 'upper']"


def test_a_champion_whose_package_is_gone_is_not_compared_and_the_reason_is_kept(evaluated, registry):
    ctx, refs = evaluated
    gone = ModelPackageRef(uri="store://export/" + "0" * 32, digest="0" * 64, stage="export")
    registry["champion"] = as_champion(gone)
    result = run_stage("gate", use_case(), ctx, refs)
    champion = json.loads((ctx.open(result.ref) / "verdict.json").read_text())["champion"]
    assert "is missing or has no manifest" in champion["reason"]


def test_weights_of_another_network_are_refused(home):
    root, refs = home
    ctx = RunContext.local(root)

    def widen(folder):
        spec = json.loads((folder / "checkpoint.json").read_text())
        spec["model"]["params"]["width"] = 8
        write_json(folder / "checkpoint.json", spec)

    with pytest.raises(ArtifactError, match="weights do not fit the model 'cnn'"):
        read_checkpoint(ctx.open(altered(ctx, refs["checkpoint"], widen, "train", CheckpointRef)))


@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
def test_every_model_of_the_catalogue_becomes_the_same_graph(pair, tmp_path):
    import onnxruntime

    task = build_task(*pair[:2])
    rows = served(task, pair[1], 7)
    torch.manual_seed(0)
    network = task.deployable(build_network(*pair)).eval()
    path = tmp_path / "model.onnx"
    tensors = export_onnx(network, rows, path, outputs=task.outputs, opset=20)
    session = onnxruntime.InferenceSession(path)
    for batch in (rows[:1], rows):
        expected = predict(network, batch, task.outputs)
        answers = session.run(list(task.outputs), {tensors["inputs"][0]["name"]: batch})
        for name, answer in zip(task.outputs, answers, strict=True):
            np.testing.assert_allclose(answer, expected[name], atol=1e-5)
    assert len(list(tmp_path.iterdir())) == 1  # no weights beside the graph
