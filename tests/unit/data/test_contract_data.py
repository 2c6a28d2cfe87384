import inspect
from pathlib import Path

import pytest

from lepton_tasks.core import catalogue, components, table_protocols
from lepton_tasks.core.environment import project_root
from lepton_tasks.core.use_case_file import load_use_case
from lepton_tasks.data.tables.named_steps import NamedStep, steps_of

USE_CASES = sorted((project_root(Path(__file__)) / "configs" / "use_cases").glob("*.yaml"))
STEPS = {
    "row": table_protocols.RowStep,
    "key": table_protocols.KeyStep,
    "whole": table_protocols.WholeStep,
    "fitted": table_protocols.FittedStep,
}
SAMPLES = (catalogue.SOURCES, catalogue.CLEANING_STEPS, catalogue.FEATURES)


def members(protocol):
    return {name for name in vars(protocol) if not name.startswith("_")}


def lacking(cls, protocol):
    return members(protocol) - {name for name in dir(cls) if not name.startswith("_")}


@pytest.mark.parametrize("name", catalogue.TABLE_STEPS.names())
def test_a_table_step_keeps_the_protocol_of_its_kind(name):
    cls = catalogue.TABLE_STEPS.load(name)
    kind = NamedStep(code=1, spec=None, step=cls).kind
    assert not lacking(cls, STEPS[kind]), kind
    assert inspect.getdoc(cls)


@pytest.mark.parametrize("name", catalogue.TABLE_FEATURES.names())
def test_table_features_keep_one_of_two_protocols(name):
    cls = catalogue.TABLE_FEATURES.load(name)
    kinds = [p for p in (table_protocols.TableFeatures, table_protocols.RowFeatures) if not lacking(cls, p)]
    assert len(kinds) == 1
    for stage in ("raw", "features"):
        assert all(rule.type.startswith("expect_") for rule in cls.expectations(stage))


@pytest.mark.parametrize("registry", SAMPLES, ids=lambda registry: registry.kind)
def test_what_samples_need_keeps_its_protocol(registry):
    for name in registry.names():
        assert inspect.getdoc(registry.load(name))  # `load` compares with the protocol


@pytest.mark.parametrize("path", USE_CASES, ids=lambda path: path.stem)
def test_every_component_of_a_shipped_use_case_takes_its_params(path):
    use_case = load_use_case(path)
    components.check_params_of(use_case, where=path.name)
    if components.takes_tables(use_case):
        assert len(steps_of(use_case)) == len(use_case.clean)
