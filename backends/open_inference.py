"""The messages of the Open Inference Protocol over gRPC.

Source: the Open Inference Protocol, "gRPC" (package `inference`); ModelStreamInfer, the repository's calls
and the parameters `priority` and `timeout` are Triton's.
"""

from __future__ import annotations

from typing import Any, Final

from backends.protobuf_table import Table

PACKAGE: Final = "inference"
SERVICE: Final = "inference.GRPCInferenceService"

_MESSAGES: Final = {
    "InferParameter": "bool bool_param 1, int64 int64_param 2, string string_param 3, double double_param 4, "
    "uint64 uint64_param 5",
    "ModelRepositoryParameter": "bool bool_param 1, int64 int64_param 2, string string_param 3, "
    "bytes bytes_param 4",
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
    "map InferParameter parameters 4, "
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
    "RepositoryIndexRequest": "string repository_name 1, bool ready 2",
    "RepositoryIndexResponse": "repeated RepositoryIndexResponse.ModelIndex models 1",
    "RepositoryIndexResponse.ModelIndex": "string name 1, string version 2, string state 3, string reason 4",
    "RepositoryModelLoadRequest": "string repository_name 1, string model_name 2, "
    "map ModelRepositoryParameter parameters 3",
    "RepositoryModelLoadResponse": "",
    "RepositoryModelUnloadRequest": "string repository_name 1, string model_name 2, "
    "map ModelRepositoryParameter parameters 3",
    "RepositoryModelUnloadResponse": "",
}

_TABLE: Final = Table(PACKAGE, _MESSAGES)


def message(name: str) -> Any:
    """Return the class of a message. Its attributes are known to protobuf alone, so it has no static type."""
    return _TABLE.message(name)
