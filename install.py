"""Make `.venv` from the lock, with uv. Standard library only: it runs before anything is installed.

    python install.py            # install requirements.txt and this project
    python install.py --lock     # write requirements*.txt anew from requirements*.in

``LEPTON_TORCH`` chooses the build of torch: ``cpu`` (the default), ``auto`` (what the machine's GPU driver takes), or
one of uv's names such as ``cu130`` or ``rocm6.4``. Without it, a torch wheel in a folder that pip knows as `find-links`
is taken first.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import venv
from pathlib import Path

PROJECT = Path(__file__).resolve().parent
VENV = PROJECT / ".venv"
UV = "uv>=0.9,<1"
# (input, output, constrained by)
LOCKS = (
    ("requirements.in", "requirements.txt", None),
    ("requirements-serving.in", "requirements-serving.txt", "requirements.txt"),
)


def pip_setting(python: Path, name: str) -> str:
    """A setting of pip (``find-links``, ``index-url`` ...) from its environment variables or files; empty if unset."""
    variable = os.environ.get(f"PIP_{name.replace('-', '_').upper()}", "")
    if variable:
        return variable
    for section in ("global", "install"):
        reply = subprocess.run(
            [python, "-m", "pip", "config", "get", f"{section}.{name}"], capture_output=True, text=True, check=False
        )
        if reply.returncode == 0:
            return reply.stdout.strip()
    return ""


def uv_environment(python: Path) -> dict[str, str]:
    """The environment for uv: pip's own indexes and find-links, which uv does not read by itself."""
    environment = dict(os.environ)
    for name, variable in (("find-links", "UV_FIND_LINKS"), ("index-url", "UV_INDEX_URL"), ("cert", "SSL_CERT_FILE")):
        value = " ".join(pip_setting(python, name).split())
        if value and variable not in environment:
            environment[variable] = value.replace(" ", ",") if name == "find-links" else value
    links = environment.get("UV_FIND_LINKS", "")
    local = any(
        list(Path(folder).glob("torch-*.whl")) for folder in links.split(",") if folder and Path(folder).is_dir()
    )
    if not local:
        environment.setdefault("UV_TORCH_BACKEND", os.environ.get("LEPTON_TORCH", "cpu"))
    elif "LEPTON_TORCH" in os.environ:
        environment["UV_TORCH_BACKEND"] = os.environ["LEPTON_TORCH"]
    return environment


def install(uv: Path, python: Path, environment: dict[str, str]) -> None:
    """Install exactly what the lock names, then this project, editable."""
    base = [uv, "pip", "install", "--python", python, "--quiet"]
    subprocess.run([*base, "-r", PROJECT / "requirements.txt"], env=environment, check=True)
    subprocess.run([*base, "--no-deps", "--editable", PROJECT], env=environment, check=True)


def lock(uv: Path, environment: dict[str, str]) -> None:
    """Resolve requirements*.in with what the CPU build of torch needs; any build of that version fits the lock."""
    for source, target, constraint in LOCKS:
        if not (PROJECT / source).exists():
            continue
        path = PROJECT / target
        if path.exists():  # uv keeps to the versions in it: without the label it would take the CUDA build's needs
            path.write_text(re.sub(r"^(torch==[\d.]+)$", r"\1+cpu", path.read_text(), flags=re.MULTILINE))
        command = [uv, "pip", "compile", source, "-o", target, "--quiet", "--python-version", "3.11"]
        command += ["--no-emit-find-links", "--no-emit-index-url", "--custom-compile-command", "make lock"]
        command += ["-c", constraint] if constraint else []
        subprocess.run(command, cwd=PROJECT, env=environment, check=True)
        path.write_text(path.read_text().replace("+cpu", ""))


def main() -> int:
    """Parse the command line and do it; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lock", action="store_true", help="write the locks anew instead of installing")
    options = parser.parse_args()
    if sys.version_info < (3, 11):  # noqa: UP036 -- this file runs before anything has checked the interpreter
        print(
            f"install: Lepton needs Python 3.11 or newer; this is {sys.version.split()[0]}. Try: make PYTHON=python3.12"
        )
        return 2
    python, uv = VENV / "bin" / "python", VENV / "bin" / "uv"
    if not python.exists():
        venv.create(VENV, with_pip=True)
    if not uv.exists():
        subprocess.run([python, "-m", "pip", "install", "--quiet", UV], check=True)
    environment = uv_environment(python)
    try:
        lock(uv, environment) if options.lock else install(uv, python, environment)
    except subprocess.CalledProcessError as error:
        print(f"install: {error.cmd[0].name} failed with status {error.returncode}; its message is above.")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
