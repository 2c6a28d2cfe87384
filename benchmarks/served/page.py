"""The report: a table for the terminal, and a page with a picture for `docs/reports/serving`."""

from __future__ import annotations

import datetime
from pathlib import Path

from benchmarks.harness import machine
from benchmarks.served.aims import MOST, aims
from benchmarks.served.peers import PEERS
from benchmarks.served.seen import Seen
from lepton_tasks.core.environment import project_root

FOLDER = Path("docs/reports/serving")
_OURS = {
    "ours_json": "Lepton, JSON",
    "ours_binary": "Lepton, binary",
    "ours_one_json": "Lepton, JSON, 1 process",
    "ours_one": "Lepton, binary, 1 process",
}


def table(seen: Seen) -> tuple[list[str], list[list[object]]]:
    """Header and rows: good answers a second, latencies in ms, memory in MiB, seconds to ready."""
    header = ["model", "server", *(f"c={c}" for c in seen.connections), "p50 c=1", "p99 c=1", "p50 awake", "p99 awake"]
    header += [f"p99 c={MOST}", "refused", "MiB", "ready"]
    rows: list[list[object]] = []
    for model, limit in seen.limits.items():
        rows.append([model, "ONNX Runtime, batch 1 / 8", round(limit.one), round(limit.eight), *[""] * 9])
        for (of, subject), standing in seen.standings.items():
            if of == model:
                loads = standing.loads
                row: list[object] = [model, title(subject), *(round(loads[c].rate) for c in seen.connections)]
                row += [f"{value:.2f}" for load in (loads[1], standing.awake) if load for value in (load.p50, load.p99)]
                row += [
                    f"{loads[MOST].p99:.1f}",
                    f"{100 * loads[MOST].refused:.0f} %",
                    round(standing.peak_mib),
                    f"{standing.ready_seconds:.1f}",
                ]
                rows.append(row)
    rows += [["", f"{what}: not measured", *[""] * 11] for what in seen.absent]
    return header, rows


def title(subject: str) -> str:
    """What a subject is called in a table."""
    return _OURS[subject] if subject in _OURS else PEERS[subject].title


def write_page(seen: Seen, found: dict[str, float]) -> Path:
    """Write `figures.md` and `rates.png`; returns the page."""
    folder = project_root() / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    about = machine()
    lines = [
        "# Figures of the serving benchmark",
        "",
        f"Made by `python -m benchmarks.serving` on {datetime.datetime.now(datetime.UTC):%Y-%m-%d}: {about['cpu']}, "
        f"{about['cores']} cores shared by client and server. Medians. Rates are good answers a second at 1, 16 and "
        "64 connections; latencies in ms, those called awake with one connection while no core is idle; memory: the "
        "most after a load, what is shared counts once; ready: seconds to the first answer.",
        "",
        "Peers: " + ", ".join(f"{PEERS[name].title} {number}".strip() for name, number in seen.versions.items()) + ".",
        "",
        "![Answers a second](rates.png)",
        "",
        "## Aims",
        "",
        "| ratio | measured | aim | met |",
        "|---|---|---|---|",
        *(
            f"| {name} | {found[name]:.2f} | {aim['aim']} | {'yes' if aim['met'] else '**no**'} |"
            for name, aim in aims(found).items()
        ),
        "",
    ]
    header, rows = table(seen)
    for model in seen.limits:
        lines += [f"## {model}", "", _line(header[1:]), _line(["---"] * (len(header) - 1))]
        lines += [_line(row[1:]) for row in rows if row[0] == model] + [""]
    if seen.absent:
        lines += ["## Not measured", "", *(f"- {what}: {why}" for what, why in seen.absent.items()), ""]
    page = folder / "figures.md"
    page.write_text("\n".join(lines))
    _draw(seen, folder / "rates.png")
    return page


def _line(cells: list[object] | list[str]) -> str:
    return f"| {' | '.join(str(cell) for cell in cells)} |"


def _draw(seen: Seen, path: Path) -> None:
    """Good answers a second at 64 connections, a panel a model, on a logarithmic axis."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, len(seen.limits), figsize=(4 * len(seen.limits), 4), squeeze=False)
    for panel, (model, limit) in zip(panels[0], seen.limits.items(), strict=True):
        shown = [s for s in seen.subjects() if seen.load(model, s, MOST)]
        loads = [seen.load(model, subject, MOST) for subject in shown]
        rates = [load.rate for load in loads if load]
        colours = ["tab:orange" if subject in _OURS else "tab:blue" for subject in shown]
        bars = panel.barh([title(subject) for subject in shown], rates, color=colours)
        panel.bar_label(bars, [f"{rate:,.0f}" for rate in rates], padding=2, fontsize=7)
        panel.axvline(limit.one, color="black", linestyle="--", linewidth=1, label="ONNX Runtime alone, batch 1")
        panel.set(
            xscale="log", title=model, xlabel="answers a second", xlim=(min(rates) / 2, max(*rates, limit.one) * 4)
        )
        panel.invert_yaxis()
        if panel is not panels[0][0]:
            panel.set_yticklabels([])
    panels[0][0].legend(fontsize=7, loc="lower right")
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
