import ast

import pytest

from lepton_tasks.core.errors import ArtifactError
from lepton_tasks.stages.code import code_digest


@pytest.fixture
def digest(tmp_path, monkeypatch):
    """The digest of a module with this text."""
    monkeypatch.syspath_prepend(tmp_path)

    def of(text):
        (tmp_path / "some_stage_code.py").write_text(text)
        code_digest.cache_clear()
        return code_digest(("some_stage_code",), tmp_path / "state")

    return of


def test_a_code_change_counts_and_a_comment_does_not(digest):
    plain = digest("def f():\n    return 1\n")
    assert digest('"""Module."""\n# why\ndef f():\n    """What."""\n\n    return 1  # this\n') == plain
    assert digest("def f():\n    return 2\n") != plain


def test_what_was_parsed_once_is_remembered(digest, tmp_path, monkeypatch):
    found = digest("one = 1\n"), digest("two = 2\n")
    with monkeypatch.context() as patch:
        patch.setattr(ast, "parse", None)
        assert (digest("one = 1\n"), digest("two = 2\n")) == found
    (remembered,) = (tmp_path / "state").glob("code-*.json")
    remembered.write_text("{half of")
    assert digest("one = 1\n") == found[0]


def test_a_module_that_is_not_there(tmp_path):
    with pytest.raises(ArtifactError, match="'no_such_stage_code', named in the stage table"):
        code_digest(("no_such_stage_code",), tmp_path)
