"""The servers that are compared: how each is installed, started, and asked."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.served.graphs import Model
from benchmarks.served.processes import Server, free_port

_SCRIPTS = Path(__file__).parent / "peer_servers"
_ONNXRUNTIME = "onnxruntime==1.32.0"  # as ours: the model must cost the same everywhere


@dataclasses.dataclass(frozen=True)
class Peer:
    """A server that is not ours, in its plainest set-up that is quick: one worker, ONNX Runtime with one thread.

    Attributes:
        name: On the command line and in ratios.
        title: In tables.
        wire: Form of requests, one of `WIRES`.
        path: Of the URL; ``{name}`` is the model's.
        start: Its interpreter, the model, a port and an empty folder -> the process.
        requirements: What is installed into an environment of its own; nothing: it runs in the project's own.
        ready_made: A model server, rather than a framework that one writes a server with.
    """

    name: str
    title: str
    wire: str
    path: str
    start: Callable[[Path, Model, int, Path], Server]
    requirements: tuple[str, ...] = ()
    ready_made: bool = False


def install(peer: Peer, cache: Path) -> Path:
    """The interpreter that has the peer, in an environment made by uv that is kept in `cache`.

    Raises:
        RuntimeError: it cannot be installed; the last line of the installer is told.
    """
    if not peer.requirements:
        return Path(sys.executable)
    folder = cache / peer.name
    python, mark = folder / "bin" / "python", folder / "installed.json"
    if mark.exists() and json.loads(mark.read_text()) == list(peer.requirements):
        return python
    uv = shutil.which("uv", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    if uv is None:
        raise RuntimeError("uv, which installs it, is missing")
    commands = [
        [uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(folder)],
        [uv, "pip", "install", "--quiet", "--python", str(python), _ONNXRUNTIME, *peer.requirements],
    ]
    for command in commands:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"not installed: {' '.join(done.stderr.split())[-200:]}")
    mark.write_text(json.dumps(peer.requirements))
    return python


def version(peer: Peer, python: Path) -> str:
    """Of the peer's first requirement, as it is installed."""
    wanted = peer.requirements[0].partition("==")[0] if peer.requirements else peer.name
    command = [str(python), "-c", "import sys, importlib.metadata as m; print(m.version(sys.argv[1]))", wanted]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip()


def _script(file: str) -> Callable[[Path, Model, int, Path], Server]:
    def start(python: Path, model: Model, port: int, folder: Path) -> Server:
        command = [python, _SCRIPTS / file, "--port", port, "--name", model.name, "--onnx", model.path]
        return Server([str(part) for part in command], port, folder, {})

    return start


def _bentoml(python: Path, model: Model, port: int, folder: Path) -> Server:
    command = [python, "-m", "bentoml", "serve", "bentoml_server:Service", "--working-dir", _SCRIPTS]
    command += ["--host", "127.0.0.1", "--port", port]
    variables = {"ONNX": str(model.path), "BENTOML_DO_NOT_TRACK": "True", "BENTOML_HOME": str(folder)}
    return Server([str(part) for part in command], port, folder, variables)


def _mlserver(python: Path, model: Model, port: int, folder: Path) -> Server:
    settings = {
        "debug": False,
        "host": "127.0.0.1",
        "http_port": port,
        "grpc_port": free_port(),
        "metrics_endpoint": None,
        "parallel_workers": 0,  # a worker of its own gains nothing here: answers cross one more process
        "gzip_enabled": False,
    }
    runtime = {
        "name": model.name,
        "implementation": "mlserver_model.Runtime",
        "parameters": {"uri": str(model.path)},
    }
    (folder / "settings.json").write_text(json.dumps(settings))
    (folder / "model-settings.json").write_text(json.dumps(runtime))
    command = [str(python.parent / "mlserver"), "start", str(folder)]
    return Server(command, port, folder, {"PYTHONPATH": str(_SCRIPTS)})


def _mlflow(python: Path, model: Model, port: int, folder: Path) -> Server:
    saved = folder / "model"
    save: Sequence[str] = [
        str(python),
        str(_SCRIPTS / "mlflow_save.py"),
        "--onnx",
        str(model.path),
        "--folder",
        str(saved),
    ]
    done = subprocess.run(save, capture_output=True, text=True, check=False, cwd=folder)
    if done.returncode:
        raise RuntimeError(f"it does not save the model: {done.stderr.strip().splitlines()[-1]}")
    command = [python, "-m", "mlflow", "models", "serve", "--model-uri", saved, "--env-manager", "local"]
    command += ["--host", "127.0.0.1", "--port", port]
    path = f"{python.parent}{os.pathsep}{os.environ.get('PATH', '')}"  # it starts `uvicorn` by name
    return Server([str(part) for part in command], port, folder, {"PATH": path})


_V2 = "/v2/models/{name}/infer"
PEERS = {
    peer.name: peer
    for peer in (
        Peer("echo", "ONNX Runtime + echo", "raw", "/", _script("echo_server.py")),
        Peer("starlette", "Starlette + orjson", "v2", _V2, _script("starlette_server.py")),
        Peer("fastapi", "FastAPI + pydantic", "v2", _V2, _script("fastapi_server.py")),
        Peer("litserve", "LitServe", "v2", _V2, _script("litserve_server.py"), ("litserve==0.2.19",), True),
        Peer("bentoml", "BentoML", "bentoml", "/infer", _bentoml, ("bentoml==1.4.40",), True),
        Peer("mlserver", "MLServer", "v2", _V2, _mlserver, ("mlserver==1.7.1",), True),
        Peer("kserve", "KServe SDK", "v2", _V2, _script("kserve_server.py"), ("kserve==0.21.0",), True),
        Peer("mlflow", "mlflow models serve", "mlflow", "/invocations", _mlflow, ("mlflow==3.17.2", "onnx"), True),
    )
}


def start(peer: Peer, python: Path, model: Model, folder: Path) -> Server:
    """The peer, just started; it is not ready yet."""
    folder.mkdir(parents=True)
    return peer.start(python, model, free_port(), folder)


def url_path(peer: Peer, model: Model) -> str:
    """Where the model is asked."""
    return peer.path.format(name=model.name)
