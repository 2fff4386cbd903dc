"""The messages of TensorFlow Serving's gRPC API, as far as predictions, metadata and status need them.

Names follow tensorflow_serving/apis/{predict,model,get_model_metadata,get_model_status}.proto and
tensorflow/core/{framework,protobuf}; here they share one package, for a name never stands on the wire but in
the `type_url` of a packed metadata map.
"""

from __future__ import annotations

from typing import Any, Final

from backends.protobuf_table import Table

PREDICTION_SERVICE: Final = "tensorflow.serving.PredictionService"
MODEL_SERVICE: Final = "tensorflow.serving.ModelService"
SIGNATURE_MAP_URL: Final = "type.googleapis.com/tensorflow.serving.SignatureDefMap"

_MESSAGES: Final = {
    "Int64Value": "int64 value 1",
    "Packed": "string type_url 1, bytes value 2",
    "ModelSpec": "string name 1, Int64Value version 2, string signature_name 3, string version_label 4",
    "TensorShapeProto": "repeated TensorShapeProto.Dim dim 2, bool unknown_rank 3",
    "TensorShapeProto.Dim": "int64 size 1, string name 2",
    "TensorProto": "int32 dtype 1, TensorShapeProto tensor_shape 2, int32 version_number 3, "
    "bytes tensor_content 4, repeated float float_val 5, repeated double double_val 6, "
    "repeated int32 int_val 7, repeated bytes string_val 8, repeated int64 int64_val 10, "
    "repeated bool bool_val 11, repeated int32 half_val 13, repeated uint32 uint32_val 16, "
    "repeated uint64 uint64_val 17",
    "PredictRequest": "ModelSpec model_spec 1, map TensorProto inputs 2, repeated string output_filter 3",
    "PredictResponse": "map TensorProto outputs 1, ModelSpec model_spec 2",
    "TensorInfo": "string name 1, int32 dtype 2, TensorShapeProto tensor_shape 3",
    "SignatureDef": "map TensorInfo inputs 1, map TensorInfo outputs 2, string method_name 3",
    "SignatureDefMap": "map SignatureDef signature_def 1",
    "GetModelMetadataRequest": "ModelSpec model_spec 1, repeated string metadata_field 2",
    "GetModelMetadataResponse": "ModelSpec model_spec 1, map Packed metadata 2",
    "StatusProto": "int32 error_code 1, string error_message 2",
    "ModelVersionStatus": "int64 version 1, int32 state 2, StatusProto status 3",
    "GetModelStatusRequest": "ModelSpec model_spec 1",
    "GetModelStatusResponse": "repeated ModelVersionStatus model_version_status 1",
    "Anything": "",  # a request that is refused unread
}

_TABLE: Final = Table("tensorflow.serving", _MESSAGES)


def message(name: str) -> Any:
    """Return the class of a message. Its attributes are known to protobuf alone, so it has no static type."""
    return _TABLE.message(name)
