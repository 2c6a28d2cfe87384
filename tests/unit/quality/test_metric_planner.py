import pickle
from types import SimpleNamespace

import polars as pl
import pytest

from lepton_tasks.core.context import RunContext
from lepton_tasks.core.errors import DataError
from lepton_tasks.quality.metrics import MetricPlanner
from lepton_tasks.quality.one_pass import measure
from lepton_tasks.quality.rows import FrameRows

FRAME = pl.DataFrame({"word": ["ab", "x1", None], "n": [1, 2, 3]})


def metric(name, values=None, **domain):
    return SimpleNamespace(metric_name=name, metric_domain_kwargs=domain, metric_value_kwargs=values or {})


def test_questions_travel_to_workers_and_answers_back(tmp_path):
    planner = MetricPlanner(FRAME.schema)
    lookahead = {"regex": r"(?=x)\w\d"}  # Python's regular expressions only
    count = planner.plan(metric("column_values.match_regex.unexpected_count", lookahead, column="word"))
    mean = planner.plan(metric("column.mean", column="n"))
    request = pickle.loads(pickle.dumps(planner.request))
    statistics = pickle.loads(pickle.dumps(measure(FrameRows(FRAME), request, RunContext.local(tmp_path))))
    assert count.read(statistics) == 1
    assert mean.read(statistics) == 2.0


def test_the_same_question_is_asked_once():
    planner = MetricPlanner(FRAME.schema)
    for _ in range(2):
        planner.plan(metric("column_values.nonnull.unexpected_count", column="word"))
        planner.plan(metric("table.row_count"))
    assert len(planner.request.counts) == 2
    assert planner.request.columns == {"word"}


def test_what_needs_the_rows_in_memory_is_said():
    assert MetricPlanner(FRAME.schema).plan(metric("column_values.z_score.unexpected_count", column="n")) is None
    assert MetricPlanner(FRAME.schema).plan(metric("table.column_types")) is None


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (metric("column.mean", column="wrod"), "no column named 'wrod'"),
        (
            metric("column_values.between.unexpected_count", {"min_value": 1}, column="word"),
            r"word \(String\): .*compare",
        ),
        (metric("column_values.match_regex.unexpected_count", {"regex": "("}, column="word"), "unterminated"),
    ],
)
def test_a_question_that_makes_no_sense_fails_before_anything_is_read(wrong, message):
    with pytest.raises(DataError, match=message) as error:
        MetricPlanner(FRAME.schema).plan(wrong)
    assert str(error.value)
