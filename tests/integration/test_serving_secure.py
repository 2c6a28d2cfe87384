"""A real server with TLS and keys, and one that refuses to be open to other machines."""

import httpx
import pytest
from certificates import Authority
from free_ports import free_port
from serving_process import Server
from tiny_packages import expected, make_package, picture

from lepton_tasks.core.access import own_key, trusted
from lepton_tasks.serving.access.keys import KEYS_FILE, add_key
from lepton_tasks.serving.client import Client
from lepton_tasks.serving.errors import ForbiddenError


def test_two_processes_answer_over_tls_those_who_have_a_key(tmp_path):
    authority, home = Authority(tmp_path), tmp_path / "home"
    key, _ = add_key(home / KEYS_FILE, "shop", now=0, models=["tiny"], rate=0.01, burst=4)
    cert, cert_key, _ = authority.issue()
    options = ("--tls-cert", str(cert), "--tls-key", str(cert_key), "--processes", "2")
    server = Server(home, free_port(), *options)
    try:
        server.url = server.url.replace("http:", "https:")
        server.http.close()
        server.http = httpx.Client(base_url=server.url, verify=trusted(authority.file), timeout=60, trust_env=False)
        server.wait_ready()
        assert server.deploy("tiny", tmp_path / "p", "1", make_package(tmp_path / "p")).status_code == 200
        for _ in range(4):  # one connection each, so both processes are met
            with Client(server.url, api_key=key, ca=authority.file) as client:
                reply = client.predict("tiny", picture(100))
                assert reply["predictions"][0]["probability"] == pytest.approx(expected(100)["probability"], abs=1e-6)
        headers = {"Authorization": f"Bearer {key}", "content-type": "image/png"}
        url = f"{server.url}/v1/models/tiny/predict"
        status = {
            httpx.post(url, headers=headers, content=picture(1), verify=trusted(authority.file)).status_code
            for _ in range(6)
        }
        assert status == {429}  # the four were counted together
        with Client(server.url, api_key=own_key(home), ca=authority.file) as client:
            assert client.predict("tiny", picture(100))["version"] == "1"
        with Client(server.url, api_key="", ca=authority.file) as client, pytest.raises(ForbiddenError):
            client.predict("tiny", picture(100))
        assert "server" not in server.http.get("/v2").headers
        with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
            httpx.get(f"{server.url}/v2", trust_env=False)
    finally:
        assert server.stop() == 0


def test_a_server_without_keys_does_not_listen_for_other_machines(tmp_path):
    server = Server(tmp_path, free_port(), "--host", "0.0.0.0")
    server.http.close()
    assert server.process.wait(30) == 1
    assert "other machines could send requests without a key" in server.log.read_text()
