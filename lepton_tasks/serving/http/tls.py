"""The server's certificate, reloaded when it changes."""

from __future__ import annotations

import logging
import ssl
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from lepton_tasks.core.errors import ConfigError

if TYPE_CHECKING:
    import grpc

_CHECK_INTERVAL = 1.0  # seconds

_log = logging.getLogger("lepton.serving.tls")

_Signature = tuple[tuple[int, int, int], ...]


class Certificate:
    """A certificate and its key. New connections use the files on disk, checked at most once a second.

    If certificate and key do not match, e.g. during a renewal, the previous pair stays in use.

    Args:
        cert: PEM file: the server certificate followed by its intermediate certificates.
        key: PEM file of the private key, without a password.
        clock: Monotonic seconds.

    Raises:
        ConfigError: they cannot be used.
    """

    def __init__(self, cert: Path, key: Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._cert, self._key, self._clock = cert, key, clock
        self._loaded = self._signature()
        self._current = self._load()
        self._next_check = clock() + _CHECK_INTERVAL

    def context(self) -> ssl.SSLContext:
        """The server context; TLS 1.2 or later (Python's default)."""
        listening = self._load()

        def choose(connection: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> None:
            self._reload()
            connection.context = self._current  # called on every handshake, with or without a server name

        listening.sni_callback = choose
        return listening

    def credentials(self) -> grpc.ServerCredentials:
        """The same for gRPC."""
        import grpc

        def configuration() -> grpc.ServerCertificateConfiguration:
            pair = self._key.read_bytes(), self._cert.read_bytes()
            return grpc.ssl_server_certificate_configuration([pair])

        sent = self._current

        def renewed() -> grpc.ServerCertificateConfiguration | None:
            nonlocal sent
            self._reload()
            if sent is self._current:
                return None
            sent = self._current
            return configuration()

        return grpc.dynamic_ssl_server_credentials(configuration(), renewed, require_client_authentication=False)

    def _reload(self) -> None:
        now = self._clock()
        if now < self._next_check:
            return
        self._next_check = now + _CHECK_INTERVAL
        try:
            if (signature := self._signature()) == self._loaded:
                return
            self._loaded = signature
            self._current = self._load()
            _log.info("new certificate: %s", self._cert)
        except ConfigError as error:
            _log.error("%s The certificate before it stays.", error)

    def _signature(self) -> _Signature:
        """Modification time, inode and size of both files."""
        found = []
        for path in (self._cert, self._key):
            try:
                status = path.stat()
            except OSError as error:
                raise ConfigError(f"it cannot be read: {error.strerror}.", where=str(path)) from error
            found.append((status.st_mtime_ns, status.st_ino, status.st_size))
        return tuple(found)

    def _load(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            context.load_cert_chain(self._cert, self._key, password=_no_password)
        except (OSError, ValueError) as error:  # SSLError is an OSError
            reason = getattr(error, "reason", None) or str(error)
            fix = "Give --tls-cert and --tls-key, PEM files that belong together."
            raise ConfigError(
                f"certificate and key cannot be used: {reason}.", where=str(self._cert), fix=fix
            ) from error
        return context


def certificate_of(cert: Path | None, key: Path | None) -> Certificate | None:
    """The server certificate; None if neither file is given.

    Raises:
        ConfigError: only one file is given, or they cannot be used.
    """
    if cert is None or key is None:
        if cert or key:
            raise ConfigError("a certificate requires its key.", where="--tls-cert", fix="Give --tls-key, too.")
        return None
    return Certificate(cert, key)


def _no_password() -> str:
    """Fail instead of prompting on the terminal."""
    raise ValueError("the key has a password")
