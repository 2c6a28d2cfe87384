import io
from types import SimpleNamespace

import numpy as np
from PIL import Image
from rich.console import Console

from lepton_tasks.cli.demo import as_text
from lepton_tasks.cli.display import RunDisplay, headline
from lepton_tasks.core.artifacts import DatasetRef
from lepton_tasks.core.context import Progress
from lepton_tasks.core.errors import DataError
from lepton_tasks.stages.pipeline import STAGES
from lepton_tasks.stages.runner import StageResult
from lepton_tasks.training.curves import told


def shown(terminal=False):
    return Console(file=io.StringIO(), width=120, force_terminal=terminal)


def test_a_plain_stream_gets_one_line_a_stage():
    console = shown()
    ref = DatasetRef(uri="store://ingest/a", digest="d", stage="ingest", facts={"rows": 5000, "classes": 10})
    with RunDisplay(console, "digits", [stage.name for stage in STAGES]) as display:
        display.started(STAGES[0])
        display.ended(StageResult("ingest", "success", 1.25, ref=ref))
        display.ended(StageResult("clean", "failed", 0.5, error=DataError("no rows.")))
    lines = console.file.getvalue().splitlines()
    assert lines[0].split() == ["ingest", "success", "1.2", "s", "5,000", "rows,", "10", "classes"]
    assert lines[1].split() == ["clean", "failed", "0.5", "s", "no", "rows."]


def test_what_is_told_of_a_table_is_what_was_refused_and_changed():
    assert (
        headline("ingest", {"bytes": 9, "columns": 3, "refused": 2, "rows": 1000}) == "1,000 rows, 3 columns, 2 refused"
    )
    facts = {"classes": 2, "rows": 70, "filled": 5, "outside": 1}
    assert headline("fit_features", facts) == "70 training rows; 5 values filled, 1 out of bounds"
    facts = {"bytes": 4000, "classes": 2, "train_rows": 70, "test_rows": 15, "validation_rows": 15}
    assert headline("transform", facts) == "70 training rows, 4,000 bytes of shards"
    assert headline("transform", facts | {"refused": 3}) == "70 training rows, 3 refused, 4,000 bytes of shards"


def test_a_terminal_gets_a_table_of_all_stages():
    console = shown(terminal=True)
    with RunDisplay(console, "digits", [stage.name for stage in STAGES]) as display:
        display.started(STAGES[7])
        row = {"train_loss": 0.5, "validation_accuracy": 0.875, "learning_rate": 1e-3, "samples_per_second": 4321.0}
        display.progressed(Progress("train", 3, 12, "epochs", 6.0, note=told(row)))
    assert "3 of 12 epochs (2.0 s each, 18 s left): train loss 0.5, validation accuracy 0.875, 4,321 samples/s" in (
        " ".join(console.file.getvalue().split())
    )


def test_a_plain_stream_gets_progress_once_a_second_and_the_last(monkeypatch):
    console, clock = shown(), iter([50.0, 50.4, 50.9, 51.1, 51.2, 51.3])
    monkeypatch.setattr("lepton_tasks.cli.display.time", SimpleNamespace(monotonic=lambda: next(clock)))
    with RunDisplay(console, "digits", ["train"]) as display:
        for epoch in range(1, 7):
            display.progressed(Progress("train", epoch, 60, "epochs", 1.0))
        display.ended(StageResult("train", "failed", 0.5, error=DataError("stopped.")))
    lines = [line.split() for line in console.file.getvalue().splitlines()]
    assert [line[1] for line in lines] == ["1", "4", "6", "failed"]


def test_one_of_a_thing_is_told_in_the_singular():
    facts = {"expectations": 1, "failed": 0, "warnings": 11}
    assert headline("validate_raw", facts) == "1 expectation, 0 failed, 11 warnings"
    assert headline("ingest", {"classes": 1, "rows": 1}) == "1 row, 1 class"
    assert headline("ingest", {"classes": 2, "rows": 2001}) == "2,001 rows, 2 classes"
    assert headline("fit_features", {"rows": 1, "filled": 1, "outside": 0}) == "1 training row; 1 value filled, " + (
        "0 out of bounds"
    )


def test_the_kept_epoch_is_counted_as_people_count():
    facts = {"metric": "accuracy", "validation_accuracy": 0.5, "best_epoch": 4, "epochs": 5}
    assert headline("train", facts) == "validation accuracy 0.5000, kept epoch 5 of 5"


def test_an_unknown_fact_is_shown_plainly():
    assert headline("train", {"validation_accuracy": 0.5}) == "validation accuracy 0.5"


def test_a_picture_as_text_is_dark_where_the_picture_is():
    pixels = np.zeros((28, 28), np.uint8)
    pixels[:, :14] = 255
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    lines = as_text(stream.getvalue()).splitlines()
    assert len(lines) == 28
    assert all(line.startswith("@" * 26) and len(line) < 32 for line in lines)
