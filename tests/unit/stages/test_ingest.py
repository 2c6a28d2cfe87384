import json

import pytest

from lepton_tasks.core.context import RunContext
from lepton_tasks.core.errors import DataError
from lepton_tasks.core.use_case import parse_use_case
from lepton_tasks.stages.ingest import ingest


def test_a_source_that_lists_nothing_is_told(tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "a.json").write_text(json.dumps({"images": [], "annotations": []}))
    raw = {
        "name": "tiny",
        "data": {"source": {"name": "coco", "params": {"path": "set", "annotations": "a.json"}}},
        "features": {"name": "image", "params": {"height": 8, "width": 8}},
    }
    ctx = RunContext.local(tmp_path / "state", data_root=str(tmp_path))
    with pytest.raises(DataError, match=r"tiny.yaml: data.source: the source is empty. See `path`"):
        ingest(parse_use_case(raw, where="tiny.yaml"), ctx)
