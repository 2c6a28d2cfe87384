"""The Open Inference Protocol over gRPC, with the same models, limits and metrics as HTTP."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import grpc
import numpy as np

from lepton_tasks.core.errors import DataError, LeptonError
from lepton_tasks.serving.access.auth import Guard
from lepton_tasks.serving.errors import status_of
from lepton_tasks.serving.http.oip import metadata_of, own_version
from lepton_tasks.serving.inference.batching import Outputs
from lepton_tasks.serving.inference.handler import RequestHandler
from lepton_tasks.serving.inference.request import TIMEOUT_HEADER, PredictionRequest, RequestHead
from lepton_tasks.serving.inference.tensors import (
    DATATYPE_BY_DTYPE,
    DATATYPES,
    little_endian_bytes,
    raw_values,
    validated_tensor,
)
from lepton_tasks.serving.package import Package, TensorSpec
from lepton_tasks.serving.rpc.grpc_messages import MESSAGES, SERVICE
from lepton_tasks.serving.versions.live import Live
from lepton_tasks.serving.versions.lookup import Lookup

_CONTENTS = {
    "bool": "bool_contents",
    "uint8": "uint_contents",
    "int8": "int_contents",
    "int32": "int_contents",
    "int64": "int64_contents",
    "float32": "fp32_contents",
    "float64": "fp64_contents",
}
_CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    413: grpc.StatusCode.INVALID_ARGUMENT,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}


class MessageJob:
    """One ModelInfer request.

    Args:
        request: A ``ModelInferRequest``.
        version: Version for the reply.
        most: Maximum number of rows.

    Attributes:
        sample_records: For the request log.
    """

    def __init__(self, request: Any, *, version: str, most: int) -> None:
        self._request, self._version, self._most = request, version, most
        self._wanted: list[str] = []
        self.sample_records: list[dict[str, Any]] = []

    def decode(self, package: Package) -> list[np.ndarray]:
        """The input tensor; raises `DataError` if it does not match the model's input."""
        record: dict[str, Any] = {"bytes": self._request.ByteSize()}
        self.sample_records.append(record)
        names = [tensor.name for tensor in package.spec.outputs]
        self._wanted = [output.name for output in self._request.outputs] or names
        for name in self._wanted:
            if name not in names:
                raise DataError(f"no output {name!r}.", where="outputs", fix=f"Known: {', '.join(names)}.")
        spec = package.spec.inputs[0]
        inputs, raw = self._request.inputs, self._request.raw_input_contents
        if len(inputs) != 1 or inputs[0].name != spec.name or len(raw) > 1:
            raise DataError("'inputs' is not a list of one tensor.", fix=f"Send one input named {spec.name!r}.")
        at = f"inputs.{spec.name}"
        values = (
            raw_values(len(raw[0]), memoryview(raw[0]), spec, at) if raw else _values_from_contents(inputs[0], spec, at)
        )
        array = validated_tensor(values, list(inputs[0].shape), inputs[0].datatype, spec, self._most)
        record["rows"] = len(array)
        return [array]

    def answer(self, package: Package, outputs: Sequence[Outputs]) -> bytes:
        """The serialised ``ModelInferResponse``; tensors are raw if the request's was."""
        request = self._request
        reply = MESSAGES["ModelInferResponse"](
            model_name=request.model_name, model_version=self._version, id=request.id
        )
        for name in self._wanted:
            value = outputs[0][name]
            tensor = reply.outputs.add(name=name, datatype=DATATYPE_BY_DTYPE[value.dtype], shape=value.shape)
            contents = _CONTENTS.get(value.dtype.name)
            if request.raw_input_contents or contents is None:
                reply.raw_output_contents.append(little_endian_bytes(value))
            else:
                getattr(tensor.contents, contents).extend(value.ravel().tolist())
        return bytes(reply.SerializeToString())


def _values_from_contents(tensor: Any, spec: TensorSpec, at: str) -> np.ndarray:
    contents = _CONTENTS.get(spec.dtype)
    if contents is None:
        raise DataError(f"{DATATYPES[spec.dtype]} travels in raw_input_contents only.", where=at)
    values = np.array(getattr(tensor.contents, contents))
    limits = np.iinfo(spec.dtype) if np.dtype(spec.dtype).kind in "iu" else None
    if limits and values.size and (values.min() < limits.min or values.max() > limits.max):
        raise DataError(f"'contents' has values outside {limits.min}..{limits.max}.", where=at)
    return values.astype(spec.dtype)


