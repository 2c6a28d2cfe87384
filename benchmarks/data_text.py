"""Tokenising through the `text` features beside `tokenizers` alone, on made-up news of about 240 bytes.

Subjects, in turn, each in a process of its own: `alone` (the same fitted tokenizer, its `encode_batch` over a list of
strings that is in memory already; nothing is kept) and `lepton` (`TextFeatures.transform`: Parquet parts read, cleaned,
tokenised on Dask's threads, `inputs.npy` and `lengths.npy` written), each with a vocabulary of words and of byte pairs.

Ratios: `word_vs_tokenizers` and `bpe_vs_tokenizers`, bytes a second beside the peer's, and the same of bytes a
CPU-second; higher is better, 0.9 is the aim.
"""

from __future__ import annotations

import functools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import polars as pl

from benchmarks.harness import alternate, arguments, report
from lepton_tasks.codecs.text import load_tokenizer
from lepton_tasks.core.context import RunContext
from lepton_tasks.core.store import write_json
from lepton_tasks.data.extractors.text import TextFeatures
from lepton_tasks.data.extractors.vocabulary import Kind
from lepton_tasks.data.tables.rows import Part, TableRows

KINDS: tuple[Kind, ...] = ("word", "bpe")
PARTS = 16
WORDS = 12_000


def write_news(folder: Path, rows: int) -> None:
    """Texts of 20 to 60 words whose frequencies fall as in a natural language (Zipf), some with HTML, in Parquet."""
    random = np.random.default_rng(5)
    letters = np.array(list("etaoinshrdlcumwfgypbvk"))
    words = ["".join(random.choice(letters, size)) for size in random.integers(2, 11, WORDS)]
    share = 1 / np.arange(1, WORDS + 1)
    for part in range(PARTS):
        texts = []
        for length in random.integers(20, 60, rows // PARTS):
            chosen = [words[i] for i in random.choice(WORDS, length, p=share / share.sum())]
            texts.append(" ".join(chosen).capitalize() + (" &lt;b&gt;&amp;" if length % 10 == 0 else "."))
        pl.DataFrame({"text": texts}).write_parquet(folder / f"{part:02d}.parquet")


def table(folder: Path) -> TableRows:
    """The texts as a table."""
    parts, first = [], 0
    for path in sorted(folder.glob("*.parquet")):
        rows = pl.scan_parquet(path).select(pl.len()).collect().item()
        parts.append(Part(str(path), 0, rows, first, path.name))
        first += rows
    return TableRows(tuple(parts), height=first)


def features(kind: Kind) -> TextFeatures:
    """The features that are measured."""
    return TextFeatures(tokenizer=kind, vocab_size=8_000, max_length=128)


def run(subject: str, folder: Path) -> tuple[float, float]:
    """Wall and CPU seconds of one subject, without its preparations and imports."""
    import dask.base  # noqa: F401  # its import is not what is measured

    kind = next(kind for kind in KINDS if subject.startswith(kind))
    fitted = json.loads((folder / f"{kind}.json").read_text())
    rows, ctx = table(folder), RunContext.local(folder, run_id="benchmark")
    tokenizer = load_tokenizer(fitted["tokenizer"])
    texts = (
        pl.concat([frame.select("text") for frame in rows.frames()])["text"].to_list()
        if subject.endswith("alone")
        else []
    )
    wall, cpu = time.perf_counter(), time.process_time()
    if subject.endswith("alone"):
        tokenizer.encode_batch(texts)
    else:
        features(kind).transform(rows, fitted, folder, ctx)
    return time.perf_counter() - wall, time.process_time() - cpu


def apart(subject: str, folder: Path, cpus: dict[str, list[float]]) -> float:
    """Wall seconds of the subject in a process of its own; its CPU seconds are kept."""
    command = [sys.executable, "-m", "benchmarks.data_text"]
    told = subprocess.run(
        command, env={**os.environ, "LEPTON_BENCHMARK_SUBJECT": subject, "LEPTON_BENCHMARK_FOLDER": str(folder)},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    wall, cpu = json.loads(told.stdout.splitlines()[-1])
    cpus.setdefault(subject, []).append(cpu)
    return float(wall)


def main() -> None:
    """Measure and report."""
    options = arguments(__doc__ or "")
    rows, rounds = (20_000, 2) if options.quick else (50_000, 3)
    cpus: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory(prefix="lepton-benchmark-") as name:
        folder = Path(name)
        write_news(folder, rows)
        size = sum(int(pl.read_parquet(p)["text"].str.len_bytes().sum()) for p in folder.glob("*.parquet")) / 1e6
        for kind in KINDS:
            fitted = features(kind).fit(table(folder), RunContext.local(folder, run_id="benchmark"))
            write_json(folder / f"{kind}.json", fitted)
        subjects = [f"{kind}_{who}" for kind in KINDS for who in ("alone", "lepton")]
        seconds = alternate({s: functools.partial(apart, s, folder, cpus) for s in subjects}, rounds)
    cpu = {subject: statistics.median(values) for subject, values in cpus.items()}
    ratios = {f"{kind}_vs_tokenizers": seconds[f"{kind}_alone"] / seconds[f"{kind}_lepton"] for kind in KINDS}
    ratios |= {f"{kind}_cpu_vs_tokenizers": cpu[f"{kind}_alone"] / cpu[f"{kind}_lepton"] for kind in KINDS}
    report(
        "data_text",
        ratios=ratios,
        figures={"texts": rows, "megabytes": size, **{f"{s}_seconds": v for s, v in seconds.items()}},
        header=("subject", "seconds", "CPU-seconds", "MB/s"),
        rows=[(s, seconds[s], cpu[s], size / seconds[s]) for s in subjects],
        quick=options.quick,
        as_json=options.json,
    )


if __name__ == "__main__":
    if subject := os.environ.get("LEPTON_BENCHMARK_SUBJECT"):
        print(json.dumps(run(subject, Path(os.environ["LEPTON_BENCHMARK_FOLDER"]))))
    else:
        main()
