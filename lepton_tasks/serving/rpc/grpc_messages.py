"""gRPC messages and methods of the Open Inference Protocol, built at run time without generated code.

Source: https://github.com/kserve/open-inference-protocol, specification/protocol/open_inference_grpc.proto; the numbers
of the fields are the protocol's.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

PACKAGE = "inference"
SERVICE = f"{PACKAGE}.GRPCInferenceService"

# message -> its fields: "name=number:type"; "*" before the type: repeated, "{}": a map from strings
_MESSAGES: dict[str, tuple[str, ...]] = {
    "ServerLiveRequest": (),
    "ServerLiveResponse": ("live=1:bool",),
    "ServerReadyRequest": (),
    "ServerReadyResponse": ("ready=1:bool",),
    "ModelReadyRequest": ("name=1:string", "version=2:string"),
    "ModelReadyResponse": ("ready=1:bool",),
    "ServerMetadataRequest": (),
    "ServerMetadataResponse": ("name=1:string", "version=2:string", "extensions=3:*string"),
    "ModelMetadataRequest": ("name=1:string", "version=2:string"),
    "TensorMetadata": ("name=1:string", "datatype=2:string", "shape=3:*int64"),
    "ModelMetadataResponse": (
        "name=1:string",
        "versions=2:*string",
        "platform=3:string",
        "inputs=4:*TensorMetadata",
        "outputs=5:*TensorMetadata",
    ),
    "InferParameter": ("bool_param=1:bool", "int64_param=2:int64", "string_param=3:string"),
    "InferTensorContents": (
        "bool_contents=1:*bool",
        "int_contents=2:*int32",
        "int64_contents=3:*int64",
        "uint_contents=4:*uint32",
        "uint64_contents=5:*uint64",
        "fp32_contents=6:*float",
        "fp64_contents=7:*double",
        "bytes_contents=8:*bytes",
    ),
    "InferInputTensor": (
        "name=1:string",
        "datatype=2:string",
        "shape=3:*int64",
        "parameters=4:{}InferParameter",
        "contents=5:InferTensorContents",
    ),
    "InferRequestedOutputTensor": ("name=1:string", "parameters=2:{}InferParameter"),
    "InferOutputTensor": (
        "name=1:string",
        "datatype=2:string",
        "shape=3:*int64",
        "parameters=4:{}InferParameter",
        "contents=5:InferTensorContents",
    ),
    "ModelInferRequest": (
        "model_name=1:string",
        "model_version=2:string",
        "id=3:string",
        "parameters=4:{}InferParameter",
        "inputs=5:*InferInputTensor",
        "outputs=6:*InferRequestedOutputTensor",
        "raw_input_contents=7:*bytes",
    ),
    "ModelInferResponse": (
        "model_name=1:string",
        "model_version=2:string",
        "id=3:string",
        "parameters=4:{}InferParameter",
        "outputs=5:*InferOutputTensor",
        "raw_output_contents=6:*bytes",
    ),
}
_Field = descriptor_pb2.FieldDescriptorProto


def _field(text: str, owner: descriptor_pb2.DescriptorProto) -> None:
    name, _, rest = text.partition("=")
    number, _, kind = rest.partition(":")
    field = owner.field.add(name=name, number=int(number), label=_Field.LABEL_OPTIONAL)
    if kind.startswith(("*", "{}")):
        field.label = _Field.LABEL_REPEATED
    scalar = kind.lstrip("*")
    if kind.startswith("{}"):
        entry = owner.nested_type.add(name=f"{name.title()}Entry")
        entry.options.map_entry = True
        entry.field.add(name="key", number=1, label=_Field.LABEL_OPTIONAL, type=_Field.TYPE_STRING)
        value = entry.field.add(name="value", number=2, label=_Field.LABEL_OPTIONAL, type=_Field.TYPE_MESSAGE)
        value.type_name = f".{PACKAGE}.{kind[2:]}"
        field.type, field.type_name = _Field.TYPE_MESSAGE, f".{PACKAGE}.{owner.name}.{entry.name}"
    elif scalar in _MESSAGES:
        field.type, field.type_name = _Field.TYPE_MESSAGE, f".{PACKAGE}.{scalar}"
    else:
        field.type = _Field.Type.Value(f"TYPE_{scalar.upper()}")


def _make() -> dict[str, Any]:
    file = descriptor_pb2.FileDescriptorProto(name="lepton/open_inference.proto", package=PACKAGE, syntax="proto3")
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for field in fields:
            _field(field, message)
    parameter = next(message for message in file.message_type if message.name == "InferParameter")
    parameter.oneof_decl.add(name="parameter_choice")
    for field in parameter.field:
        field.oneof_index = 0
    pool = descriptor_pool.DescriptorPool()  # of our own: another library may bring the same names
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{PACKAGE}.{name}")) for name in _MESSAGES
    }


MESSAGES = _make()
"""Message classes by name."""
