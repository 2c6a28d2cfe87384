"""Jobs of the prediction API (``/v1``): encoded samples in, predictions out."""

from __future__ import annotations

import functools
import itertools
import logging
import secrets
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import orjson

from lepton_tasks.codecs.monitored_values import prediction_values, sample_values
from lepton_tasks.core.errors import DataError
from lepton_tasks.core.protocols import Codec
from lepton_tasks.serving.errors import TooLargeError
from lepton_tasks.serving.inference.batching import Outputs
from lepton_tasks.serving.package import Package

_log = logging.getLogger("lepton.serving.samples")


class SampleJob:
    """One encoded sample, e.g. an image file; the result is the output codec's dictionary."""

    def __init__(self, payload: bytes) -> None:
        self._payload = payload
        self.sample_records: list[dict[str, Any]] = []

    def decode(self, package: Package) -> list[np.ndarray]:
        """The sample with a batch axis of one."""
        return [_decode(package, self._payload, self.sample_records)]

    def answer(self, package: Package, outputs: Sequence[Outputs]) -> Any:
        """The output codec's prediction."""
        return package.output_codec.encode(outputs[0], 0)


class PredictJob:
    """One predict request; parsing and encoding run in the worker thread, too.

    Args:
        body: One encoded sample, or JSON.
        json: Whether it is JSON: one sample, or ``{"instances": [...]}``.
        payloads: Encoded samples, instead of a body.
        model: Name for the reply.
        version: Version for the reply.
        most: Maximum number of samples.

    Attributes:
        sample_records: For the request log, one mapping per sample: size, mean, std, values and prediction.
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
        self.sample_records: list[dict[str, Any]] = []

    def decode(self, package: Package) -> list[np.ndarray]:
        """Each sample with a batch axis of one."""
        payloads = self._payloads
        if payloads is None:
            payloads = instances(self._body, package.codec) if self._json else [self._body]
        check_count(payloads, self._most)
        arrays = []
        for i, payload in enumerate(payloads):
            try:
                arrays.append(_decode(package, payload, self.sample_records))
            except DataError as error:
                where = f"instances[{i}].{error.where}".rstrip(".") if len(payloads) > 1 else error.where
                raise type(error)(error.what, where=where, fix=error.fix) from error
        return arrays

    def answer(self, package: Package, outputs: Sequence[Outputs]) -> bytes:
        """The reply's body."""
        answers = [package.output_codec.encode(output, 0) for output in outputs]
        key = next_id()
        for i, (record, answer) in enumerate(zip(self.sample_records, answers, strict=True)):
            record["id"] = key if len(answers) == 1 else f"{key}/{i}"
            record |= prediction_values(answer)
        return orjson.dumps({**self._reply, "id": key, "predictions": answers}, option=orjson.OPT_SERIALIZE_NUMPY)


def next_id() -> str:
    """A unique id for a prediction response, used to report true labels later."""
    return _ids()()


@functools.cache
def _ids() -> Callable[[], str]:
    start, count = secrets.token_hex(6), itertools.count()
    return lambda: f"{start}-{next(count):x}"


def check_count(samples: Sequence[bytes], most: int) -> None:
    """Raise `TooLargeError` if a request has more than `most` samples."""
    if len(samples) > most:
        raise TooLargeError(f"{len(samples)} samples in one request; at most {most} are allowed.")


def instances(body: bytes, codec: Codec) -> list[bytes]:
    """The encoded samples of a JSON body: ``{"instances": [...]}``, or a single sample.

    Raises:
        DataError: it is not JSON, or the codec rejects a sample.
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


def _decode(package: Package, payload: bytes, records: list[dict[str, Any]]) -> np.ndarray:
    """The sample with a batch axis of one; its record for the request log is appended to `records`."""
    record: dict[str, Any] = {"bytes": len(payload)}
    records.append(record)
    if not payload:
        raise DataError("the sample is empty.", fix="Send the bytes of a file.")
    sample = package.codec.decode(payload)
    record |= {"mean": float(sample.mean()), "std": float(sample.std())}
    try:
        record["values"] = sample_values(package.codec, payload, sample)
    except Exception:  # noqa: BLE001  # logging must not fail the request
        _log.exception("a sample of %s is logged without its values", package.spec.name)
    return sample[np.newaxis]
