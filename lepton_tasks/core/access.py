"""Credentials of a serving process: admin token, API keys, and where clients look for theirs."""

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
KEY_PREFIX = "lepton_"  # so that people, and scanners for leaked secrets, know one when they see it


def stage_key(token: str) -> str:
    """The API key of the stages, which share the server's state folder.

    It follows from the admin token, so nobody has to make, keep or rotate it; the token does not follow from it, so
    what asks for predictions never sends the token.

    Args:
        token: The admin token.
    """
    digest = hmac.digest(token.encode(), b"lepton: key of the stages", hashlib.sha256)
    return KEY_PREFIX + base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def own_key(home: Path | None = None) -> str:
    """The API key to ask a server with: ``LEPTON_API_KEY``, or that of the stages; empty without either.

    Args:
        home: The server's state folder, where it is on this machine.
    """
    given = os.environ.get(KEY_VARIABLE, "").strip()
    if given or home is None:
        return given
    try:
        return stage_key((home / TOKEN_FILE).read_text().strip())
    except OSError:  # another machine's server, or one that was never started
        return ""


def bearer(key: str) -> dict[str, str]:
    """The header that carries a key or token; none if it is empty."""
    return {"Authorization": f"Bearer {key}"} if key else {}


def trusted(ca: str | Path | None = None) -> ssl.SSLContext | bool:
    """Whose certificates a server's is checked against: the ``verify`` of httpx.

    Args:
        ca: PEM file of the authority; without it ``LEPTON_SERVING_CA``, and without that those that the system trusts.

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
