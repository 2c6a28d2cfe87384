"""What the README shows is true: its files exist, its commands are commands, its example is a use case."""

import re
import subprocess

import pytest
import typer
import yaml

from lepton_tasks.cli.app import app
from lepton_tasks.core.components import check_names, check_params_of
from lepton_tasks.core.environment import project_root
from lepton_tasks.core.use_case import parse_use_case

ROOT = project_root()
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, re.DOTALL)
COMMANDS = [line.split("#")[0].strip() for kind, text in BLOCKS if kind == "bash" for line in text.splitlines() if line]


def test_the_example_is_a_valid_use_case():
    example = parse_use_case(yaml.safe_load(next(t for kind, t in BLOCKS if kind == "yaml")), where="README.md")
    check_names(example, where="README.md")
    check_params_of(example, where="README.md")


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("make ")])
def test_make_targets_exist(command):
    subprocess.run([*command.split(), "--dry-run"], cwd=ROOT, check=True, capture_output=True)


@pytest.mark.parametrize("command", [c for c in COMMANDS if "bin/lepton" in c])
def test_lepton_commands_exist(command):
    group = typer.main.get_command(app)
    for word in command.split()[1:]:
        if not hasattr(group, "commands"):
            break  # the rest are its arguments
        assert word in group.commands
        group = group.commands[word]


@pytest.mark.parametrize(
    "path", sorted(set(re.findall(r"`((?:configs|docs|docker|benchmarks|lepton_tasks)/[\w./]*)`", README)))
)
def test_paths_exist(path):
    if path != "lepton_tasks/models/mlp.py":  # the file the reader is told to write
        assert (ROOT / path).exists()


@pytest.mark.parametrize("variable", sorted(set(re.findall(r"LEPTON_[A-Z_]+", README))))
def test_variables_are_read_somewhere(variable):
    found = subprocess.run(
        ["grep", "-rlF", variable, "--include=*.py", "lepton_tasks", "tests", "install.py"],
        cwd=ROOT,
        capture_output=True,
    )
    assert found.returncode == 0
