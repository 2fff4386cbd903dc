"""The messages of the Open Inference Protocol over gRPC, built when they are imported.

A table in place of generated code: what stands on the wire is field numbers and types, and those are here to
be read. The messages live in a pool of their own, so that a client library with the same names can be loaded
beside them. Parameters (maps of options) are left out; protobuf keeps what it doesn't know.

Source: the Open Inference Protocol, "gRPC" (package `inference`); ModelStreamInfer is Triton's extension.
"""

from __future__ import annotations

from typing import Any, Final

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

PACKAGE: Final = "inference"
SERVICE: Final = "inference.GRPCInferenceService"

# Message -> its fields as `[repeated] type name number`. A dot makes a nested message, a capital a message.
_MESSAGES: Final = {
    "ServerLiveRequest": "",
    "ServerLiveResponse": "bool live 1",
    "ServerReadyRequest": "",
    "ServerReadyResponse": "bool ready 1",
    "ServerMetadataRequest": "",
    "ServerMetadataResponse": "string name 1, string version 2, repeated string extensions 3",
    "ModelReadyRequest": "string name 1, string version 2",
    "ModelReadyResponse": "bool ready 1",
    "ModelMetadataRequest": "string name 1, string version 2",
    "ModelMetadataResponse": "string name 1, repeated string versions 2, string platform 3, "
    "repeated ModelMetadataResponse.TensorMetadata inputs 4, "
    "repeated ModelMetadataResponse.TensorMetadata outputs 5",
    "ModelMetadataResponse.TensorMetadata": "string name 1, string datatype 2, repeated int64 shape 3",
    "InferTensorContents": "repeated bool bool_contents 1, repeated int32 int_contents 2, "
    "repeated int64 int64_contents 3, repeated uint32 uint_contents 4, repeated uint64 uint64_contents 5, "
    "repeated float fp32_contents 6, repeated double fp64_contents 7, repeated bytes bytes_contents 8",
    "ModelInferRequest": "string model_name 1, string model_version 2, string id 3, "
    "repeated ModelInferRequest.InferInputTensor inputs 5, "
    "repeated ModelInferRequest.InferRequestedOutputTensor outputs 6, repeated bytes raw_input_contents 7",
    "ModelInferRequest.InferInputTensor": "string name 1, string datatype 2, repeated int64 shape 3, "
    "InferTensorContents contents 5",
    "ModelInferRequest.InferRequestedOutputTensor": "string name 1",
    "ModelInferResponse": "string model_name 1, string model_version 2, string id 3, "
    "repeated ModelInferResponse.InferOutputTensor outputs 5, repeated bytes raw_output_contents 6",
    "ModelInferResponse.InferOutputTensor": "string name 1, string datatype 2, repeated int64 shape 3, "
    "InferTensorContents contents 5",
    "ModelStreamInferResponse": "string error_message 1, ModelInferResponse infer_response 2",
}


def _declare() -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto(
        name="headgate/open_inference.proto", package=PACKAGE, syntax="proto3"
    )
    made: dict[str, Any] = {}
    for name, fields in _MESSAGES.items():
        outer, _, inner = name.rpartition(".")
        made[name] = made[outer].nested_type.add(name=inner) if outer else file.message_type.add(name=inner)
        for field in filter(None, fields.split(", ")):
            _add_field(made[name], field)
    return file


def _add_field(message: Any, text: str) -> None:
    kinds = descriptor_pb2.FieldDescriptorProto
    *repeated, kind, name, number = text.split(" ")
    field = message.field.add(name=name, number=int(number))
    field.label = kinds.LABEL_REPEATED if repeated else kinds.LABEL_OPTIONAL
    if kind[0].isupper():
        field.type = kinds.TYPE_MESSAGE
        field.type_name = f".{PACKAGE}.{kind}"
    else:
        field.type = getattr(kinds, f"TYPE_{kind.upper()}")


_POOL = descriptor_pool.DescriptorPool()
_POOL.Add(_declare())


def message(name: str) -> Any:
    """Return the class of a message. Its attributes are known to protobuf alone, so it has no static type."""
    descriptor = _POOL.FindMessageTypeByName(f"{PACKAGE}.{name}")
    return message_factory.GetMessageClass(descriptor)
