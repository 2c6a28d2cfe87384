"""Offline Data Docs: Great Expectations' pages in our layout."""

from __future__ import annotations

import base64
import datetime as dt
import html
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lepton_tasks.quality.history import name_of
from lepton_tasks.quality.suite import quiet

_STYLE = """
:root { --ink: #1d2733; --soft: #667085; --line: #e4e7ec; --back: #f7f8fa; --good: #2e9e5b; --bad: #c8403a;
  --warn: #b87412 }
* { box-sizing: border-box }
body { margin: 0; background: var(--back); color: var(--ink); font: 15px/1.5 system-ui, sans-serif }
main { max-width: 1100px; margin: 0 auto; padding: 2rem 1.2rem }
h1 { font-size: 1.5rem; margin: 0 0 .2rem } h2 { font-size: 1.15rem; margin: 2rem 0 .6rem }
h4, h5, h6 { font-size: 1rem; margin: .6rem 0 .3rem }
a { color: inherit } img { max-width: 100% }
.sum { color: var(--soft); margin: 0 0 1.2rem }
.card, .ge-section, .ours { background: #fff; border: 1px solid var(--line); border-radius: 10px; padding: .9rem 1.1rem;
  margin: 0 0 1rem; overflow-x: auto }
.ge-section .card { border: 0; padding: 0 }
table { border-collapse: collapse; width: 100% } td, th { text-align: left; vertical-align: top; padding: .4rem .6rem;
  border-top: 1px solid var(--line); overflow-wrap: anywhere }
th { color: var(--soft); font-weight: 600; border-top: 0; white-space: nowrap }
.badge { background: #eef1f5; border-radius: 5px; padding: .05em .45em; font-size: .92em }
.held, .text-success { color: var(--good) } .critical, .text-danger { color: var(--bad) }
.warning, .text-warning { color: var(--warn) } .text-success::before { content: "\\2714" }
.text-danger::before { content: "\\2718" } .text-warning::before { content: "\\26A0" }
.d-none, .modal, [data-toggle=collapse] { display: none }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ee; --soft: #98a2b3; --line: #2b3440; --back: #12171e }
  .card, .ge-section, .ours { background: #1a212b } .badge { background: #2b3440 } }
"""
# No resource is loaded and no script runs, whatever the data contain.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_SECTIONS = re.compile(r'<div id="section-2" class="ge-section.*', re.DOTALL)  # the first tells what our page tells
_LIVE = re.compile(r"<script\b.*?</script>|<link\b[^>]*>|<img\b[^>]*>|<footer\b.*?</footer>", re.DOTALL | re.IGNORECASE)
_LINK = re.compile(r'href="(?!#)[^"]*"')


def write_docs(
    path: Path, report: dict[str, Any], results: Sequence[Any], *, name: str, history: Path | None = None
) -> None:
    """Write one page with results, history and Great Expectations' details of each expectation.

    Args:
        path: The page.
        report: Content of ``report.json``.
        results: Great Expectations' ``ExpectationValidationResult`` objects.
        name: Name of the suite.
        history: Plot of the history.
    """
    outcome = "held" if report["success"] else "failed"
    when = str(report.get("time", ""))[:19].replace("T", " ")
    count = f"{report['evaluated']} expectations on {report['rows']:,} rows; {len(report['failed'])} not met."
    summary = (report.get("use_case"), when, count, report.get("note"))
    about = html.escape(" \N{MIDDLE DOT} ".join(str(part) for part in summary if part))
    parts = [f"<h1>{html.escape(name)}: {outcome}</h1><p class=sum>{about}</p>", _overview(report["outcomes"])]
    if history is not None:
        picture = base64.b64encode(history.read_bytes()).decode()
        parts.append(
            f'<h2>Over runs</h2><div class=ours><img alt="history" src="data:image/png;base64,{picture}"></div>'
        )
    if results:
        parts.append(f"<h2>In detail</h2>{_details(results, name)}")
    page = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{html.escape(name)}</title>'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head>'
        f"<body><main>{''.join(parts)}</main></body></html>"
    )
    path.write_text(page, encoding="utf-8")


def _overview(outcomes: Sequence[dict[str, Any]]) -> str:
    """A table with one row per expectation, failed ones first."""
    rows = []
    for outcome in sorted(outcomes, key=lambda one: (one["success"], one["severity"])):
        state = "held" if outcome["success"] else outcome["severity"]
        cells = (f'<b class="{state}">{state}</b>', html.escape(name_of(outcome)), html.escape(outcome["observed"]))
        rows.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    head = "<tr><th>Outcome<th>Expectation<th>Observed</tr>"
    return f"<div class=ours><table>{head}{''.join(rows)}</table></div>"


def _details(results: Sequence[Any], name: str) -> str:
    """Great Expectations' rendering of the results, without its page frame, which loads scripts and styles."""
    with quiet():
        from great_expectations.core.expectation_validation_result import ExpectationSuiteValidationResult
        from great_expectations.core.run_identifier import RunIdentifier
        from great_expectations.render.renderer.page_renderer import ValidationResultsPageRenderer
        from great_expectations.render.view.view import DefaultJinjaPageView
        from great_expectations.validator.validation_statistics import calc_validation_statistics

        statistics = calc_validation_statistics(list(results))
        whole = ExpectationSuiteValidationResult(
            results=list(results),
            success=statistics.success,
            suite_name=name,
            statistics=statistics._asdict(),
            meta={"run_id": RunIdentifier(run_name=name, run_time=dt.datetime.now(dt.UTC)), "batch_spec": {}},
        )
        page = DefaultJinjaPageView().render(ValidationResultsPageRenderer().render(whole))
    found = _SECTIONS.search(page)
    body = page if found is None else found.group()
    return _LINK.sub("", _LIVE.sub("", body.replace("</body>", "").replace("</html>", "")))
