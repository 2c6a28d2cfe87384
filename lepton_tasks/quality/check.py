"""Expectation suites run by Great Expectations, and what came out, for programs and for people."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from lepton_tasks.core.artifacts import QualityReportRef
from lepton_tasks.core.context import RunContext
from lepton_tasks.core.errors import ConfigError, DataQualityError
from lepton_tasks.core.registry import did_you_mean
from lepton_tasks.core.store import write_json
from lepton_tasks.core.use_case import Expectation


def check(table: pa.Table, rules: Sequence[Expectation], ctx: RunContext, *, where: str) -> QualityReportRef:
    """Run the rules over a table and publish the report with its Data Docs.

    Args:
        table: One row a sample, with a column ``sample_id``.
        rules: The suite.
        ctx: The run.
        where: The key of the use case that holds its own rules, for messages.

    Raises:
        DataQualityError: a critical rule failed; the report is then kept in the stage's work folder.
        ConfigError: a rule is unknown, or has parameters that are not its own.
    """
    draft = ctx.draft()
    report = run_suite(table, rules, draft.path / "docs", name=ctx.stage, where=where)
    write_json(draft.path / "report.json", report)
    failed = [fault for fault in report["failed"] if fault["severity"] == "critical"]
    warned = [fault for fault in report["failed"] if fault["severity"] == "warning"]
    for fault in warned:
        ctx.log.warning("%s", describe(fault))
    if failed:
        kept = ctx.workdir / "report"
        shutil.rmtree(kept, ignore_errors=True)
        draft.path.rename(kept)
        raise DataQualityError(
            f"{len(failed)} of {report['evaluated']} expectations failed: {'; '.join(map(describe, failed))}.",
            where=where,
            fix=f"See {kept / 'docs' / 'index.html'} and report.json beside it; correct the data, or the rule.",
        )
    return ctx.publish(
        draft,
        QualityReportRef,
        {"expectations": report["evaluated"], "failed": len(failed), "warnings": len(warned)},
    )


def describe(fault: dict[str, Any]) -> str:
    """One failed expectation in one line."""
    params = [f"{name}={value}" for name, value in fault["params"].items()]
    given = ", ".join([*([fault["column"]] if fault["column"] else []), *params])
    return f"{fault['type']} ({given}): observed {fault['observed']}"


def run_suite(table: pa.Table, rules: Sequence[Expectation], docs: Path, *, name: str, where: str) -> dict[str, Any]:
    """The outcome of the rules, as JSON values; Data Docs are written to `docs`."""
    os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")  # read when Great Expectations is imported
    with _quiet():
        import great_expectations as gx

        context = gx.get_context(mode="ephemeral", project_config=_config(docs))
        asset = context.data_sources.add_pandas("rows").add_dataframe_asset(name)
        suite = gx.ExpectationSuite(name=name, expectations=[_expectation(rule, where=where) for rule in rules])
        validation = gx.ValidationDefinition(
            name=name, data=asset.add_batch_definition_whole_dataframe("all"), suite=context.suites.add(suite)
        )
        outcome = context.validation_definitions.add(validation).run(
            batch_parameters={"dataframe": table.to_pandas()},
            result_format={"result_format": "SUMMARY", "unexpected_index_column_names": ["sample_id"]},
        )
        context.build_data_docs(site_names=["docs"])
    shutil.rmtree(docs / "static" / "images", ignore_errors=True)  # 3.4 MB of tutorial pictures that no page shows
    failed = [_fault(result) for result in outcome.results if not result.success]
    failed.sort(key=lambda fault: (fault["severity"], fault["type"], fault["column"] or ""))
    return {
        "success": not any(fault["severity"] == "critical" for fault in failed),
        "evaluated": len(outcome.results),
        "rows": table.num_rows,
        "failed": failed,
    }


def _config(docs: Path) -> Any:
    """Everything in memory but the Data Docs; no statistics sent, no progress bars."""
    from great_expectations.data_context.types.base import (
        DataContextConfig,
        InMemoryStoreBackendDefaults,
        ProgressBarsConfig,
    )

    site = {
        "class_name": "SiteBuilder",
        "show_how_to_buttons": False,
        "site_index_builder": {"class_name": "DefaultSiteIndexBuilder"},
        "store_backend": {"class_name": "TupleFilesystemStoreBackend", "base_directory": str(docs)},
    }
    return DataContextConfig(
        store_backend_defaults=InMemoryStoreBackendDefaults(),
        data_docs_sites={"docs": site},
        analytics_enabled=False,
        progress_bars=ProgressBarsConfig(globally=False),
    )


def _expectation(rule: Expectation, *, where: str) -> Any:
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


def _fault(result: Any) -> dict[str, Any]:
    config, outcome = result.expectation_config, result.to_json_dict()["result"]  # without NumPy's types
    params = {key: value for key, value in config.kwargs.items() if key != "batch_id"}
    return {
        "type": config.type,
        "column": params.pop("column", None),
        "severity": str(config.severity.value),
        "params": params,
        "observed": _observed(outcome, result.exception_info),
        "examples": outcome.get("partial_unexpected_index_list") or [],
    }


def _observed(outcome: dict[str, Any], exceptions: dict[str, Any]) -> str:
    if "unexpected_count" in outcome:
        share = outcome.get("unexpected_percent") or 0.0
        return f"{outcome['unexpected_count']:,} of {outcome['element_count']:,} rows ({share:.1f} %) against it"
    if "observed_value" in outcome:
        return str(outcome["observed_value"])
    # Without a result the check itself broke, most often on a column that is not there.
    messages = [value["exception_message"] for value in exceptions.values() if isinstance(value, dict)]
    return messages[0].removeprefix("Error: ") if messages else "nothing"


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep Great Expectations' and its libraries' asides out of the stage's log."""
    logger = logging.getLogger("great_expectations")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
