"""Images and containers by buildah and podman, in a storage of their own: nothing of the user's is touched."""

import contextlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PROJECT = Path(__file__).parents[1]
TOOLS = ("buildah", "podman", "runc")
CONTAINED = ("--read-only", "--tmpfs", "/tmp", "--cap-drop", "all", "--security-opt", "no-new-privileges")
_BASE = "localhost/lepton-test-base"
_BASE_PACKAGES = "python3.11-minimal,python3-pip,python3.11-venv,ca-certificates"
# What lets a build reach a package mirror from here.
_MOUNTED = ("/etc/ssl/certs", "/etc/pip.conf", "/etc/uv")


def missing():
    """Why containers cannot be tested here; empty if they can."""
    tools = [*TOOLS, *(() if os.environ.get("LEPTON_TEST_BASE_IMAGE") else ("mmdebstrap",))]
    absent = [tool for tool in tools if shutil.which(tool) is None]
    if absent:
        return f"needs {', '.join(absent)}"
    return "" if os.geteuid() == 0 else "needs root: the base image is made with mmdebstrap and chroot"


class Engine:
    """buildah and podman. The storage, and in it the base image and unchanged layers, is kept between runs.

    Its folder is LEPTON_TEST_CONTAINERS, or one under the system's folder for temporary files.
    """

    def __init__(self):
        default = Path(tempfile.gettempdir()) / f"lepton-test-containers-{os.getuid()}"
        self.folder = Path(os.environ.get("LEPTON_TEST_CONTAINERS") or default)
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        assert self.folder.stat().st_uid == os.getuid(), f"{self.folder} belongs to somebody else"
        settings = self.folder / "containers.conf"
        settings.write_text(
            '[containers]\ndefault_ulimits = ["nofile=4096:4096", "nproc=4096:4096"]\n'
            '[engine]\nruntime = "runc"\ncgroup_manager = "cgroupfs"\nevents_logger = "file"\n'
        )
        self._environment = {**os.environ, "CONTAINERS_CONF": str(settings), "TMPDIR": str(self.folder)}
        self._storage = ["--root", str(self.folder / "storage"), "--runroot", str(self.folder / "run")]

    def podman(self, *arguments, check=True):
        """The standard output of a podman command."""
        return self._run("podman", arguments, check=check)

    def base_image(self):
        """An image with Python 3.11 and nothing else: given, kept, or made from Debian packages."""
        if given := os.environ.get("LEPTON_TEST_BASE_IMAGE"):
            return given
        if not self.podman("images", "--quiet", _BASE):
            archive = self.folder / "base.tar"
            command = ["mmdebstrap", "--quiet", "--variant=minbase", f"--include={_BASE_PACKAGES}", "bookworm", archive]
            subprocess.run(command, check=True)
            self.podman("import", "--quiet", str(archive), _BASE)
            archive.unlink()
        return _BASE

    def build(self, dockerfile, tag, **arguments):
        """Build docker/<dockerfile>; packages come from where pip and uv find them here. Returns its size in MB."""
        uv = _installer().uv_environment(Path(sys.executable))
        links = uv.get("UV_FIND_LINKS", "")
        values = {"BASE_IMAGE": self.base_image(), "UV_FIND_LINKS": links, "UV_DEFAULT_INDEX": uv.get("UV_INDEX_URL")}
        values = {name: value for name, value in (values | arguments).items() if value is not None}
        if "LEPTON_TORCH" in (PROJECT / "docker" / dockerfile).read_text():
            values["LEPTON_TORCH"] = uv.get("UV_TORCH_BACKEND", "")
        folders = [path for path in (*_MOUNTED, *links.split(",")) if path and Path(path).exists()]
        self._run(
            "buildah",
            [
                *("bud", "--layers", "--isolation", "chroot", "--format", "docker", "--quiet"),
                *(part for name, value in values.items() for part in ("--build-arg", f"{name}={value}")),
                *(part for path in folders for part in ("-v", f"{path}:{path}:ro")),
                *("-f", str(PROJECT / "docker" / dockerfile), "-t", tag, str(PROJECT)),
            ],
        )
        return int(self.podman("image", "inspect", "--format", "{{.Size}}", tag)) / 1e6

    @contextlib.contextmanager
    def container(self, *arguments):
        """A container in the background, removed with its volumes in the end; gives its id."""
        identity = self.podman("run", "--detach", *arguments)
        try:
            yield identity
        finally:
            self.podman("rm", "--force", "--volumes", "--time", "0", identity, check=False)

    def _run(self, tool, arguments, *, check=True):
        command = [tool, *self._storage, *arguments]
        done = subprocess.run(command, env=self._environment, text=True, capture_output=True, check=False)
        assert not check or done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        return done.stdout.strip()


def until(condition, seconds):
    """Wait for a condition; returns the seconds it took."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < seconds, f"not so within {seconds} s"
        time.sleep(0.1)
    return time.monotonic() - began


def _installer():
    spec = importlib.util.spec_from_file_location("lepton_install", PROJECT / "install.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