class GrpcServer:
    """The gRPC listener of a server. Created and used inside its event loop.

    Args:
        table: The models.
        handler: Handles the prediction requests.
        guard: Checks API keys.
        address: ``host:port`` to listen on; port 0 selects a free one.
        shared: Whether other processes listen on the same port.
        credentials: For TLS.
    """

    def __init__(
        self,
        table: Lookup,
        handler: RequestHandler,
        guard: Guard,
        address: str,
        *,
        shared: bool = False,
        credentials: grpc.ServerCredentials | None = None,
    ) -> None:
        self._table, self._handler, self._guard = table, handler, guard
        most = handler.limits.body_bytes
        self._server = grpc.aio.server(
            options=[("grpc.max_receive_message_length", most), ("grpc.so_reuseport", int(shared))],
        )
        methods = {
            "ServerLive": self._live,
            "ServerReady": self._ready,
            "ModelReady": self._model_ready,
            "ServerMetadata": self._metadata,
            "ModelMetadata": self._model_metadata,
            "ModelInfer": self._infer,
        }
        handlers = {name: _method_handler(name, method) for name, method in methods.items()}
        self._server.add_registered_method_handlers(SERVICE, handlers)
        if credentials is None:
            self.port = self._server.add_insecure_port(address)
        else:
            self.port = self._server.add_secure_port(address, credentials)

    async def start(self) -> None:
        """Start listening."""
        await self._server.start()

    async def stop(self, seconds: float) -> None:
        """Stop listening and wait up to `seconds` for running requests; a second call only waits."""
        await self._server.stop(seconds)

    async def _live(self, _: Any, __: Any) -> dict[str, Any]:
        return {"live": True}

    async def _ready(self, _: Any, __: Any) -> dict[str, Any]:
        return {"ready": not self._table.unready_reason()}

    async def _metadata(self, _: Any, __: Any) -> dict[str, Any]:
        return {"name": "lepton", "version": own_version(), "extensions": []}

    async def _model_ready(self, request: Any, context: Any) -> dict[str, Any]:
        self._admit(context, request.name)
        self._table.get(request.name, request.version or None)
        return {"ready": True}

    async def _model_metadata(self, request: Any, context: Any) -> dict[str, Any]:
        self._admit(context, request.name)
        return metadata_of(self._table, request.name, request.version or None)

    def _admit(self, context: Any, model: str) -> str:
        """Check the metadata ``authorization`` as in HTTP; returns the id of the API key."""
        metadata = dict(context.invocation_metadata() or ())
        return self._guard.admit(metadata.get("authorization"), model)

    async def _infer(self, request: Any, context: Any) -> bytes:
        metadata = {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}
        caller = self._admit(context, request.model_name)
        metadata.pop("content-encoding", None)  # already decoded by gRPC
        if (left := context.time_remaining()) is not None:
            metadata[TIMEOUT_HEADER] = str(max(left * 1000, 1.0))
        head = RequestHead.from_headers("grpc", request.model_name, request.model_version or None, metadata.get)
        most = self._handler.limits.samples

        def make_job(live: Live) -> MessageJob:
            return MessageJob(request, version=live.release.version, most=most)

        reply = await self._handler.handle(PredictionRequest(head, caller=caller, make_job=make_job))
        if reply.status != 200:
            await _abort(context, reply.status, reply.reason)
        return reply.body


async def _abort(context: Any, status: int, reason: str) -> None:
    await context.abort(_CODES.get(status, grpc.StatusCode.INTERNAL), reason)


def _method_handler(name: str, method: Callable[[Any, Any], Awaitable[Any]]) -> grpc.RpcMethodHandler:
    """The gRPC handler of a method that returns the reply's fields as a mapping, or its bytes."""
    reply = MESSAGES[f"{name}Response"]

    async def call(request: Any, context: Any) -> bytes:
        try:
            answer = await method(request, context)
        except LeptonError as error:
            await _abort(context, status_of(error), str(error))
        return answer if isinstance(answer, bytes) else bytes(reply(**answer).SerializeToString())

    return grpc.unary_unary_rpc_method_handler(
        call, request_deserializer=MESSAGES[f"{name}Request"].FromString, response_serializer=None
    )
