import multiprocessing
import os
import signal
import time

import pytest

from lepton_tasks.core import store as module
from lepton_tasks.core.artifacts import CheckpointRef, DatasetRef, parse_ref
from lepton_tasks.core.errors import ArtifactError
from lepton_tasks.core.store import ArtifactStore, blake3_file


@pytest.fixture
def store(tmp_path):
    return ArtifactStore(tmp_path)


def published(store, text="hello", mark="f1", **how):
    draft = store.draft("clean", mark)
    (draft.path / "sub").mkdir()
    (draft.path / "sub" / "rows.txt").write_text(text)
    return draft.publish(DatasetRef, {"rows": 1}, **how)


def test_what_is_published_is_found_and_read(store):
    ref = published(store)
    assert ref.uri == "store://clean/f1"
    assert store.find("clean", "f1") == ref
    assert (store.open(ref) / "sub" / "rows.txt").read_text() == "hello"


def test_a_draft_is_invisible_until_it_is_published(store):
    draft = store.draft("clean", "f1")
    (draft.path / "rows.txt").write_text("half")
    assert store.find("clean", "f1") is None


def test_the_digest_is_of_the_content(store, tmp_path):
    assert published(store, "a", "f1").digest == published(store, "a", "f2").digest
    assert published(store, "b", "f3").digest != published(store, "a", "f4").digest


def test_an_altered_file_is_refused(store):
    ref = published(store)
    (store.folder(ref) / "sub" / "rows.txt").write_text("hellO")
    with pytest.raises(ArtifactError, match=r"sub/rows.txt .*altered.*--force"):
        store.open(ref)


def test_another_artifact_at_the_same_address_is_refused(store):
    ref = published(store)
    with pytest.raises(ArtifactError, match=r"not the one the reference names \(digest 000000000000\)"):
        store.open(ref.model_copy(update={"digest": "0" * 64}))


def test_a_file_is_hashed_again_once_somebody_touched_it(store, monkeypatch):
    hashed = []
    monkeypatch.setattr(module, "_MTIME_MARGIN", -1)  # as if the file were old
    monkeypatch.setattr(module, "blake3_file", lambda path: hashed.append(path.name) or blake3_file(path))
    ref = published(store)
    store.open(ref)
    assert hashed == ["rows.txt"]
    path = store.folder(ref) / "sub" / "rows.txt"
    before = path.stat()
    time.sleep(0.02)  # more than a tick of the file system's clock
    path.write_text("hellO")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(ArtifactError, match=r"sub/rows.txt .*altered"):
        store.open(ref)


def test_what_was_just_written_is_hashed_each_time(store, monkeypatch):
    hashed = []
    monkeypatch.setattr(module, "blake3_file", lambda path: hashed.append(path.name) or blake3_file(path))
    store.open(published(store))
    assert hashed == ["rows.txt", "rows.txt"]


def test_files_that_were_settled_are_published_without_being_hashed_again(store, monkeypatch):
    hashed = []
    monkeypatch.setattr(module, "blake3_file", lambda path: hashed.append(path.name) or blake3_file(path))
    draft = store.draft("clean", "f1")
    for name in ("early", "late", "gone"):
        (draft.path / name).write_text(name)
    for name in ("early", "gone"):
        draft.settle(draft.path / name)
        draft._settling[draft.path / name].result()
    (draft.path / "gone").unlink()
    ref = draft.publish(DatasetRef)
    assert hashed == ["early", "gone", "late"]
    assert sorted(path.name for path in store.open(ref).glob("[a-z]*")) == ["early", "late"]
    (store.folder(ref) / "early").write_text("later")
    with pytest.raises(ArtifactError, match=r"early .*altered"):
        store.open(ref)


def test_a_file_that_could_not_be_settled_is_not_published(store):
    draft = store.draft("clean", "f1")
    draft.settle(draft.path / "rows")
    while not draft._settling[draft.path / "rows"].done():
        time.sleep(0.001)
    (draft.path / "rows").write_text("too late")
    with pytest.raises(FileNotFoundError):
        draft.publish(DatasetRef)
    assert store.find("clean", "f1") is None


