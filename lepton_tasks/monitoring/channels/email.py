"""Alert channel `email`: one mail per check, by SMTP."""

from __future__ import annotations

import smtplib
import ssl
from collections.abc import Sequence
from email.message import EmailMessage
from typing import Literal

from lepton_tasks.core.errors import ConfigError, UnavailableError
from lepton_tasks.core.secret import Secret
from lepton_tasks.core.watch_protocols import Alert, alert_lines

_TIMEOUT_SECONDS = 15.0


class Email:
    """Send one email per check by SMTP.

    Args:
        host: SMTP server.
        sender: Address of the sender.
        to: Addresses of the recipients.
        port: 587 by default.
        security: ``starttls``, ``tls`` from the first byte, or ``none`` for a relay on this machine.
        user: Name to log in with, if any.
        password: Where the password is kept.
        ca: PEM file of the authority that signed the server's certificate; those of the system by default.
    """

    def __init__(
        self,
        host: str,
        sender: str,
        to: list[str],
        port: int = 587,
        security: Literal["starttls", "tls", "none"] = "starttls",
        user: str | None = None,
        password: Secret | None = None,
        ca: str | None = None,
    ) -> None:
        if (user is None) != (password is None):
            raise ConfigError("`user` and `password` go together.")
        if user is not None and security == "none":
            raise ConfigError("without TLS the password would travel in clear text.", fix="Use `starttls` or `tls`.")
        if not to:
            raise ConfigError("`to` has no recipients.")
        self.host, self.port, self.security = host, port, security
        self.sender, self.to, self.user, self.password, self.ca = sender, to, user, password, ca

    def send(self, alerts: Sequence[Alert]) -> None:
        """One mail for all of them; its subject is the worst."""
        mail, lines = EmailMessage(), alert_lines(alerts)
        more = f" (and {len(alerts) - 1} more)" if len(alerts) > 1 else ""
        mail["Subject"] = " ".join(f"{lines[0][:150]}{more}".split())
        mail["From"], mail["To"] = self.sender, ", ".join(self.to)
        mail.set_content("\n\n".join([*lines, alerts[0].url]) + "\n")
        password = self.password.read() if self.password else ""
        try:
            with self._connected() as server:
                if self.user is not None:
                    server.login(self.user, password)
                server.send_message(mail)
        except smtplib.SMTPAuthenticationError as error:
            raise ConfigError(f"{self.host} does not accept the password ({error.smtp_code}).") from None
        except (OSError, smtplib.SMTPException) as error:
            raise UnavailableError(f"{self.host} did not accept the email ({_reason(error)}).") from None

    def _connected(self) -> smtplib.SMTP:
        if self.security == "tls":
            return smtplib.SMTP_SSL(self.host, self.port, timeout=_TIMEOUT_SECONDS, context=self._context())
        server = smtplib.SMTP(self.host, self.port, timeout=_TIMEOUT_SECONDS)
        if self.security == "starttls":
            try:
                server.starttls(context=self._context())
            except BaseException:
                server.close()
                raise
        return server

    def _context(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=self.ca)


def _reason(error: Exception) -> str:
    if isinstance(error, smtplib.SMTPResponseException):
        return f"{error.smtp_code}"
    return getattr(error, "strerror", None) or type(error).__name__
