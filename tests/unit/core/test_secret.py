import pytest

from lepton_tasks.core.catalogue import ALERT_CHANNELS
from lepton_tasks.core.errors import ConfigError
from lepton_tasks.core.secret import Secret


def test_a_secret_is_read_where_it_is_kept(tmp_path, monkeypatch):
    (tmp_path / "token").write_text("hunter2\n")
    monkeypatch.setenv("TOKEN", " hunter3 ")
    assert Secret(file=tmp_path / "token").read() == "hunter2"
    assert Secret(env="TOKEN").read() == "hunter3"


def test_a_missing_secret_names_its_place(tmp_path, monkeypatch):
    monkeypatch.delenv("TOKEN", raising=False)
    with pytest.raises(ConfigError, match=r"^TOKEN: the secret is not set"):
        Secret(env="TOKEN").read()
    with pytest.raises(ConfigError, match="token: the secret cannot be read"):
        Secret(file=tmp_path / "token").read()


def test_a_secret_in_clear_is_refused_and_not_repeated():
    with pytest.raises(ConfigError, match=r"give \{env: VARIABLE\} or \{file: PATH\}") as caught:
        ALERT_CHANNELS.build("webhook", {"url": "http://127.0.0.1", "token": "hunter2"})
    assert "hunter2" not in str(caught.value)
    assert caught.value.__cause__ is None
