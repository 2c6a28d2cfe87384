import asyncio
import ssl

import grpc
import pytest
import uvloop
from certificates import Authority
from cryptography import x509

from lepton_tasks.core.access import trusted
from lepton_tasks.core.errors import ConfigError
from lepton_tasks.serving.http.tls import Certificate, certificate_of


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def authority(tmp_path):
    return Authority(tmp_path)


async def serial_seen(port, ca):
    """The serial number of the certificate that a server shows."""
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=trusted(ca))
    seen = x509.load_der_x509_certificate(writer.get_extra_info("ssl_object").getpeercert(True)).serial_number
    writer.close()
    return seen


def test_a_renewed_certificate_is_shown_to_new_connections(authority, caplog):
    cert, key, first = authority.issue()
    clock = Clock()

    async def scenario():
        certificate = Certificate(cert, key, clock=clock)
        server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", ssl=certificate.context())
        port = server.sockets[0].getsockname()[1]
        seen = [await serial_seen(port, authority.file)]
        other, other_key, second = authority.issue("other")
        key.write_bytes(other_key.read_bytes())  # in the middle of a renewal: they do not fit together
        clock.now += 1
        seen.append(await serial_seen(port, authority.file))
        cert.write_bytes(other.read_bytes())
        seen.append(await serial_seen(port, authority.file))  # not looked at again within the second
        clock.now += 1
        seen.append(await serial_seen(port, authority.file))
        server.close()
        return seen, second

    seen, second = uvloop.run(scenario())
    assert seen == [first, first, first, second]
    assert [r.levelname for r in caplog.records if "certificate before it stays" in r.getMessage()] == ["ERROR"]


def test_grpc_shows_a_renewed_certificate_too(authority):
    cert, key, first = authority.issue()
    clock = Clock()

    async def scenario():
        certificate = Certificate(cert, key, clock=clock)
        server = grpc.aio.server()
        port = server.add_secure_port("127.0.0.1:0", certificate.credentials())
        await server.start()
        context = trusted(authority.file)
        context.set_alpn_protocols(["h2"])

        async def shown():
            _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
            seen = writer.get_extra_info("ssl_object").getpeercert(True)
            writer.close()
            return x509.load_der_x509_certificate(seen).serial_number

        before = await shown()
        _, _, second = authority.issue()
        clock.now += 1
        after = await shown()
        await server.stop(0)
        return before, after, second

    before, after, second = asyncio.run(scenario())
    assert (before, after) == (first, second)


def test_old_versions_of_tls_are_refused(authority):
    context = Certificate(*authority.issue()[:2]).context()
    assert context.minimum_version >= ssl.TLSVersion.TLSv1_2


def test_files_that_cannot_be_used_end_the_start(authority, tmp_path):
    cert, key, _ = authority.issue()
    other, other_key, _ = authority.issue("other")
    _, locked, _ = authority.issue("locked", b"secret")
    (tmp_path / "empty.pem").touch()
    pairs = [(cert, other_key), (other, tmp_path / "none"), (tmp_path / "empty.pem", key), (cert, locked)]
    for pair in (*pairs, (cert, None), (None, key)):
        with pytest.raises(ConfigError):
            certificate_of(*pair)
    with pytest.raises(ConfigError, match="has a password"):
        certificate_of(tmp_path / "locked.pem", locked)
    assert certificate_of(None, None) is None


def test_an_authority_is_trusted_by_name_or_by_the_environment(authority, tmp_path, monkeypatch):
    monkeypatch.delenv("LEPTON_SERVING_CA", raising=False)
    assert trusted() is True
    monkeypatch.setenv("LEPTON_SERVING_CA", str(authority.file))
    assert len(trusted().get_ca_certs()) == 1
    for wrong in (tmp_path / "none.pem", __file__):
        with pytest.raises(ConfigError, match=str(wrong)):
            trusted(wrong)
