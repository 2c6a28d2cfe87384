"""A deployed model as monitors see it: its package in the store, and its request log."""

import dataclasses
import json
import time

import numpy as np
from tiny_packages import LABELS, SIDE, make_package, picture

from lepton_tasks.codecs.image import ImageCodec
from lepton_tasks.codecs.labels import LabelsCodec
from lepton_tasks.codecs.monitored_values import sample_values
from lepton_tasks.core.artifacts import EndpointRef, ModelPackageRef
from lepton_tasks.core.context import RunContext
from lepton_tasks.core.store import write_json
from lepton_tasks.core.use_case import parse_use_case
from lepton_tasks.quality.served import profile_of_answers, profile_of_requests
from lepton_tasks.serving.observing.request_log import RequestLog


def use_case(name="people", **sections):
    basis = {"name": name, "task": "tabular_classification", "data": {"source": "s"}, "features": "f", "model": "m"}
    return parse_use_case(basis | sections, where="")


def package(root, files):
    """The endpoint of version 1, whose package in the store has these JSON files."""
    ctx = dataclasses.replace(RunContext.local(root), stage="export", fingerprint="f1")
    draft = ctx.draft()
    for name, content in files.items():
        write_json(draft.path / name, content)
    ref = ctx.publish(draft, ModelPackageRef)
    facts = {"package_uri": ref.uri, "version": "1", "url": "http://127.0.0.1:9"}
    return EndpointRef(uri="store://deploy/x", digest="d", stage="deploy", facts=facts)


def ask(root, name, records, *, outcomes=(), redaction=None):
    """Write records, and outcomes as (id, label), into the request log, as the server does."""
    log = RequestLog(root / "serving" / "requests", redaction=redaction)
    for record in records:
        basis = {"version": "1", "status": 200, "probe": "", "seconds": 0.004, "time": time.time()}
        log.add(name, basis | record)
    for key, label in outcomes:
        log.add_outcome(name, {"time": time.time(), "id": key, "label": label})
    log.start()
    log.close()


def seen(codec, row):
    """What the server keeps of a row."""
    payload = json.dumps(row).encode()
    return {"values": sample_values(codec, payload, codec.decode(payload)), "std": 1.0}


def lights(count, seed, brightest=150):
    """Means of pictures; the tiny model calls one light from 255 * 2 * 0.5 on, so never."""
    return np.random.default_rng(seed).integers(5, brightest, count)


def tiny_package(ctx, **profile):
    """The tiny package in the store, with 400 training requests and 400 test answers as reference of the drift."""
    reference = profile_of_requests(ImageCodec(SIDE, SIDE, 1), map(picture, lights(400, 0)), ctx)
    light = lights(400, 1).astype(np.float32) / 510
    answers = {"probabilities": np.stack([1 - light, light], axis=1)}
    reference |= {"answers": profile_of_answers(LabelsCodec(tuple(LABELS)), answers, ctx), "test_rows": 400}
    draft = dataclasses.replace(ctx, stage="export", fingerprint="f").draft()
    make_package(draft.path, profile=reference | profile)
    return draft.publish(ModelPackageRef)
