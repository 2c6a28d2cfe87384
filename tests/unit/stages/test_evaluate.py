import numpy as np
import pytest

from lepton_tasks.core.errors import DataError
from lepton_tasks.stages.evaluate import _decode


class Codec:
    def decode(self, payload):
        if not payload:
            raise DataError("the text is empty.")
        return np.array([len(payload)])


def test_a_row_that_a_server_would_refuse_is_told_with_the_way_out():
    assert _decode(Codec(), [b"a", b"bc"], where="").tolist() == [[1], [2]]
    with pytest.raises(DataError, match=r"t.yaml: clean: a server would refuse .*: the text is empty. .*`empty_text`"):
        _decode(Codec(), [b"a", b""], where="t.yaml: clean")
