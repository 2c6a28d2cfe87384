"""What holds for every monitor of the catalogue."""

import inspect

import pytest
from watched_model import ask, package, use_case

from lepton_tasks.core.artifacts import EndpointRef
from lepton_tasks.core.catalogue import MONITORS
from lepton_tasks.core.context import RunContext
from lepton_tasks.core.errors import ConfigError
from lepton_tasks.core.finding import Finding

USE_CASE = use_case()
NOWHERE = {"url": "http://127.0.0.1:9", "version": "1"}


def checked(name, ctx, endpoint):
    findings = MONITORS.build(name, {}).check(USE_CASE, ctx, endpoint)
    assert findings
    assert all(isinstance(finding, Finding) for finding in findings)
    assert {finding.monitor for finding in findings} == {name}
    assert all(finding.message and " of 0 " not in finding.message for finding in findings)
    assert len({finding.subject for finding in findings}) == len(findings)
    return [finding for finding in findings if finding.subject != "server"]  # that it is away is bad news


@pytest.mark.parametrize("name", MONITORS.names())
def test_where_nothing_is_known_it_says_so_and_is_quiet(tmp_path, name):
    ctx = RunContext.local(tmp_path)
    for endpoint in (
        EndpointRef(uri="store://deploy/x", digest="d", stage="deploy", facts=NOWHERE),
        EndpointRef(uri="store://deploy/x", digest="d", stage="deploy", facts=NOWHERE | {"package_uri": "store://x/y"}),
        package(tmp_path, {"package.json": {}, "profile.json": {"rows": 0, "columns": {}}}),
    ):
        assert {finding.severity for finding in checked(name, ctx, endpoint)} == {"ok"}


@pytest.mark.parametrize("name", MONITORS.names())
def test_a_handful_of_bare_records_is_too_little_and_no_reason_to_fail(tmp_path, name):
    endpoint = package(tmp_path, {"package.json": {}, "profile.json": {"rows": 0, "columns": {}}})
    bare = [{}, {"status": 422, "error": "no"}, {"values": None, "label": None}, {"values": {}, "id": "a"}]
    ask(tmp_path, "people", bare, outcomes=[("a", "x"), ("never-asked", 1.5)])
    assert {finding.severity for finding in checked(name, RunContext.local(tmp_path), endpoint)} <= {"ok", "warning"}


@pytest.mark.parametrize("name", MONITORS.names())
def test_each_number_has_bounds(name):
    for parameter in inspect.signature(MONITORS.load(name)).parameters:
        with pytest.raises(ConfigError, match=parameter):
            MONITORS.build(name, {parameter: -1}, where="x.yaml: monitor.0")