@pytest.mark.parametrize("name", ["sub/rows.txt", "_ref.json", "_manifest.json"])
def test_a_missing_file_makes_the_artifact_unfit_for_reuse(store, name):
    ref = published(store)
    (store.folder(ref) / name).unlink()
    assert store.find("clean", "f1") is None


def test_the_first_of_two_publishers_wins(store):
    first = published(store, "first")
    assert published(store, "second") == first
    assert (store.open(first) / "sub" / "rows.txt").read_text() == "first"


def test_a_forced_publisher_replaces(store):
    published(store, "first")
    second = published(store, "second", replace=True)
    assert (store.open(second) / "sub" / "rows.txt").read_text() == "second"


def test_a_broken_artifact_is_replaced_by_the_next_attempt(store):
    ref = published(store, "first")
    (store.folder(ref) / "sub" / "rows.txt").unlink()
    assert (store.open(published(store, "again")) / "sub" / "rows.txt").read_text() == "again"


def _dies_with_a_draft(root, mark):
    store = ArtifactStore(root)
    with store.lock("clean", mark):
        (store.draft("clean", mark).path / "rows.txt").write_text("half")
        os._exit(9)


def test_what_killed_stages_left_is_removed_and_what_others_write_is_not(store, tmp_path):
    for mark in ("gone", "again"):
        process = multiprocessing.get_context("fork").Process(target=_dies_with_a_draft, args=(tmp_path, mark))
        process.start()
        process.join()
        assert [path.name.split("-")[1] for path in store.drafts.iterdir()] == [mark]
    without_lock = store.draft("clean", "f9").path
    with store.lock("clean", "held"):
        held = store.draft("clean", "held").path
        with store.lock("clean", "again"):
            own = store.draft("clean", "again").path
            assert set(store.drafts.iterdir()) == {without_lock, held, own}
        assert set(store.drafts.iterdir()) == {without_lock, held}


def _fails_with_a_draft(store):
    with store.lock("clean", "f1"):
        (store.draft("clean", "f1").path / "rows.txt").write_text("half")
        raise RuntimeError


def test_a_stage_that_fails_leaves_no_draft(store):
    with pytest.raises(RuntimeError):
        _fails_with_a_draft(store)
    assert list(store.drafts.iterdir()) == []


@pytest.mark.parametrize("uri", ["store://../etc", "file:///etc/passwd", "store://clean", "store://clean/../../x"])
def test_an_address_outside_the_store_is_refused(store, uri):
    with pytest.raises(ArtifactError, match="not an artifact's address"):
        store.folder(DatasetRef(uri=uri, digest="", stage="clean"))


def test_references_survive_json():
    ref = CheckpointRef(uri="store://train/a", digest="d", stage="train", facts={"accuracy": 0.5})
    assert parse_ref(ref.model_dump(mode="json")) == ref


def _publish_slowly(root):
    store = ArtifactStore(root)
    with store.lock("clean", "f1"):
        draft = store.draft("clean", "f1")
        for number in range(10_000):
            (draft.path / f"{number}.txt").write_text("x" * 1000)
        draft.publish(DatasetRef)


@pytest.mark.parametrize("seconds", [0.1, 0.4, 0.8])
def test_kill_during_publish_leaves_nothing_half_written(tmp_path, seconds):
    child = multiprocessing.get_context("fork").Process(target=_publish_slowly, args=(tmp_path,))
    child.start()
    time.sleep(seconds)
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    store = ArtifactStore(tmp_path)
    found = store.find("clean", "f1")
    assert found is None or len(list(store.open(found).glob("*.txt"))) == 10_000
    with store.lock("clean", "f1"):  # the dead holder's lock is gone
        ref = published(store, "again", replace=True)
    assert (store.open(ref) / "sub" / "rows.txt").read_text() == "again"
