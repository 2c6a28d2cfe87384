"""Find data profiles by the names users give, and format them for the terminal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from lepton_tasks.core.catalogue import TABLE_SOURCES
from lepton_tasks.core.context import RunContext
from lepton_tasks.core.environment import state_root, use_case_file
from lepton_tasks.core.errors import ConfigError, DataError
from lepton_tasks.core.table_protocols import TableSource
from lepton_tasks.quality.history import reports_about
from lepton_tasks.quality.report_files import CHECKS, DOCS_PAGE

if TYPE_CHECKING:
    from lepton_tasks.data.tables.rows import TableRows

_SOURCES = {".csv": "csv", ".tsv": "csv", ".jsonl": "json_lines", ".ndjson": "json_lines", ".parquet": "parquet"}


def load_profile(what: str) -> dict[str, Any]:
    """Profile of a use case's training rows (``name``, ``name~1`` for the previous run), or of a file's rows.

    Raises:
        ConfigError: `what` is neither a use case nor a file.
        DataError: the use case has no profile yet, or the file cannot be read.
    """
    path = Path(what)
    if path.suffix == ".json" and path.is_file():
        return _read_profile(path)
    if path.suffix not in (".yaml", ".yml") and path.exists():
        return _profile_of_file(path)
    name, _, back = what.partition("~")
    name = Path(name).stem if Path(name).suffix in (".yaml", ".yml") else name
    if not name.isidentifier() or not (back or "0").isdigit():
        raise ConfigError("not a file, and not a use case.", where=what, fix="Give a path, NAME, or NAME~1.")
    reports = reports_about(name, "validate_cleaned", state_root())
    files = [Path(report["folder"], "profile.json") for report in reports]
    files = [file for file in files if file.exists()]
    back_by = int(back or 0)
    if back_by >= len(files):
        there = f"only {len(files)} of its runs left a profile" if files else "none of its runs has left a profile yet"
        use_case = use_case_file(name)
        raise DataError(
            f"{there}.",
            where=what,
            fix=f"Run `lepton run {use_case} --until validate_cleaned`; unchanged runs leave no new one."
            if use_case.exists()
            else "See `lepton list` for the names of use cases, or give the path of a table.",
        )
    return _read_profile(files[-1 - back_by])


def profile_table(profile: dict[str, Any]) -> list[Any]:
    """Table with one line per column; text columns show their lengths."""
    table = Table(title=f"{profile['rows']:,} rows", title_justify="left", box=None, padding=(0, 1))
    for head in ("column", "type", "missing", "different", "least", "mean", "most", "most frequent"):
        figure = head not in ("column", "type", "most frequent")
        table.add_column(head, justify="right" if figure else "left", no_wrap=head != "most frequent")
    for name, about in profile["columns"].items():
        share = about["nulls"] / max(1, about["rows"])
        spread = [about.get(key, about.get(other)) for key, other in (("min", "first"), ("mean", ""), ("max", "last"))]
        if "lengths" in about:
            spread = [_length(about["lengths"][key]) for key in ("min", "mean", "max")]
        frequent = [(value, count) for value, count in about["top"][:3] if count > 1]
        top = ", ".join(f"{str(value)[:18]} ({count:,})" for value, count in frequent)
        about_distinct = f"{'' if about['distinct_exact'] else '~'}{about['distinct']:,}"
        table.add_row(name, about["type"].partition("(")[0], f"{share:.1%}", about_distinct, *map(_short, spread), top)
    return [table]


def diff_tables(diff: dict[str, Any]) -> list[Any]:
    """Added and removed columns, and a table of the columns' shifts, the largest first."""
    old, new = diff["rows"]
    lines: list[Any] = [f"rows: {old:,} -> {new:,}"]
    lines += [f"{kind} columns: {', '.join(diff[kind])}" for kind in ("added", "removed") if diff[kind]]
    lines += [f"type of {change['column']}: {change['old']} -> {change['new']}" for change in diff["retyped"]]
    limits = diff["thresholds"]
    title = f"PSI above noise: moderate from {limits['moderate']}, large from {limits['large']}; JS: Jensen-Shannon"
    table = Table(title=title, title_justify="left", box=None, padding=(0, 1))
    for head in ("column", "shift", "PSI", "noise", "JS", "missing", "mean", "different"):
        table.add_column(head, justify="left" if head in ("column", "shift") else "right", no_wrap=True)
    for shift in diff["shifts"]:
        missing = " -> ".join(f"{share:.1%}" for share in shift["nulls"])
        mean, distinct = (" -> ".join(map(_short, shift.get(key, []))) for key in ("mean", "distinct"))
        if "mean_length" in shift:
            mean = " -> ".join(map(_length, shift["mean_length"]))
        measures = (f"{shift[key]:.3f}" for key in ("psi", "noise", "jensen_shannon"))
        table.add_row(shift["column"], shift["size"], *measures, missing, mean, distinct)
    return [*lines, table] if diff["shifts"] else [*lines, "no common columns"]


def latest_docs(name: str) -> list[dict[str, Any]]:
    """``stage, page, time, success`` of the latest Data Docs of each check, oldest first; failed runs included.

    Raises:
        DataError: there are none.
    """
    found = []
    for stage in CHECKS:
        if reports := reports_about(name, stage, state_root()):
            last = reports[-1]
            page = Path(last["folder"], DOCS_PAGE)
            found.append({"stage": stage, "page": str(page), "time": last["time"], "success": last["success"]})
    if not found:
        raise DataError(
            "there are no Data Docs yet.", where=name, fix="Run the use case first; see `lepton list` for names."
        )
    return sorted(found, key=lambda page: str(page["time"]))


def _read_profile(path: Path) -> dict[str, Any]:
    try:
        profile: dict[str, Any] = json.loads(path.read_text())
        profile["rows"], profile["columns"]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            "contains no profile.", where=str(path), fix="Make one with `lepton data profile --json`."
        ) from error
    return profile


def _profile_of_file(path: Path) -> dict[str, Any]:
    from lepton_tasks.quality.profile import profile_of
    from lepton_tasks.quality.rows import SourceRows

    suffixes = {path.suffix} if path.is_file() else {file.suffix for file in path.iterdir() if file.is_file()}
    names = {_SOURCES[suffix] for suffix in suffixes if suffix in _SOURCES}
    if len(names) != 1:
        raise ConfigError(
            "not a table, or files of several types.", where=str(path), fix=f"Known: {', '.join(_SOURCES)}."
        )
    source = TABLE_SOURCES.build(names.pop(), {"path": str(path.resolve())}, data_root=path.parent)
    return profile_of(_as_parts(source) or SourceRows(source), RunContext.from_env("profile"))


def _as_parts(source: TableSource) -> TableRows | None:
    """The source as parts to read on Dask, if it consists of Parquet files usable in place; otherwise None."""
    from lepton_tasks.data.tables.ingest import parts_of
    from lepton_tasks.data.tables.rows import Part, TableRows

    parts: list[Part] = []
    for piece in source.pieces():
        if piece.parquet is None:
            return None
        parts += parts_of(piece.parquet, piece.origin, sum(map(len, parts)))
    return TableRows(tuple(parts), sum(map(len, parts))) if parts else None


def _length(length: float | None) -> str:
    return "" if length is None else f"length {length:,.4g}"


def _short(value: Any) -> str:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return f"{value:,}" if isinstance(value, int) else f"{value:,.6g}"
    return "" if value is None else str(value)[:19]
