"""What README and other documents show is true: links, commands, the example, and that no key or record is missing."""

import re
import subprocess

import pytest
import typer
import yaml

from lepton_tasks.cli.app import app
from lepton_tasks.core.components import check_names, check_params_of
from lepton_tasks.core.compress_settings import Compress
from lepton_tasks.core.environment import project_root
from lepton_tasks.core.train_settings import Train, Tune
from lepton_tasks.core.use_case import Deploy, Evaluate, Export, Gate, Split, UseCase, parse_use_case
from lepton_tasks.core.watch_settings import Watch

ROOT = project_root()
README = (ROOT / "README.md").read_text()
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs" / "guides").glob("*.md"))]
DECISIONS = ROOT / "docs" / "decisions"
LINKED = [*PAGES, *sorted(DECISIONS.glob("*.md")), *sorted((ROOT / "docs" / "reports").rglob("*.md"))]
BLOCKS = [found for page in PAGES for found in re.findall(r"```(\w+)\n(.*?)```", page.read_text(), re.DOTALL)]
COMMANDS = [line.split("#")[0].strip() for kind, text in BLOCKS if kind == "bash" for line in text.splitlines() if line]


def test_the_example_is_a_valid_use_case():
    example = parse_use_case(yaml.safe_load(next(t for kind, t in BLOCKS if kind == "yaml")), where="README.md")
    check_names(example, where="README.md")
    check_params_of(example, where="README.md")


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("make ")])
def test_make_targets_exist(command):
    subprocess.run([*command.split(), "--dry-run"], cwd=ROOT, check=True, capture_output=True)


@pytest.mark.parametrize("command", [c for c in COMMANDS if re.match(r"(\.venv/bin/)?lepton ", c)])
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


@pytest.mark.parametrize("page", LINKED, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for path, _, heading in re.findall(r"\]\((?!http)([^)#]*)(#([^)]*))?\)", page.read_text()):
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), path
        if heading:
            headings = re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE)
            assert heading in {re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in headings}


def test_the_index_lists_every_decision_once():
    listed = re.findall(r"^\| \[(\d{3})\]\((\1-[\w-]+\.md)\) \|", (DECISIONS / "README.md").read_text(), re.MULTILINE)
    assert sorted(name for _, name in listed) == sorted(path.name for path in DECISIONS.glob("[0-9]*.md"))


@pytest.mark.parametrize("section", [UseCase, Split, Train, Tune, Gate, Export, Compress, Deploy, Evaluate, Watch])
def test_the_reference_names_every_key(section):
    reference = (ROOT / "docs" / "guides" / "use-cases.md").read_text()
    assert [key for key in section.model_fields if not re.search(rf"`[^`\n]*\b{key}\b", reference)] == []
