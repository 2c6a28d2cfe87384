import json
import sys

import pytest

from lepton_tasks.cli import app as cli
from lepton_tasks.serving.access.auth import Guard
from lepton_tasks.serving.errors import ForbiddenError


@pytest.fixture
def lepton(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("LEPTON_HOME", str(tmp_path))

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["lepton", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        told = capsys.readouterr()
        return ended.value.code, told.out, told.err

    return run


def test_keys_are_made_listed_rotated_and_revoked(lepton, tmp_path):
    code, key, about = lepton("key", "add", "shop", "--models", "digits*", "--rate", "50", "--expires", "90d")
    assert code in (0, None)
    assert "only its hash is stored" in about
    assert key.strip() not in (tmp_path / "serving" / "keys.json").read_text()
    guard = Guard(tmp_path / "serving" / "keys.json")
    ident = guard.admit(f"Bearer {key.strip()}", "digits_2")

    (row,) = json.loads(lepton("key", "list", "--json")[1])["keys"]
    assert (row["id"], row["models"], row["rate"], row["burst"]) == (ident, ["digits*"], 50.0, 50)
    assert ident in lepton("key", "list")[1]

    new = json.loads(lepton("key", "add", "shop", "--json")[1])["key"]
    guard = Guard(tmp_path / "serving" / "keys.json")
    assert guard.admit(f"Bearer {key.strip()}", "digits")
    assert guard.admit(f"Bearer {new}", "digits")

    assert f"revoked: {ident}" in lepton("key", "revoke", "shop", "--old")[1]
    guard = Guard(tmp_path / "serving" / "keys.json")
    assert guard.admit(f"Bearer {new}", "digits")
    with pytest.raises(ForbiddenError):
        guard.admit(f"Bearer {key.strip()}", "digits")


def test_a_wrong_command_says_what_is_wrong(lepton):
    code, _, err = lepton("key", "add", "Shop")
    assert code == 2
    assert "'Shop'" in err
    assert lepton("key", "revoke", "nobody")[0] == 2
    assert "no keys: every client" in lepton("key", "list")[1]
    lepton("key", "add", "shop")
    lepton("key", "revoke", "shop")
    assert "only the stages have access" in lepton("key", "list")[1]
