"""``/v1/models/<name>/enrol|verify|identify``: the gallery of embedding models."""

from __future__ import annotations

import asyncio
import contextlib
import io
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Depends, Query
from starlette.requests import Request
from starlette.responses import Response

from lepton_tasks.core.errors import DataError
from lepton_tasks.serving.errors import ConflictError, UnknownModelError
from lepton_tasks.serving.http.admin import token_check
from lepton_tasks.serving.http.payload import Limits, read_samples
from lepton_tasks.serving.http.predict import json_reply
from lepton_tasks.serving.http.schema import ERRORS, predict_body
from lepton_tasks.serving.inference.samples import SampleJob
from lepton_tasks.serving.observing.telemetry import Call, Telemetry
from lepton_tasks.serving.package import Package
from lepton_tasks.serving.versions.live import Live
from lepton_tasks.serving.versions.routing import ModelTable

EMBEDDING = "embedding"
GALLERY_FILE = "gallery.sqlite"

_TABLE = """
CREATE TABLE IF NOT EXISTS enrolled (
    number INTEGER PRIMARY KEY, model TEXT NOT NULL, id TEXT NOT NULL, time REAL NOT NULL,
    sample BLOB NOT NULL, digest TEXT NOT NULL, embedding BLOB NOT NULL
)
"""
_WHO = "(:who IS NULL OR id = :who)"
_THRESHOLD = "threshold"

Id = Annotated[str, Query(min_length=1, max_length=200, description="The person: a name or number that you choose.")]


