import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from stage_hosts import runs, stage_host, wait_for

import lepton_tasks

# What a process can say about itself.
SELF = """
import json, os, sys, threading
print(json.dumps({
    "arguments": sys.argv, "main": __name__, "folder": os.getcwd(), "home": os.environ["LEPTON_X"],
    "leads": os.getsid(0) == os.getpgid(0) == os.getpid(), "input": os.readlink("/proc/self/fd/0"),
    "files": sorted(int(name) for name in os.listdir("/proc/self/fd"))[:-1], "threads": threading.active_count(),
    "has_light": "light" in sys.modules, "nice": os.nice(0), "modules": [m for m in sys.modules if "host" in m],
}))
"""
END = """
import os, signal, sys
how = sys.argv[1]
if how == "raises": raise RuntimeError("out of paint")
if how == "killed": os.kill(os.getpid(), signal.SIGKILL)
sys.exit({"text": "no paint", "none": None}.get(how, 3))
"""
# Leaves a child behind; both ignore SIGTERM, or not.
FAMILY = """
import os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN if sys.argv[1] == "stubborn" else signal.SIG_DFL)
child = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(600)"])  # inherits what is ignored
print(os.getpid(), child.pid, flush=True)
time.sleep(600)
"""
SLOW = "import time; time.sleep(0.4)"
FAMILIES = []  # what `family` has started


@pytest.fixture(scope="module")
def modules(tmp_path_factory):
    folder = tmp_path_factory.mktemp("modules")
    slow = {f"slow{number}": SLOW for number in range(4)}
    for name, text in {"light": "", "tell_self": SELF, "end": END, "family": FAMILY, **slow}.items():
        (folder / f"{name}.py").write_text(text)
    return folder


@pytest.fixture(scope="module")
def host(tmp_path_factory, modules):
    deep = tmp_path_factory.mktemp("host") / ("deep" * 30)  # a socket's own path may have 107 bytes
    with stage_host(deep, "light", modules=modules) as running:
        wait_for(lambda: "light" in told(running)["has"])
        yield running
    for process in FAMILIES:  # a plain child outlives a plain SIGTERM to its parent
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def told(host, *arguments, **variables):
    text, status = host.tell("tell_self", *arguments, LEPTON_X="1", **variables)
    assert status == 0, text
    about = json.loads(text)
    return {**about, "has": ["light"] if about["has_light"] else []}


def family(host, kind, **options):
    reader, writer = os.pipe()
    with os.fdopen(reader) as stream:
        process = host.start("family", kind, output=writer, **options)
        os.close(writer)
        members = [psutil.Process(int(pid)) for pid in stream.readline().split()]
    FAMILIES.extend(members)
    return process, members


def test_a_fork_is_what_the_caller_would_have_started(host):
    about = told(host, "a", "--b=c")
    assert about["arguments"][1:] == ["a", "--b=c"]
    assert about["main"] == "__main__"
    assert about["folder"] == str(Path.cwd())
    assert about["leads"]
    assert about["input"] == "/dev/null"
    assert about["files"] == [0, 1, 2]
    assert (about["threads"], about["nice"]) == (1, os.nice(0))
    assert about["has_light"]


def test_each_fork_has_its_callers_variables(host):
    assert json.loads(host.tell("tell_self", LEPTON_X="one")[0])["home"] == "one"
    assert json.loads(host.tell("tell_self", LEPTON_X="two")[0])["home"] == "two"


@pytest.mark.parametrize(
    ("how", "status", "said"),
    [
        ("three", 3, ""),
        ("none", 0, ""),
        ("text", 1, "no paint"),
        ("raises", 1, "RuntimeError: out of paint"),
        ("killed", -9, ""),
    ],
)
def test_the_exit_status_comes_back(host, how, status, said):
    text, found = host.tell("end", how)
    assert found == status
    assert said in text


def test_the_socket_is_this_users_alone(host):
    assert (host.root / "run" / "stages.sock").stat().st_mode & 0o777 == 0o600


