"""Every line of the catalogue's ALERT_CHANNELS: what arrives, what is raised, and that secrets stay secret."""

import dataclasses
import email
import email.policy
import logging

import pytest
from alerts import BEGIN, drift
from certificates import Authority
from mail_server import MailServer

from lepton_tasks.core.catalogue import ALERT_CHANNELS
from lepton_tasks.core.errors import ConfigError, LeptonError
from lepton_tasks.core.watch_protocols import Alert

ALERT = Alert(
    use_case="wine",
    environment="local",
    version="3",
    event="began",
    finding=drift("critical"),
    was=None,
    since=BEGIN.timestamp() - 7200,
    time=BEGIN.timestamp(),
    remind=86_400.0,
    url="http://127.0.0.1:8080/dags/wine",
)
OTHER = dataclasses.replace(ALERT, finding=dataclasses.replace(drift("warning"), subject="ash"))


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    authority = Authority(tmp_path_factory.mktemp("mail"))
    return authority.file, *authority.issue()[:2]


@pytest.fixture
def mail(certificates):
    with MailServer(*certificates[1:], password="hunter2") as running:
        yield running


def params_of(name, receiver, mail, certificates, monkeypatch, *, well=True):
    """Params of a channel, with a secret wherever it takes one; if not `well`, of one that nobody answers."""
    monkeypatch.setenv("SECRET", "hunter2")
    dead = "http://127.0.0.1:9"
    if name == "email":
        return {
            "host": "127.0.0.1",
            "port": mail.port if well else 9,
            "sender": "lepton@example.org",
            "to": ["ann@example.org", "bob@example.org"],
            "user": "lepton",
            "password": {"env": "SECRET"},
            "ca": str(certificates[0]),
        }
    return {} if name == "log" else {"url": receiver.url if well else dead, "token": {"env": "SECRET"}}


@pytest.mark.parametrize("name", ALERT_CHANNELS.names())
def test_a_channel_tells_all_alerts_in_one_message(name, receiver, mail, certificates, monkeypatch, caplog):
    channel = ALERT_CHANNELS.build(name, params_of(name, receiver, mail, certificates, monkeypatch))
    with caplog.at_level(logging.INFO):
        channel.send([ALERT, OTHER])
    assert len(receiver.got) == (name in ("alertmanager", "webhook"))
    assert len(mail.mails) == (name == "email")
    if mail.mails:
        got = email.message_from_string(mail.mails[0], policy=email.policy.default).get_content()
    else:
        got = str(receiver.got) + caplog.text
    for alert in (ALERT, OTHER):
        assert alert.text in got
    assert "hunter2" not in got


@pytest.mark.parametrize("name", sorted(set(ALERT_CHANNELS.names()) - {"log"}))
def test_a_channel_that_cannot_send_says_why_without_secrets(name, receiver, mail, certificates, monkeypatch, caplog):
    params = params_of(name, receiver, mail, certificates, monkeypatch, well=False)
    with caplog.at_level(logging.DEBUG), pytest.raises(LeptonError, match=r"^127\.0\.0\.1 d(id|oes) not") as caught:
        ALERT_CHANNELS.build(name, params).send([ALERT])
    assert "hunter2" not in str(caught.value) + caplog.text


def test_a_webhook_of_a_chat_service_gets_its_text_alone(receiver):
    ALERT_CHANNELS.build("webhook", {"url": receiver.url, "form": "text"}).send([ALERT, OTHER])
    assert receiver.got == [("/", {"text": f"{ALERT.text}\n{OTHER.text}"})]


def test_a_redirection_is_not_followed(receiver, monkeypatch):
    receiver.status = 307
    with pytest.raises(LeptonError, match=r"^127\.0\.0\.1 answers 307\.$"):
        ALERT_CHANNELS.build("webhook", {"url": receiver.url}).send([ALERT])
    assert len(receiver.got) == 1


def test_a_token_is_sent_as_a_header(receiver, monkeypatch):
    monkeypatch.setenv("SECRET", "hunter2")
    ALERT_CHANNELS.build("webhook", {"url": receiver.url, "token": {"env": "SECRET"}}).send([ALERT])
    assert receiver.headers[0]["Authorization"] == "Bearer hunter2"


def test_alertmanager_gets_labels_and_an_end_that_lies_behind_the_reminder(receiver):
    channel = ALERT_CHANNELS.build("alertmanager", {"url": receiver.url})
    channel.send([ALERT])
    ((path, (entry,)),) = receiver.got
    assert path == "/api/v2/alerts"
    assert entry["labels"] == {
        "alertname": "Lepton",
        "use_case": "wine",
        "environment": "local",
        "monitor": "drift",
        "subject": "alcohol",
        "severity": "critical",
    }
    assert (entry["startsAt"], entry["endsAt"]) == ("2026-04-30T22:00:00+00:00", "2026-05-03T00:00:00+00:00")
    # Another severity is another alert there, so the former one ends.
    channel.send([dataclasses.replace(ALERT, event="rose", was="warning")])
    told = {entry["labels"]["severity"]: entry["endsAt"] for entry in receiver.got[1][1]}
    assert told == {"critical": "2026-05-03T00:00:00+00:00", "warning": "2026-05-01T00:00:00+00:00"}
    channel.send([dataclasses.replace(ALERT, event="ended", was="critical")])
    (ended,) = receiver.got[2][1]
    assert (ended["labels"]["severity"], ended["endsAt"]) == ("critical", "2026-05-01T00:00:00+00:00")


def test_a_mail_is_sent_by_tls_to_all(mail, receiver, certificates, monkeypatch):
    ALERT_CHANNELS.build("email", params_of("email", receiver, mail, certificates, monkeypatch)).send([ALERT, OTHER])
    got = email.message_from_string(mail.mails[0], policy=email.policy.default)
    assert got["Subject"].startswith("[critical] wine version 3 (local): drift of alcohol")
    assert got["Subject"].endswith("(and 1 more)")
    assert got["To"] == "ann@example.org, bob@example.org"
    assert all(secure for line, secure in mail.log if line.startswith(("AUTH", "mail", "rcpt")))
    assert [line for line, _ in mail.log if line.startswith("rcpt")] == [
        "rcpt TO:<ann@example.org>",
        "rcpt TO:<bob@example.org>",
    ]


def test_a_mail_server_that_is_not_trusted_or_refuses_the_password_gets_no_mail(
    mail, receiver, certificates, monkeypatch
):
    params = params_of("email", receiver, mail, certificates, monkeypatch)
    with pytest.raises(LeptonError, match="did not accept the email"):
        ALERT_CHANNELS.build("email", {k: v for k, v in params.items() if k != "ca"}).send([ALERT])
    mail.password = "another"
    with pytest.raises(ConfigError, match="does not accept the password") as caught:
        ALERT_CHANNELS.build("email", params).send([ALERT])
    assert "hunter2" not in str(caught.value)
    assert mail.mails == []


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"security": "none"}, "the password would travel in clear text"),
        ({"password": None}, "`user` and `password` go together"),
        ({"to": []}, "`to` has no recipients"),
    ],
)
def test_a_mail_channel_that_makes_no_sense_is_refused(change, told, mail, receiver, certificates, monkeypatch):
    params = params_of("email", receiver, mail, certificates, monkeypatch) | change
    with pytest.raises(ConfigError, match=told):
        ALERT_CHANNELS.build("email", params)
