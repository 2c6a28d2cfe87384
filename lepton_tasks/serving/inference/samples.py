"""Jobs of the prediction API: encoded samples in, decoded answers out."""

from __future__ import annotations

import functools
import itertools
import logging
import secrets
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import orjson

from lepton_tasks.codecs.observing import answered, observed
from lepton_tasks.core.errors import DataError
from lepton_tasks.core.protocols import Codec
from lepton_tasks.serving.errors import TooLargeError
from lepton_tasks.serving.inference.batching import Outputs
from lepton_tasks.serving.package import Package

_log = logging.getLogger("lepton.serving.samples")


class SampleJob:
    """One encoded sample, e.g. a picture file; its answer is the output codec's."""

    def __init__(self, payload: bytes) -> None:
        self._payload = payload
        self.seen: list[dict[str, Any]] = []

    def decode(self, package: Package) -> list[np.ndarray]:
        """The sample with a batch axis of one."""
        return [_decode(package, self._payload, self.seen)]

    def answer(self, package: Package, outputs: Sequence[Outputs]) -> Any:
        """The output codec's answer."""
        return package.output_codec.encode(outputs[0], 0)


class PredictJob:
    """One predict request; parsing and replying happen in the worker thread, too.

    Args:
        body: One encoded sample, or JSON.
        json: Whether it is JSON: one sample, or ``{"instances": [...]}``.
        payloads: Encoded samples, instead of a body.
        model: Name for the reply.
        version: Version for the reply.
        most: How many samples are allowed.

    Attributes:
        seen: For the request log, one mapping a sample: size, mean, std, values, and what is kept of the answer.
    """

    def __init__(
        self,
        body: bytes,
        *,
        model: str,
        version: str,
        most: int,
        json: bool = False,
        payloads: list[bytes] | None = None,
    ) -> None:
        self._body, self._json, self._payloads, self._most = body, json, payloads, most
        self._reply: dict[str, Any] = {"model": model, "version": version}
        self.seen: list[dict[str, Any]] = []

    def decode(self, package: Package) -> list[np.ndarray]:
        """Each sample with a batch axis of one."""
        payloads = self._payloads
        if payloads is None:
            payloads = instances(self._body, package.codec) if self._json else [self._body]
        check_count(payloads, self._most)
        arrays = []
        for i, payload in enumerate(payloads):
            try:
                arrays.append(_decode(package, payload, self.seen))
            except DataError as error:
                where = f"instances[{i}].{error.where}".rstrip(".") if len(payloads) > 1 else error.where
                raise type(error)(error.what, where=where, fix=error.fix) from error
        return arrays

    def answer(self, package: Package, outputs: Sequence[Outputs]) -> bytes:
        """The reply's body."""
        answers = [package.output_codec.encode(output, 0) for output in outputs]
        key = next_id()
        for i, (seen, answer) in enumerate(zip(self.seen, answers, strict=True)):
            seen["id"] = key if len(answers) == 1 else f"{key}/{i}"
            seen |= answered(answer)
        return orjson.dumps({**self._reply, "id": key, "predictions": answers}, option=orjson.OPT_SERIALIZE_NUMPY)


def next_id() -> str:
    """What an answer is known by, to tell later what would have been right; no other process gives the same."""
    return _ids()()


@functools.cache
def _ids() -> Callable[[], str]:
    start, count = secrets.token_hex(6), itertools.count()
    return lambda: f"{start}-{next(count):x}"


def check_count(samples: Sequence[bytes], most: int) -> None:
    """Raise `TooLargeError` if a request has more samples than are taken."""
    if len(samples) > most:
        raise TooLargeError(f"{len(samples)} samples in one request; at most {most} are taken.")


def instances(body: bytes, codec: Codec) -> list[bytes]:
    """The encoded samples of a JSON body: that of ``{"instances": [...]}``, or the one that it is.

    Raises:
        DataError: it is not JSON, or holds no sample as the codec reads it.
    """
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise DataError(f"the body is not JSON: {error}.") from error
    if not isinstance(value, dict) or "instances" not in value:
        return [codec.payload(value)]
    several = value["instances"]
    if not isinstance(several, list) or not several:
        raise DataError("'instances' is not a list with at least one sample.", fix='Send {"instances": [...]}.')
    samples = []
    for i, instance in enumerate(several):
        try:
            samples.append(codec.payload(instance))
        except DataError as error:
            raise DataError(error.what, where=f"instances[{i}].{error.where}", fix=error.fix) from error
    return samples


def _decode(package: Package, payload: bytes, seen: list[dict[str, Any]]) -> np.ndarray:
    """The sample with a batch axis of one; what the request log keeps of it is added to `seen`."""
    told: dict[str, Any] = {"bytes": len(payload)}
    seen.append(told)
    if not payload:
        raise DataError("the sample is empty.", fix="Send the bytes of a file.")
    sample = package.codec.decode(payload)
    told |= {"mean": float(sample.mean()), "std": float(sample.std())}
    try:
        told["values"] = observed(package.codec, payload, sample)
    except Exception:  # noqa: BLE001  # whatever it is, the request is answered all the same
        _log.exception("a sample of %s is logged without its values", package.spec.name)
    return sample[np.newaxis]