def test_no_fork_for_another_environment_folder_or_interpreter(host, monkeypatch, tmp_path):
    assert host.start("end", OMP_NUM_THREADS="7") is None
    assert "OMP_NUM_THREADS" in (host.root / "log").read_text()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "executable", "/usr/bin/python3")
        assert host.start("end") is not None  # the command names the same one
    from lepton_tasks.core import stage_host_client

    assert stage_host_client.start(["/usr/bin/other", "-m", "end"], environment=host.environment, grace=0) is None
    monkeypatch.chdir(tmp_path)
    assert host.start("end") is None


def test_without_a_host_there_is_no_fork(host, tmp_path):
    assert host.start("end", LEPTON_HOME=str(tmp_path / "nowhere")) is None
    with stage_host(tmp_path / "state") as other:
        other.process.kill()
        other.process.wait()
        assert (tmp_path / "state" / "run" / "stages.sock").exists()
        assert other.start("end") is None


def test_signals_reach_the_process(host):
    process, _ = family(host, "plain")
    assert process.poll() is None
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.05)
    process.terminate()
    assert process.wait(10) == -signal.SIGTERM
    process.kill()  # of no consequence any more
    stubborn, (_, child) = family(host, "stubborn")
    stubborn.terminate()
    with pytest.raises(subprocess.TimeoutExpired):
        stubborn.wait(0.2)
    stubborn.kill()
    assert stubborn.wait(10) == -signal.SIGKILL
    child.kill()


@pytest.mark.parametrize(("kind", "grace"), [("plain", 60.0), ("stubborn", 0.3), ("stubborn", 0.0)])
def test_when_the_caller_goes_the_whole_group_ends(host, kind, grace):
    process, members = family(host, kind, grace=grace)
    process._connection.close()
    wait_for(lambda: not any(runs(member) for member in members))


def test_when_the_host_is_killed_its_forks_end(modules, tmp_path):
    with stage_host(tmp_path / "state", modules=modules) as host:
        process, (fork, child) = family(host, "plain")
        host.process.kill()
        assert process.wait(10) == -signal.SIGTERM
        wait_for(lambda: not runs(fork))
        child.kill()


def test_a_request_that_comes_early_is_served_with_what_is_there(modules, tmp_path):
    with stage_host(tmp_path / "state", "slow0", "slow1", "slow2", "light", modules=modules) as host:
        assert told(host)["has"] == []
        wait_for(lambda: told(host)["has"] == ["light"])


def test_a_library_that_cannot_be_imported_stops_nothing(modules, tmp_path):
    with stage_host(tmp_path / "state", "no_such_library", "light", modules=modules) as host:
        wait_for(lambda: told(host)["has"] == ["light"])
        assert "No module named 'no_such_library'" in (host.root / "log").read_text()


def test_a_host_whose_code_has_changed_refuses_and_starts_again(modules, tmp_path, monkeypatch):
    package = Path(lepton_tasks.__file__).parent
    shutil.copytree(package / "core", tmp_path / "lepton_tasks" / "core")
    (tmp_path / "lepton_tasks" / "stages").mkdir()
    for name in ("__init__.py", "stages/__init__.py", "stages/host.py"):
        shutil.copy(package / name, tmp_path / "lepton_tasks" / name)
    monkeypatch.chdir(tmp_path)
    with stage_host(tmp_path / "state", "light", modules=modules) as host:
        process, _ = family(host, "plain")
        os.utime(tmp_path / "lepton_tasks" / "stages" / "host.py")
        assert host.start("end") is None
        assert host.start("end") is None  # it waits for what it has forked
        assert process.poll() is None
        process.terminate()
        process.wait(10)
        wait_for(host.answers)
        assert told(host)["main"] == "__main__"
        assert host.process.poll() is None


def test_the_host_ends_with_its_state_folder(tmp_path, monkeypatch):
    with stage_host(tmp_path / "state") as host:
        shutil.rmtree(tmp_path / "state")
        assert host.process.wait(15) == 0


def test_the_next_host_takes_over(modules, tmp_path):
    with stage_host(tmp_path / "state", modules=modules) as old:
        shutil.move(tmp_path / "state" / "run", tmp_path / "state" / "away")
        with stage_host(tmp_path / "state", modules=modules) as new:
            assert old.process.wait(15) == 0
            assert told(new)["main"] == "__main__"
