"""Run a Great Expectations suite on partitioned rows, using statistics from one pass."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import polars as pl

from lepton_tasks.core.context import RunContext
from lepton_tasks.core.errors import ConfigError, LeptonError
from lepton_tasks.core.registry import did_you_mean
from lepton_tasks.core.use_case import Expectation
from lepton_tasks.data.tables.rows import ROW
from lepton_tasks.quality.metrics import SHOWN, MetricPlanner
from lepton_tasks.quality.one_pass import SAMPLE, Statistics, measure
from lepton_tasks.quality.rows import Rows


@dataclasses.dataclass
class RuleResult:
    """Result of one expectation.

    Attributes:
        result: Great Expectations' ``ExpectationValidationResult``.
        rows: Numbers of violating rows, at most `EXAMPLES`.
        sampled: Size of the sample it was evaluated on; None for all rows.
    """

    result: Any
    rows: list[int]
    sampled: int | None = None


@dataclasses.dataclass
class _Plan:
    """How to evaluate an expectation: from statistics, or else on rows in memory.

    Attributes:
        readers: Readers of the metrics it needs, by metric id.
        rows_key: Key of the violating rows in the statistics.
        error: Why it cannot be evaluated.
        judged: The result, if it follows from the schema alone.
    """

    expectation: Any
    readers: dict[Any, Callable[[Statistics], Any]] | None = None
    rows_key: str | None = None
    error: LeptonError | None = None
    judged: RuleResult | None = None

    @property
    def needs_rows(self) -> bool:
        return self.readers is None and self.error is None and self.judged is None


def run_suite(
    rows: Rows, rules: Sequence[Expectation], ctx: RunContext, *, where: str, identity: str = ROW
) -> list[RuleResult]:
    """Evaluate every rule with Great Expectations, in order.

    Metrics are computed in one pass over the parts. Rules with other metrics are evaluated on rows in memory: on all
    rows up to `SAMPLE`, else on every n-th, which the result mentions.

    Args:
        rows: The table.
        rules: The suite.
        ctx: Run context.
        where: Key of the use case's own rules, for messages.
        identity: Column that identifies a row in results.

    Raises:
        ConfigError: a rule, one of its parameters or its row condition is invalid.
    """
    if not rules:
        return []
    expectations = [expectation_of(rule, where=where) for rule in rules]
    planner = MetricPlanner(rows.schema, identity)
    with quiet():
        plans = [
            _by_type(expectation, rows.schema) or _plan(expectation, planner, _format(identity), where=where)
            for expectation in expectations
        ]
        step = -(-max(1, rows.height) // SAMPLE)
        if any(plan.needs_rows for plan in plans):
            planner.request.sample = (step, tuple(rows.schema))
        statistics = measure(rows, planner.request, ctx)
        return [_judged(plan, statistics, _format(identity), step) for plan in plans]


def expectation_of(rule: Expectation, *, where: str) -> Any:
    """Great Expectations' object for a rule; raises `ConfigError` for an unknown name or parameter."""
    with quiet():
        from great_expectations.expectations import registry

        known = registry.list_registered_expectation_implementations()
        if rule.type not in known:
            raise ConfigError(f"no expectation named {rule.type!r}.", where=where, fix=did_you_mean(rule.type, known))
        try:
            expectation: Any = registry.get_expectation_impl(rule.type)
            return expectation(**rule.params, severity=rule.severity)
        except (ValueError, TypeError) as error:  # pydantic's error, of either major version, is a ValueError
            raise ConfigError(
                f"{rule.type} does not take {rule.params}: {' '.join(str(error).split())}.", where=where
            ) from error


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Suppress log messages and warnings of Great Expectations and its libraries."""
    os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")  # read when Great Expectations is imported
    logger = logging.getLogger("great_expectations")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _format(identity: str) -> dict[str, Any]:
    return {
        "result_format": "SUMMARY",
        "unexpected_index_column_names": [identity],
        "partial_unexpected_count": SHOWN,
    }


def _by_type(expectation: Any, schema: Mapping[str, pl.DataType]) -> _Plan | None:
    """The result of a rule with a Polars type as in profiles, such as ``Int64``; None for pandas types."""
    from great_expectations.core import ExpectationValidationResult

    if expectation.expectation_type != "expect_column_values_to_be_of_type":
        return None
    if not hasattr(pl, expectation.type_.partition("(")[0]):
        return None
    found = str(schema.get(expectation.column, "no such column"))
    result = ExpectationValidationResult(
        success=found == expectation.type_,
        expectation_config=expectation.configuration,
        result={"observed_value": found},
    )
    return _Plan(expectation, judged=RuleResult(result, []))


def _plan(expectation: Any, planner: MetricPlanner, result_format: dict[str, Any], *, where: str) -> _Plan:
    needed = expectation.get_validation_dependencies(runtime_configuration={"result_format": dict(result_format)})
    readers: dict[Any, Callable[[Statistics], Any]] = {}
    rows_key = None
    try:
        for metric in needed.get_metric_configurations():
            reader = planner.plan(metric)
            if reader is None:
                return _Plan(expectation)
            readers[metric.id] = reader.read
            rows_key = reader.rows_key or rows_key
    except ConfigError as error:
        raise ConfigError(f"{expectation.expectation_type}: {error.what}", where=where, fix=error.fix) from error
    except LeptonError as error:
        return _Plan(expectation, error=error)
    return _Plan(expectation, readers, rows_key)


def _judged(plan: _Plan, statistics: Statistics, result_format: dict[str, Any], step: int) -> RuleResult:
    if plan.judged is not None:
        return plan.judged
    if plan.needs_rows:
        return _on_rows(plan.expectation, pl.concat(statistics.sample), result_format, step)
    try:
        if plan.error is not None:
            raise plan.error
        metrics = {key: read(statistics) for key, read in (plan.readers or {}).items()}
        runtime = {"result_format": dict(result_format)}
        result = plan.expectation.metrics_validate(metrics=metrics, runtime_configuration=runtime)
    except (LeptonError, TypeError, ValueError) as error:  # of other types: a bound that cannot be compared with values
        return RuleResult(_broken(plan.expectation, error), [])
    found = statistics.examples.get(plan.rows_key or "")
    return RuleResult(result, [] if found is None else found[ROW].to_list())


def _on_rows(expectation: Any, frame: pl.DataFrame, result_format: dict[str, Any], step: int) -> RuleResult:
    """Evaluate an expectation with Great Expectations' pandas engine."""
    from great_expectations.execution_engine.pandas_execution_engine import PandasExecutionEngine
    from great_expectations.validator.validator import Validator

    if step > 1:
        expectation.notes = f"Judged on {frame.height:,} rows, 1 of {step}."
    validator = Validator(execution_engine=PandasExecutionEngine(batch_data_dict={"rows": frame.to_pandas()}))
    validator.metrics_calculator.show_progress_bars = False
    names = dict.fromkeys([*result_format["unexpected_index_column_names"], ROW])
    index = {**result_format, "unexpected_index_column_names": list(names)}
    (result,) = validator.graph_validate(
        configurations=[expectation.configuration], runtime_configuration={"result_format": index}
    )
    against = result.result.get("partial_unexpected_index_list") or []
    return RuleResult(result, [row[ROW] for row in against], frame.height if step > 1 else None)


def _broken(expectation: Any, error: Exception) -> Any:
    """The result of an expectation that cannot be evaluated, usually because of a missing column."""
    from great_expectations.core import ExpectationValidationResult

    info = {"raised_exception": True, "exception_message": str(error), "exception_traceback": ""}
    return ExpectationValidationResult(
        success=False, expectation_config=expectation.configuration, exception_info=info, result={}
    )
