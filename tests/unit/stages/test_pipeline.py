import inspect

import pytest

from lepton_tasks.core.registry import load_object
from lepton_tasks.core.use_case import UseCase
from lepton_tasks.stages.code import code_digest
from lepton_tasks.stages.pipeline import COMPRESS, STAGES, TUNE, every_stage


@pytest.mark.parametrize("stage", every_stage(), ids=lambda s: s.name)
def test_a_stage_is_a_function_of_what_the_table_says(stage):
    parameters = inspect.signature(load_object(stage.function)).parameters
    assert list(parameters)[:2] == ["use_case", "ctx"]
    given = dict(list(parameters.items())[2:])
    assert {name for name, p in given.items() if p.default is p.empty} == set(stage.inputs)
    optional = {"train": {TUNE.produces}, "verify_package": {COMPRESS.produces}}
    assert set(given) - set(stage.inputs) == optional.get(stage.name, set())


@pytest.mark.parametrize("stage", every_stage(), ids=lambda s: s.name)
def test_sections_and_code_exist(stage, tmp_path):
    use_case = UseCase.model_validate(
        {"name": "xx", "task": "t", "data": {"source": "s"}, "features": "f", "model": "m"}
    )
    assert set(use_case.part(*stage.sections)) == set(stage.sections)
    assert code_digest((stage.function.partition(":")[0], *stage.code), tmp_path)


def test_every_input_is_made_by_an_earlier_stage():
    made: set[str] = set()
    for stage in STAGES:
        assert set(stage.inputs) <= made, stage.name
        made.add(stage.produces)
    assert len(made) == len(STAGES)
