import ast
import re
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

PROJECT = Path(__file__).parents[3]
# Spans are exported where it is installed, videos decoded; nothing else is missing without them.
OPTIONAL = {"opentelemetry", "cv2", "blake3"}  # BLAKE3 is for the artifacts of stages; packages have sha256


def imported(path):
    """Top-level names a module imports when it runs; what stands under TYPE_CHECKING is not imported."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            node.body = [ast.Pass()]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]


def normal(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def names(file):
    lines = (PROJECT / file).read_text().splitlines()
    return {normal(re.match(r"[\w.-]+", line).group()) for line in lines if re.match(r"\w", line)}


def test_requirements_serving_holds_every_import_of_the_serving_image():
    folders = [PROJECT / "lepton_tasks" / name for name in ("core", "codecs", "serving")]
    files = {path for folder in folders for path in folder.rglob("*.py")}
    files.remove(PROJECT / "lepton_tasks" / "serving" / "client.py")  # for callers; the server does not import it
    modules = {name for path in files for name in imported(path)} - sys.stdlib_module_names - {"lepton_tasks"}
    distributions, listed = packages_distributions(), names("requirements-serving.in")
    assert {"fastapi", "onnxruntime", "PIL"} <= modules
    # `google` is of several distributions; the one that is listed is the one that is meant.
    missing = {name for name in modules - OPTIONAL if not listed & {normal(of) for of in distributions[name]}}
    assert not missing


def test_the_locks_agree():
    def pins(file):
        return dict(re.findall(r"^([\w.-]+)==(\S+)", (PROJECT / file).read_text(), re.M))

    whole, serving = pins("requirements.txt"), pins("requirements-serving.txt")
    assert serving == {name: whole[name] for name in serving}
    assert not {"torch", "mlflow", "mlflow-skinny", "dask", "pandas", "great-expectations"} & set(serving)
    assert names("requirements-serving.in") <= set(serving)
