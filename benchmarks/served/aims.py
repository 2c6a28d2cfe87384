"""Ratios of the benchmark and their targets."""

from __future__ import annotations

from benchmarks.served.peers import PEERS
from benchmarks.served.results import Results

MOST = 64  # connections at which rates are compared
_READY_SECONDS = 2.0
_OURS = {"json": "ours_json", "binary": "ours_binary", "one": "ours_one", "one_json": "ours_one_json"}

# Ratio -> its minimum, or its maximum.
AT_LEAST = {
    "cnn_binary_vs_onnxruntime": 0.8,
    **{f"cnn_json_vs_{peer}": 3.0 for peer in ("fastapi", "litserve", "bentoml", "mlflow")},
    **{f"cnn_json_vs_{peer}": 2.3 for peer in ("mlserver", "kserve")},
    "lstm_json_vs_onnxruntime": 1.3,
    "lstm_json_vs_best_server": 8.0,
    "null_json_vs_best_server": 10.0,
}
AT_MOST = {
    **{f"{model}_p99_c1_vs_echo": 2.0 for model in ("cnn", "lstm", "embedding", "null")},
    **{f"{model}_p99_awake_vs_echo": 2.0 for model in ("cnn", "lstm", "embedding", "null")},
    **{f"{model}_p99_c64_vs_best": 1.0 for model in ("cnn", "lstm", "embedding", "null")},
    "memory_vs_mlserver": 1.0,
    "memory_vs_bentoml": 1.0,
    "ready_vs_2_seconds": 1.0,
}


def ratios(results: Results) -> dict[str, float]:
    """All ratios of which both sides were measured."""
    found: dict[str, float] = {}
    for model in results.limits:
        found |= _rates(results, model) | _latencies(results, model)
    peaks = {subject: server.peak_mib for (model, subject), server in results.servers.items() if model == "cnn"}
    for peer in ("mlserver", "bentoml"):
        if peer in peaks and "ours_json" in peaks:
            found[f"memory_vs_{peer}"] = peaks["ours_json"] / peaks[peer]
    ready = [server.ready_seconds for (_, subject), server in results.servers.items() if subject == "ours_json"]
    if ready:
        found["ready_vs_2_seconds"] = max(ready) / _READY_SECONDS
    return found


def _rates(results: Results, model: str) -> dict[str, float]:
    found = {}
    for form, subject in _OURS.items():
        if load := results.load(model, subject, MOST):
            found[f"{model}_{form}_vs_onnxruntime"] = load.rate / results.limits[model].one
    mine = results.load(model, "ours_json", MOST)
    theirs = {name: load.rate for name in PEERS if (load := results.load(model, name, MOST)) and load.rate}
    if mine:
        found |= {f"{model}_json_vs_{name}": mine.rate / rate for name, rate in theirs.items() if name != "echo"}
    if ready_made := [rate for name, rate in theirs.items() if PEERS[name].ready_made]:
        for form in ("json", "one_json"):
            if load := results.load(model, _OURS[form], MOST):
                found[f"{model}_{form}_vs_best_server"] = load.rate / max(ready_made)
    return found


def _latencies(results: Results, model: str) -> dict[str, float]:
    found = {}
    first = results.load(model, "ours_binary", 1) or results.load(model, "ours_json", 1)
    if first and (echo := results.load(model, "echo", 1)):
        found[f"{model}_p99_c1_vs_echo"] = first.p99 / echo.p50
        found[f"{model}_p99_c1_vs_p99_of_echo"] = first.p99 / echo.p99
    first = results.awake(model, "ours_binary") or results.awake(model, "ours_json")
    if first and (echo := results.awake(model, "echo")):
        found[f"{model}_p99_awake_vs_echo"] = first.p99 / echo.p50
    mine = results.load(model, "ours_json", MOST)
    theirs = [load.p99 for name in PEERS if name != "echo" and (load := results.load(model, name, MOST)) and load.rate]
    if mine and theirs:
        found[f"{model}_p99_c64_vs_best"] = mine.p99 / min(theirs)
    return found


def aims(found: dict[str, float]) -> dict[str, dict[str, object]]:
    """The target of each ratio that has one, and whether it is met."""
    told: dict[str, dict[str, object]] = {}
    for name, value in found.items():
        if name in AT_LEAST:
            told[name] = {"aim": f">= {AT_LEAST[name]:g}", "met": value >= AT_LEAST[name]}
        elif name in AT_MOST:
            told[name] = {"aim": f"<= {AT_MOST[name]:g}", "met": value <= AT_MOST[name]}
    return told