class Gallery:
    """The enrolled samples of a server's models, on disk.

    The decoded samples are stored with their embeddings, because embeddings of two model versions cannot be compared: a
    new version computes its own from the samples.

    Args:
        path: The SQLite file; readable by its owner only.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def enrol(self, model: str, who: str, package: Package, samples: Sequence[np.ndarray]) -> int:
        """Add decoded samples of a person; returns their number of samples."""
        embeddings = package.run(np.stack(samples))[EMBEDDING]
        with self._open() as store:
            store.executemany(
                "INSERT INTO enrolled (model, id, time, sample, digest, embedding) VALUES (?, ?, ?, ?, ?, ?)",
                [
                    (model, who, time.time(), _packed(sample), package.digest, embedding.astype("<f4").tobytes())
                    for sample, embedding in zip(samples, embeddings, strict=True)
                ],
            )
            query = "SELECT COUNT(*) FROM enrolled WHERE model = ? AND id = ?"
            return int(store.execute(query, (model, who)).fetchone()[0])

    def known(self, model: str) -> dict[str, int]:
        """Number of samples per person id."""
        with self._open() as store:
            query = "SELECT id, COUNT(*) FROM enrolled WHERE model = ? GROUP BY id ORDER BY id"
            return dict(store.execute(query, (model,)).fetchall())

    def forget(self, model: str, who: str) -> int:
        """Remove a person; returns the number of deleted samples."""
        with self._open() as store:
            store.execute("PRAGMA secure_delete = ON")
            return store.execute("DELETE FROM enrolled WHERE model = ? AND id = ?", (model, who)).rowcount

    def embeddings(self, model: str, package: Package, who: str | None = None) -> dict[str, np.ndarray]:
        """Embeddings float32 [samples, D] by id, of one person or all; those of other versions are recomputed."""
        parameters = {"model": model, "who": who, "digest": package.digest}
        with self._open() as store:
            query = "SELECT number, sample FROM enrolled WHERE model = :model AND digest <> :digest"
            for number, sample in store.execute(f"{query} AND {_WHO}", parameters).fetchall():
                embedding = package.run(_unpacked(sample)[np.newaxis])[EMBEDDING][0]
                values = (package.digest, embedding.astype("<f4").tobytes(), number)
                store.execute("UPDATE enrolled SET digest = ?, embedding = ? WHERE number = ?", values)
            query = "SELECT id, embedding FROM enrolled WHERE model = :model"
            rows = store.execute(f"{query} AND {_WHO}", parameters).fetchall()
        found: dict[str, list[np.ndarray]] = {}
        for who, stored in rows:
            found.setdefault(who, []).append(np.frombuffer(stored, "<f4"))
        return {who: np.stack(embeddings) for who, embeddings in found.items()}

    @contextlib.contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        if not self._path.exists():
            self._path.touch(mode=0o600)
        with contextlib.closing(sqlite3.connect(self._path, timeout=30)) as store, store:
            store.execute(_TABLE)
            yield store


def ranked(embedding: np.ndarray, known: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
    """All people with the mean cosine similarity of their samples to an embedding, most similar first."""
    found = [{"id": who, "similarity": float((own @ embedding).mean())} for who, own in known.items()]
    return sorted(found, key=lambda row: (-float(row["similarity"]), str(row["id"])))


def gallery_router(table: ModelTable, telemetry: Telemetry, limits: Limits, home: Path, token: str) -> APIRouter:
    """Routes of enrolment (admin token required), verification and identification."""
    gallery = Gallery(home / GALLERY_FILE)
    router = APIRouter(prefix="/v1/models/{name}", tags=["gallery"], responses=ERRORS)
    admin_only = [Depends(token_check(token))]

    async def embed(request: Request, name: str, call: Call) -> tuple[Live, np.ndarray]:
        """The champion, and its embedding of the one sample in the request.

        Canaries are not used here: each switch of versions would recompute all stored embeddings.
        """
        call.live, call.caller = _with_embeddings(table, name), request.state.key
        samples = await read_samples(request, limits, call.live.package.codec)
        if len(samples) != 1:
            raise DataError(f"{len(samples)} samples; send one at a time.")
        live = call.live = _with_embeddings(table, name)
        job = SampleJob(samples[0])
        answer = await live.batcher.submit_future(job)
        call.samples = job.sample_records
        return live, np.array(answer[EMBEDDING], np.float32)

    async def people(live: Live, who: str | None = None) -> dict[str, np.ndarray]:
        return await asyncio.to_thread(gallery.embeddings, live.model, live.package, who)

    @router.post("/enrol", dependencies=admin_only, openapi_extra=predict_body())
    async def enrol(name: str, request: Request, id: Id) -> Response:
        """Enrol samples of a person, with their consent. Requires the admin token."""
        live = _with_embeddings(table, name)
        payloads = await read_samples(request, limits, live.package.codec)
        decoded = [await asyncio.to_thread(live.package.codec.decode, payload) for payload in payloads]
        count = await asyncio.to_thread(gallery.enrol, name, id, live.package, decoded)
        return json_reply({"model": name, "version": live.release.version, "id": id, "samples": count})

    @router.post("/verify", openapi_extra=predict_body())
    async def verify(name: str, request: Request, id: Id, threshold: float | None = None) -> Response:
        """Whether a sample shows the enrolled person.

        The default `threshold` has a false acceptance rate of 1 % on the validation split.
        """
        with telemetry.watch(name, "gallery", probe=request.headers.get("lepton-probe", "")[:32]) as call:
            live, embedding = await embed(request, name, call)
            known = await people(live, id)
            if id not in known:
                raise UnknownModelError(f"nobody is enrolled as {id!r}.")
            limit = _limit(live, threshold)
            (row,) = ranked(embedding, {id: known[id]})
            reply = {"model": name, "version": live.release.version, **row, "threshold": limit}
            return json_reply({**reply, "same": row["similarity"] >= limit}, version=live.release.version)

    @router.post("/identify", openapi_extra=predict_body())
    async def identify(
        name: str, request: Request, most: Annotated[int, Query(ge=1, le=100)] = 3, threshold: float | None = None
    ) -> Response:
        """The enrolled people most similar to a sample; ``id`` is null if none reaches the threshold."""
        with telemetry.watch(name, "gallery", probe=request.headers.get("lepton-probe", "")[:32]) as call:
            live, embedding = await embed(request, name, call)
            rows = ranked(embedding, await people(live))[:most]
            limit = _limit(live, threshold)
            best = rows[0]["id"] if rows and rows[0]["similarity"] >= limit else None
            reply = {"model": name, "version": live.release.version, "id": best, "threshold": limit}
            return json_reply({**reply, "candidates": rows}, version=live.release.version)

    @router.get("/gallery", dependencies=admin_only)
    async def known(name: str) -> dict[str, Any]:
        """Enrolled people and their numbers of samples. Requires the admin token."""
        _with_embeddings(table, name)
        return {"model": name, "known": await asyncio.to_thread(gallery.known, name)}

    @router.delete("/gallery", dependencies=admin_only)
    async def forget(name: str, id: Id) -> dict[str, Any]:
        """Delete a person's samples and embeddings. Requires the admin token."""
        return {"model": name, "id": id, "samples": await asyncio.to_thread(gallery.forget, name, id)}

    return router


def knows_people(package: Package) -> bool:
    """Whether the model outputs an embedding, so that samples can be enrolled and compared."""
    return EMBEDDING in package.output_names


def _with_embeddings(table: ModelTable, name: str) -> Live:
    live = table.get(name)
    if not knows_people(live.package):
        raise ConflictError(f"{name!r} does not return embeddings, so it cannot compare people.")
    return live


def _limit(live: Live, threshold: float | None) -> float:
    limit = live.package.spec.validation.get(_THRESHOLD) if threshold is None else threshold
    if limit is None:
        raise DataError("the model has no threshold of its own.", fix="Send `threshold`, a cosine in [-1, 1].")
    return limit


def _packed(sample: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, sample, allow_pickle=False)
    return stream.getvalue()


def _unpacked(data: bytes) -> np.ndarray:
    sample: np.ndarray = np.load(io.BytesIO(data), allow_pickle=False)
    return sample
