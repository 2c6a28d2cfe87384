"""Credentials of an inference server: admin token, API keys, and how clients find theirs."""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import ssl
from pathlib import Path

from lepton_tasks.core.errors import ConfigError

TOKEN_FILE = "admin.token"
KEY_VARIABLE = "LEPTON_API_KEY"
CA_VARIABLE = "LEPTON_SERVING_CA"
KEY_PREFIX = "lepton_"  # makes keys recognisable to people and secret scanners


def stage_key(token: str) -> str:
    """API key of the pipeline stages, derived from the admin token.

    It needs no creation, storage or rotation of its own, and the token cannot be derived from it, so prediction
    requests never carry the token.

    Args:
        token: The admin token.
    """
    digest = hmac.digest(token.encode(), b"lepton: key of the stages", hashlib.sha256)
    return KEY_PREFIX + base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def log_id(token: str) -> str:
    """What tells a server's request log from those of others, wherever the server listens.

    Args:
        token: The admin token, which tells one state folder from another, and does not follow from this.
    """
    return hmac.digest(token.encode(), b"lepton: id of the request log", hashlib.sha256).hex()[:16]


def own_key(home: Path | None = None) -> str:
    """API key for requests: ``LEPTON_API_KEY``, or else the stages' key; empty if there is neither.

    Args:
        home: The server's state folder, if it is on this machine.
    """
    given = os.environ.get(KEY_VARIABLE, "").strip()
    if given or home is None:
        return given
    try:
        return stage_key((home / TOKEN_FILE).read_text().strip())
    except OSError:  # another machine's server, or one that was never started
        return ""


def bearer(key: str) -> dict[str, str]:
    """Authorization header for a key or token; no header if it is empty."""
    return {"Authorization": f"Bearer {key}"} if key else {}


def trusted(ca: str | Path | None = None) -> ssl.SSLContext | bool:
    """TLS verification of server certificates, as the ``verify`` argument of httpx.

    Args:
        ca: PEM file of the certificate authority; default ``LEPTON_SERVING_CA``, then the system's trust store.

    Raises:
        ConfigError: the file cannot be used.
    """
    file = str(ca or os.environ.get(CA_VARIABLE, ""))
    if not file:
        return True
    try:
        return ssl.create_default_context(cafile=file)
    except OSError as error:  # a file without a certificate raises SSLError, which is one
        raise ConfigError(f"no certificate can be read: {error.strerror}.", where=file) from error
