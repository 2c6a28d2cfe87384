import logging

import polars as pl
import pytest

from lepton_tasks.core.context import RunContext
from lepton_tasks.data.counter import CategoryCounter
from lepton_tasks.data.tables.categories import warn_of_identifier


@pytest.mark.parametrize(
    ("values", "warned"),
    [(range(60), True), ([*range(31)] * 2, False), (range(40), False)],
    ids=["each is different", "each twice", "few rows"],
)
def test_a_column_that_looks_like_an_identifier_is_pointed_out(tmp_path, caplog, values, warned):
    counter = CategoryCounter()
    counter.update(pl.Series(values).cast(pl.String))
    with caplog.at_level(logging.WARNING):
        warn_of_identifier("customer", counter, RunContext.local(tmp_path))
    assert ("'customer' has 60 distinct values in 60 training rows" in caplog.text) is warned
