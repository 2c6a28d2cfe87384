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

_LOOK_EVERY = 1.0  # seconds

_log = logging.getLogger("lepton.serving.tls")

_Signature = tuple[tuple[int, int, int], ...]


class Certificate:
    """A certificate and its key. New connections get the one on disk, looked for at most once a second.

    Files that do not fit together, as in the middle of a renewal, are not taken; the pair before them stays.

    Args:
        cert: PEM file: the server's certificate, then those between it and its authority.
        key: PEM file of its private key, without a password.
        clock: Seconds that never go back.

    Raises:
        ConfigError: they cannot be used.
    """

    def __init__(self, cert: Path, key: Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._cert, self._key, self._clock = cert, key, clock
        self._seen = self._signature()
        self._current = self._load()
        self._look_again = clock() + _LOOK_EVERY

    def context(self) -> ssl.SSLContext:
        """The context to listen with: TLS 1.2 and later, as Python's defaults have it."""
        listening = self._load()

        def choose(connection: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> None:
            self._look()
            connection.context = self._current  # called for every handshake, with a server name or without

        listening.sni_callback = choose
        return listening

    def credentials(self) -> grpc.ServerCredentials:
        """The same for gRPC."""
        import grpc

        def configuration() -> grpc.ServerCertificateConfiguration:
            pair = self._key.read_bytes(), self._cert.read_bytes()
            return grpc.ssl_server_certificate_configuration([pair])

        given = self._current

        def renewed() -> grpc.ServerCertificateConfiguration | None:
            nonlocal given
            self._look()
            if given is self._current:
                return None
            given = self._current
            return configuration()

        return grpc.dynamic_ssl_server_credentials(configuration(), renewed, require_client_authentication=False)

    def _look(self) -> None:
        now = self._clock()
        if now < self._look_again:
            return
        self._look_again = now + _LOOK_EVERY
        try:
            if (signature := self._signature()) == self._seen:
                return
            self._seen = signature
            self._current = self._load()
            _log.info("new certificate: %s", self._cert)
        except ConfigError as error:
            _log.error("%s The certificate before it stays.", error)

    def _signature(self) -> _Signature:
        """What changes whenever the files do."""
        found = []
        for path in (self._cert, self._key):
            try:
                about = path.stat()
            except OSError as error:
                raise ConfigError(f"it cannot be read: {error.strerror}.", where=str(path)) from error
            found.append((about.st_mtime_ns, about.st_ino, about.st_size))
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
    """The certificate to listen with; None without any.

    Raises:
        ConfigError: only one of the files is given, or they cannot be used.
    """
    if cert is None or key is None:
        if cert or key:
            raise ConfigError("a certificate requires its key.", where="--tls-cert", fix="Give --tls-key, too.")
        return None
    return Certificate(cert, key)


def _no_password() -> str:
    """Instead of asking on the terminal."""
    raise ValueError("the key has a password")
