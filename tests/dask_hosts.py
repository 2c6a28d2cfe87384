"""Schedulers and workers as processes of their own, as a person starts them on hosts; and their certificates."""

import contextlib
import datetime as dt
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from free_ports import free_port

PEM = serialization.Encoding.PEM


def certificates(folder: Path, name: str = "hosts") -> dict[str, str]:
    """A fresh authority and one certificate by it, as `dask.tls` wants them."""
    folder.mkdir(parents=True, exist_ok=True)
    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    ca = _certificate(f"{name} ca", ca_key, f"{name} ca", ca_key, ca=True)
    files = {"ca": folder / "ca.pem", "cert": folder / "cert.pem", "key": folder / "key.pem"}
    files["ca"].write_bytes(ca.public_bytes(PEM))
    files["cert"].write_bytes(_certificate(name, key, f"{name} ca", ca_key, ca=False).public_bytes(PEM))
    plain = serialization.PrivateFormat.TraditionalOpenSSL
    files["key"].write_bytes(key.private_bytes(PEM, plain, serialization.NoEncryption()))
    return {kind: str(path) for kind, path in files.items()}


def _certificate(name, key, issuer, signer, *, ca):
    now = dt.datetime.now(dt.UTC)
    names = [x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)]) for text in (name, issuer)]
    builder = x509.CertificateBuilder().subject_name(names[0]).issuer_name(names[1]).public_key(key.public_key())
    builder = builder.serial_number(x509.random_serial_number()).not_valid_before(now - dt.timedelta(hours=1))
    builder = builder.not_valid_after(now + dt.timedelta(days=1))
    return builder.add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True).sign(
        signer, hashes.SHA256()
    )


class Hosts:
    """A cluster of processes; `close` ends each of them with its children."""

    def __init__(self, folder: Path, tls: dict[str, str] | None = None, host: str = "127.0.0.1") -> None:
        self.folder, self.tls, self.host = folder, tls, host
        self.address = f"{'tls' if tls else 'tcp'}://{host}:{free_port()}"
        self.processes: list[subprocess.Popen] = []
        folder.mkdir(parents=True, exist_ok=True)

    def scheduler(self, *options: str, prefix=()) -> subprocess.Popen:
        protocol, _, at = self.address.partition("://")
        known = ["--host", self.host, "--port", at.rpartition(":")[2], "--protocol", protocol]
        dashboard = ["--dashboard-address", f"{self.host}:0"]
        return self._start([*prefix, *_dask("scheduler"), *known, *dashboard, *options])

    def worker(self, *options: str, host: str | None = None, prefix=(), at: str | None = None) -> subprocess.Popen:
        """One worker under its nanny, with one thread."""
        known = ["--nthreads", "1", "--no-dashboard", "--memory-limit", "1GB", "--host", host or self.host]
        scratch = ["--local-directory", str(self.folder)]
        return self._start([*prefix, *_dask("worker"), at or self.address, *known, *scratch, *options])

    def _start(self, command: list[str]) -> subprocess.Popen:
        if self.tls:
            names = {"ca": "--tls-ca-file", "cert": "--tls-cert", "key": "--tls-key"}
            command = [*command, *(word for name, option in names.items() for word in (option, self.tls[name]))]
        log = (self.folder / f"process-{len(self.processes)}.log").open("wb")
        with log:
            paths = os.pathsep.join(filter(None, sys.path))  # a test's own functions are computed there too
            variables = {**os.environ, "PYTHONPATH": paths}
            process = subprocess.Popen(command, stdout=log, stderr=log, env=variables, start_new_session=True)
        self.processes.append(process)
        return process

    def ready(self) -> None:
        """Wait until as many workers as were started have found the scheduler."""
        started = sum("dask_worker" in " ".join(process.args) for process in self.processes)
        eventually(lambda: self.logs().count("Registered to") >= started, 60)

    def logs(self) -> str:
        return "\n".join(path.read_text() for path in sorted(self.folder.glob("process-*.log")))

    def close(self) -> None:
        for process in reversed(self.processes):
            kill_group(process)


def kill_group(process: subprocess.Popen) -> None:
    """End a process and its children at once, as a power cut does."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _dask(kind: str) -> list[str]:
    return [sys.executable, "-m", "distributed.cli.dask_" + kind]


def eventually(condition, seconds: float = 20.0):
    """What the condition gives once it is true; fails after a while."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, "it did not come true"
        time.sleep(0.05)
    return value


class Networks:
    """Namespaces on one bridge: hosts with a network of their own and the files of all. Needs root.

    Each has the address 10.231.N.(2 + its place); this process is 10.231.N.1.
    """

    def __init__(self, count: int) -> None:
        self.mark = os.getpid() % 250
        self.bridge = f"lpt{os.getpid()}"
        self.names = [f"{self.bridge}n{place}" for place in range(count)]
        self.addresses = [f"10.231.{self.mark}.{place + 2}" for place in range(count)]

    def __enter__(self):
        try:
            _ip(f"link add {self.bridge} type bridge")
            _ip(f"addr add 10.231.{self.mark}.1/24 dev {self.bridge}")
            _ip(f"link set {self.bridge} up")
            for name, address in zip(self.names, self.addresses, strict=True):
                _ip(f"netns add {name}")
                _ip(f"link add {name} type veth peer name eth0 netns {name}")
                _ip(f"link set {name} master {self.bridge} up")
                for command in ("link set lo up", f"addr add {address}/24 dev eth0", "link set eth0 up"):
                    _ip(f"-n {name} {command}")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error):
        for command in (*(f"netns del {name}" for name in self.names), f"link del {self.bridge}"):
            with contextlib.suppress(subprocess.CalledProcessError):
                _ip(command)

    def inside(self, place: int) -> list[str]:
        """The words before a command that run it on that host."""
        return ["ip", "netns", "exec", self.names[place]]

    def wire(self, place: int, state: str) -> None:
        """Pull the host's plug (``down``) or put it back (``up``)."""
        _ip(f"link set {self.names[place]} {state}")


def _ip(command: str) -> None:
    subprocess.run(["ip", *command.split()], check=True, capture_output=True)
