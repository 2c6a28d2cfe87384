import pickle

import pytest

from lepton_tasks.core import errors
from lepton_tasks.core.errors import LeptonError, error_from_dict

KINDS = [cls for cls in vars(errors).values() if isinstance(cls, type) and issubclass(cls, LeptonError)]


@pytest.mark.parametrize("kind", KINDS)
def test_survives_pickle_and_json(kind):
    error = kind("the port 80 is taken.", where="local.yaml: port", fix="Choose another.")
    for copy in (pickle.loads(pickle.dumps(error)), error_from_dict(error.to_dict())):
        assert type(copy) is kind
        assert str(copy) == "local.yaml: port: the port 80 is taken. Choose another."
        assert copy.retryable == kind.retryable


def test_an_unknown_type_from_another_version_is_still_an_error():
    assert str(error_from_dict({"type": "FutureError", "what": "odd."})) == "odd."


def test_only_what_may_pass_by_itself_is_retryable():
    assert {cls.__name__ for cls in KINDS if cls.retryable} == {"UnavailableError", "StageError"}
