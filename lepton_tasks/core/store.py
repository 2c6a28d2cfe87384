"""The artifact store: atomic publication, digests checked on read."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import time
import uuid
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import pydantic

from lepton_tasks.core.artifacts import ArtifactRef, Fact, Hash, parse_ref
from lepton_tasks.core.errors import ArtifactError

_SCHEME = "store://"
_REF_FILE = "_ref.json"
_MANIFEST_FILE = "_manifest.json"
_REMOVED = "removed"  # prefix of artifact folders being deleted

_MTIME_MARGIN = 2.0  # seconds: a change within one tick of the file system's clock (up to 1 s) keeps the same mtime
_digest_cache: dict[tuple[Hash, tuple[int, ...]], str] = {}

R = TypeVar("R", bound=ArtifactRef)


def sha256_file(path: Path) -> str:
    """Hex sha256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def blake3_file(path: Path) -> str:
    """Hex BLAKE3 of a file's bytes, 3 times as fast as sha256: each process hashes what it opens (decision 101)."""
    from blake3 import blake3

    with path.open("rb") as stream:
        return hashlib.file_digest(stream, blake3).hexdigest()  # type: ignore[arg-type]  # not a hashlib type, but has the methods used


def _digests(paths: Sequence[Path], by: Hash) -> Iterator[str | None]:
    """The digest of each file, None for a missing one; on all cores, since hashing releases the GIL."""
    with ThreadPoolExecutor() as pool:
        yield from pool.map(lambda path: _digest(path, by) if path.is_file() else None, paths)


def _digest(path: Path, by: Hash) -> str:
    """The file's digest, cached in this process while the file is unchanged."""
    stat = path.stat()
    if (cached := _digest_cache.get((by, _version(stat)))) is not None:
        return cached
    return _cache(stat, by, blake3_file(path) if by == "blake3" else sha256_file(path))


def _cache(stat: os.stat_result, by: Hash, digest: str) -> str:
    """Cache the digest, if a later change of the file would show in its `_version`."""
    if time.time() - stat.st_ctime > _MTIME_MARGIN:
        _digest_cache[by, _version(stat)] = digest
    return digest


def _version(stat: os.stat_result) -> tuple[int, ...]:
    return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


def digest_of(value: Any) -> str:
    """Hex sha256 of a JSON-like value, independent of key order."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically: a reader sees the old file or the new one, never a part."""
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    part.write_text(json.dumps(value, indent=2, sort_keys=True, default=str) + "\n")
    os.replace(part, path)


class Draft:
    """A private folder that `publish` turns into an artifact."""

    def __init__(self, store: ArtifactStore, stage: str, fingerprint: str) -> None:
        self._store, self._stage, self._fingerprint = store, stage, fingerprint
        self.path = store.drafts / f"{stage}-{fingerprint}-{uuid.uuid4().hex}"
        self.path.mkdir(parents=True)
        self._settling: dict[Path, Future[str]] = {}
        self._settler = ThreadPoolExecutor(1, thread_name_prefix="settle")

    def settle(self, path: Path) -> None:
        """Start hashing and syncing a finished file in the background, so that `publish` has less to do.

        The file must not change any more; it may still be removed.
        """
        self._settling[path] = self._settler.submit(_settle, path)

    def publish(self, kind: type[R], facts: Mapping[str, Fact] | None = None, *, replace: bool = False) -> R:
        """Write manifest and digest, and move the folder to its final location in one rename.

        If another process has published the same fingerprint in the meantime, that artifact is returned, unless
        `replace` is set.
        """
        files, by = [p for p in sorted(self.path.rglob("*")) if p.is_file()], kind.hashed_by
        settled = {p: _cache(p.stat(), "blake3", self._settling[p].result()) for p in files if p in self._settling}
        self._settler.shutdown()
        others = [p for p in files if p not in settled or by != "blake3"]
        digests = settled | dict(zip(others, _digests(others, by), strict=True))
        manifest = {str(p.relative_to(self.path)): {by: digests[p], "bytes": p.stat().st_size} for p in files}
        ref = kind(  # type: ignore[call-arg]  # every subclass defines `kind`
            uri=f"{_SCHEME}{self._stage}/{self._fingerprint}",
            digest=digest_of({name: entry[by] for name, entry in manifest.items()}),
            stage=self._stage,
            facts=dict(facts or {}),
        )
        write_json(self.path / _MANIFEST_FILE, manifest)
        write_json(self.path / _REF_FILE, ref.model_dump())
        _sync_tree(self.path, but=settled)
        final = self._store.folder(ref)
        final.parent.mkdir(parents=True, exist_ok=True)
        if replace or self._store.find(self._stage, self._fingerprint) is None:
            self._store.remove(self._stage, self._fingerprint)
        try:
            self.path.rename(final)
        except OSError:
            existing = self._store.find(self._stage, self._fingerprint)
            if existing is None:
                raise
            self.discard()
            return kind.model_validate(existing.model_dump())
        _sync_folder(final.parent)
        return ref

    def discard(self) -> None:
        """Remove the folder."""
        self._settler.shutdown(cancel_futures=True)
        shutil.rmtree(self.path, ignore_errors=True)


