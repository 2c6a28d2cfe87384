import inspect
import json
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from lepton_tasks.cli import app as cli
from lepton_tasks.cli.listing import listing
from lepton_tasks.core.environment import project_root

HEAVY = {"torch", "pytorch_lightning", "mlflow", "great_expectations", "dask", "distributed", "airflow", "pandas"}
USE_CASES = project_root() / "configs" / "use_cases"


@pytest.fixture(autouse=True)
def state(tmp_path, monkeypatch):
    monkeypatch.setenv("LEPTON_HOME", str(tmp_path / "state"))


def lepton(monkeypatch, capsys, *arguments):
    """Exit status, standard output and standard error of the command."""
    monkeypatch.setattr(sys, "argv", ["lepton", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    told = capsys.readouterr()
    return ended.value.code, told.out, told.err


@pytest.mark.parametrize("arguments", [["--help"], ["list"], ["list", "models"], ["list", "stages", "--json"]])
def test_help_and_lists_import_nothing_heavy(arguments):
    script = (
        "import sys\nfrom lepton_tasks.cli import main\nsys.argv = ['lepton', *sys.argv[1:]]\n"
        "try: main()\nexcept SystemExit as end: assert not end.code, end.code\n"
        "print('MODULES', *sys.modules)"
    )
    ran = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=True)
    modules = ran.stdout.rpartition("MODULES")[2].split()
    assert HEAVY.isdisjoint(modules)


def test_a_state_folder_that_cannot_be_made_is_told_with_a_way_out(monkeypatch, capsys, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("LEPTON_HOME", str(tmp_path / "file"))
    code, _, err = lepton(monkeypatch, capsys, "up", "serving")
    assert code == 2
    assert f"lepton: {tmp_path / 'file'}: the state folder cannot be used: Not a directory" in err
    assert "LEPTON_HOME=" in err


def test_every_command_has_help_with_an_example():
    for command in cli.app.registered_commands:
        name = command.name or command.callback.__name__
        shown = CliRunner().invoke(cli.app, [name, "--help"])
        assert shown.exit_code == 0
        assert f"lepton {name}" in shown.output.replace("`", ""), name


def test_validate_says_which_files_are_right(monkeypatch, capsys, tmp_path):
    broken = tmp_path / "broken.yaml"
    broken.write_text((USE_CASES / "mnist_digits.yaml").read_text().replace("mnist_digits", "broken", 1))
    good = str(USE_CASES / "mnist_digits.yaml")
    code, out, _ = lepton(monkeypatch, capsys, "validate", good)
    assert (code, out) == (0, f"{good}: ok\n")
    broken.write_text(broken.read_text().replace("width: 32", "widht: 32"))
    code, out, err = lepton(monkeypatch, capsys, "validate", good, str(broken), "--json")
    assert code == 1
    assert "broken.yaml: model.params.widht: CNN has no parameter 'widht'. Did you mean 'width'?" in err
    result = json.loads(out.splitlines()[-1])
    assert (result["ok"], result["checked"], list(result["faults"])) == (False, 2, [str(broken)])


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["run", "nowhere.yaml"], "nowhere.yaml: no such file."),
        (["run", str(USE_CASES / "mnist_digits.yaml"), "--set", "train.epochz=1"], "Did you mean 'epochs'?"),
        (["run", str(USE_CASES / "mnist_digits.yaml"), "--until", "trian"], "Did you mean 'train'?"),
        (["list", "modles"], "Did you mean 'models'?"),
        (["frobnicate"], "No such command"),
        (["run"], "Missing argument"),
    ],
)
def test_a_wrong_command_or_file_is_usage(monkeypatch, capsys, arguments, told):
    code, _, err = lepton(monkeypatch, capsys, *arguments)
    assert code == 2
    assert told in " ".join(err.split())


def test_an_error_is_json_too(monkeypatch, capsys):
    code, out, _ = lepton(monkeypatch, capsys, "run", "nowhere.yaml", "--json")
    assert code == 2
    assert json.loads(out.splitlines()[-1])["error"]["type"] == "ConfigError"


def test_a_table_is_scored_not_sent(monkeypatch, capsys, tmp_path):
    (tmp_path / "rows.csv").write_text("a\n1\n")
    code, _, err = lepton(monkeypatch, capsys, "predict", "wine", str(tmp_path / "rows.csv"))
    assert code == 2
    assert f"lepton predict wine --input {tmp_path / 'rows.csv'} --output rows-answers.parquet" in " ".join(err.split())


def test_predict_without_a_server_fails_and_says_how_to_start_one(monkeypatch, capsys, tmp_path):
    picture = tmp_path / "a.png"
    picture.write_bytes(b"x")
    monkeypatch.setenv("LEPTON_SERVING_URL", "http://127.0.0.1:9")
    code, _, err = lepton(monkeypatch, capsys, "predict", "mnist_digits", str(picture))
    assert code == 1
    assert "lepton up" in err


def test_list_marks_a_broken_use_case_and_shows_the_others(monkeypatch, tmp_path):
    folder = tmp_path / "configs" / "use_cases"
    folder.mkdir(parents=True)
    (folder / "mnist_digits.yaml").write_text((USE_CASES / "mnist_digits.yaml").read_text())
    (folder / "odd.yaml").write_text("name: odd\n")
    monkeypatch.chdir(tmp_path)
    shown = CliRunner().invoke(cli.app, ["list"]).output
    assert "Handwritten digits (image_classification)" in shown
    assert "BROKEN: odd.yaml: data: missing" in shown


def test_monitors_and_remedies_are_listed_with_the_defaults_that_they_have():
    from lepton_tasks.core.catalogue import ALERT_CHANNELS, MONITORS, REMEDIES

    for kind, registry in (("monitors", MONITORS), ("remedies", REMEDIES), ("alert_channels", ALERT_CHANNELS)):
        for row in listing(kind):
            parameters = inspect.signature(registry.load(row["name"])).parameters
            assert list(row["params"]) == list(parameters)
            for name, value in row["params"].items():
                default = parameters[name].default
                if value is None:
                    assert default is inspect.Parameter.empty
                else:
                    assert json.loads(value) == (list(default) if isinstance(default, tuple) else default)
    shown = CliRunner().invoke(cli.app, ["list", "monitors"]).output
    assert "moderate: 0.1, large: 0.25" in shown
