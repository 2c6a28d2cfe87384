import signal
import time

from certificates import Authority
from free_ports import free_port
from serve_process import started
from tiny_packages import make_package, picture

from lepton_tasks.serving.client import Client


def test_one_command_serves_a_package_and_leaves_nothing_behind(tmp_path):
    make_package(tmp_path / "package")
    port = free_port()
    process = started(tmp_path, str(tmp_path / "package"), "--port", str(port), "--values", "off")
    try:
        lines = iter(process.stdout.readline, "")
        assert any(f"tiny is served at http://127.0.0.1:{port}/docs#tiny" in line for line in lines)
        with Client(f"http://127.0.0.1:{port}") as client:
            assert client.predict("tiny", picture(0))["predictions"][0]["label"] == "dark"
        second = started(tmp_path, str(tmp_path / "package"), "--port", str(port))
        assert "cannot listen on" in " ".join(second.communicate(timeout=60)[0].split())
        assert second.returncode == 2
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.communicate()
    assert list((tmp_path / "tmp").glob("lepton-serve-*")) == []


def test_a_package_is_served_with_a_certificate(tmp_path):
    make_package(tmp_path / "package")
    authority, port = Authority(tmp_path), free_port()
    certificate, key, _ = authority.issue("serve")
    options = ("--port", str(port), "--tls-cert", str(certificate), "--tls-key", str(key))
    process = started(tmp_path, str(tmp_path / "package"), *options)
    try:
        lines = iter(process.stdout.readline, "")
        assert any(f"tiny is served at https://127.0.0.1:{port}/docs#tiny" in line for line in lines)
        with Client(f"https://127.0.0.1:{port}", ca=authority.file) as client:
            assert client.predict("tiny", picture(0))["predictions"][0]["label"] == "dark"
    finally:
        process.kill()
        process.communicate()


def test_an_altered_package_is_not_served(tmp_path):
    make_package(tmp_path / "package")
    (tmp_path / "package" / "card.md").write_text("altered")
    began = time.monotonic()
    process = started(tmp_path, str(tmp_path / "package"), "--port", str(free_port()))
    assert "card.md is missing or differs" in " ".join(process.communicate(timeout=60)[0].split())
    assert (process.returncode, time.monotonic() - began < 30) == (1, True)