class ArtifactStore:
    """Artifacts under one folder, addressed by stage and fingerprint.

    Args:
        root: The state folder; artifacts lie in ``root/artifacts/<stage>/<fingerprint>``.
    """

    def __init__(self, root: Path) -> None:
        self.root = Path(root)

    @property
    def drafts(self) -> Path:
        """Parent of the private folders, each named after its lock."""
        return self.root / "artifacts" / ".drafts"

    def draft(self, stage: str, fingerprint: str) -> Draft:
        """Create a private folder for one artifact."""
        return Draft(self, stage, fingerprint)

    def folder(self, ref: ArtifactRef) -> Path:
        """Folder of the artifact on this machine; it may be missing, see `open`."""
        return self.folder_at(ref.uri)

    def folder_at(self, uri: str) -> Path:
        """Folder of the artifact with this URI on this machine; raises `ArtifactError` for an invalid URI."""
        stage, _, fingerprint = uri.removeprefix(_SCHEME).partition("/")
        if not uri.startswith(_SCHEME) or not stage or not fingerprint or ".." in uri:
            raise ArtifactError(f"{uri!r} is not an artifact's address.", fix="It reads store://<stage>/<id>.")
        return self.root / "artifacts" / stage / fingerprint

    def find(self, stage: str, fingerprint: str) -> ArtifactRef | None:
        """The published artifact of this fingerprint; None if it is missing or a file's size differs."""
        folder = self.root / "artifacts" / stage / fingerprint
        try:
            ref = parse_ref(json.loads((folder / _REF_FILE).read_text()))
            manifest = json.loads((folder / _MANIFEST_FILE).read_text())
            whole = all((folder / name).stat().st_size == entry["bytes"] for name, entry in manifest.items())
        except (OSError, ValueError, KeyError, pydantic.ValidationError):
            return None
        return ref if whole else None

    def open(self, ref: ArtifactRef) -> Path:
        """The artifact's folder, after its digests were checked (once per process while files are unchanged).

        Raises:
            ArtifactError: it is missing, or a file was altered after publication.
        """
        folder, by = self.folder(ref), ref.hashed_by
        try:
            manifest = json.loads((folder / _MANIFEST_FILE).read_text())
        except (OSError, ValueError) as error:
            raise ArtifactError(
                f"the artifact {ref.uri} is missing or has no manifest.",
                where=str(folder),
                fix=f"Run the stage {ref.stage!r} again with --force.",
            ) from error
        found = _digests([folder / name for name in manifest], by)
        for (name, entry), digest in zip(manifest.items(), found, strict=True):
            if digest is None or digest != entry.get(by):
                raise ArtifactError(
                    f"{name} of the artifact {ref.uri} is missing or was altered after it was published.",
                    where=str(folder / name),
                    fix=f"Run the stage {ref.stage!r} again with --force.",
                )
        if digest_of({name: entry.get(by) for name, entry in manifest.items()}) != ref.digest:
            raise ArtifactError(
                f"the artifact {ref.uri} is not the one the reference names (digest {ref.digest[:12]}).",
                where=str(folder),
                fix=f"Run the stage {ref.stage!r} again.",
            )
        return folder

    def remove(self, stage: str, fingerprint: str) -> None:
        """Delete an artifact: renamed first, so that no reader sees a partial folder."""
        folder = self.root / "artifacts" / stage / fingerprint
        if folder.exists():
            aside = self.drafts / f"{_REMOVED}-{uuid.uuid4().hex}"
            aside.parent.mkdir(parents=True, exist_ok=True)
            folder.rename(aside)
            shutil.rmtree(aside, ignore_errors=True)

    def workdir(self, stage: str, fingerprint: str) -> Path:
        """A folder that survives a killed stage, for checkpoints to resume from."""
        folder = self.root / "work" / stage / fingerprint
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    @contextlib.contextmanager
    def lock(self, stage: str, fingerprint: str) -> Iterator[None]:
        """Hold the exclusive lock of this artifact; waits while another process holds it.

        It is a kernel lock (flock), released when its holder ends, however that ends. Removes abandoned drafts, of
        killed holders and of this one.
        """
        self._locks.mkdir(parents=True, exist_ok=True)
        name = f"{stage}-{fingerprint}"
        with (self._locks / name).open("w") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            self._sweep(name)
            try:
                yield
            finally:
                self._sweep(name)

    @property
    def _locks(self) -> Path:
        return self.root / "work" / ".locks"

    def _sweep(self, held: str) -> None:
        """Remove the drafts of the lock `held` and of unheld locks; keep drafts created without a lock."""
        for left in self.drafts.glob("*"):
            name = left.name.rpartition("-")[0]
            if name in (held, _REMOVED):
                shutil.rmtree(left, ignore_errors=True)
                continue
            with contextlib.suppress(OSError), (self._locks / name).open("r+") as stream:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(left, ignore_errors=True)


def _settle(path: Path) -> str:
    digest = blake3_file(path)
    _sync_file(path)
    return digest


def _sync_tree(folder: Path, *, but: Collection[Path]) -> None:
    for path in folder.rglob("*"):
        if path.is_file() and path not in but:
            _sync_file(path)
    _sync_folder(folder)


def _sync_file(path: Path) -> None:
    with path.open("rb") as stream:
        os.fsync(stream.fileno())


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
