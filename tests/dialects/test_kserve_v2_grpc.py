"""V2 over gRPC against the messages that protoc made for Triton's client."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tritonclient.grpc import service_pb2

from gateway.dialects import wire
from gateway.dialects.catalogue import KSERVE_V2_GRPC
from gateway.dialects.errors import ErrorKind, InvalidPrediction
from gateway.dialects.protocol import Operation, Target, VersionState
from gateway.dialects.tensors import InferRequest
from tests.dialects.models import DIGITS, a_request, a_response, a_tensor

INFER = Target(KSERVE_V2_GRPC, Operation.INFER, "m", inside=True)
VALUES: dict[str, tuple[str, list[Any]]] = {
    "BOOL": ("bool_contents", [True, False]),
    "INT8": ("int_contents", [-128, 127]),
    "INT16": ("int_contents", [-32768, 32767]),
    "INT32": ("int_contents", [-(2**31), 2**31 - 1]),
    "INT64": ("int64_contents", [-(2**63), 2**63 - 1]),
    "UINT8": ("uint_contents", [0, 255]),
    "UINT16": ("uint_contents", [0, 65535]),
    "UINT32": ("uint_contents", [0, 2**32 - 1]),
    "UINT64": ("uint64_contents", [0, 2**64 - 1]),
    "FP32": ("fp32_contents", [0.5, -2.0]),
    "FP64": ("fp64_contents", [1e308, -0.0]),
    "BYTES": ("bytes_contents", [b"\xff\x00", b""]),
}


def read(message: Any) -> InferRequest:
    return KSERVE_V2_GRPC.read_request(INFER, [], wire.frame(message.SerializeToString()), None)


def refused(message: Any) -> str:
    with pytest.raises(InvalidPrediction) as failed:
        read(message)
    return failed.value.code


def asking(dtype: str = "FP32", shape: tuple[int, ...] = (2,)) -> Any:
    message = service_pb2.ModelInferRequest(model_name="m", model_version="3", id="17")
    message.inputs.add(name="x", datatype=dtype, shape=shape)
    return message


@pytest.mark.parametrize("dtype", VALUES)
def test_typed_contents_of_every_datatype_are_read(dtype: str) -> None:
    message = asking(dtype)
    field, values = VALUES[dtype]
    getattr(message.inputs[0].contents, field).extend(values)
    (tensor,) = read(message).inputs
    assert (tensor.name, tensor.dtype, tensor.shape) == ("x", dtype, (2,))
    assert list(tensor.data) == values


def test_a_request_is_read_whole() -> None:
    message = asking()
    message.raw_input_contents.append(np.array([1, 2], "<f4").tobytes())
    message.outputs.add(name="y")
    message.parameters["sequence_id"].int64_param = -5
    message.parameters["t"].double_param = 0.5
    message.parameters["signature_name"].string_param = "other"
    message.parameters["b"].bool_param = False
    infer = read(message)
    assert (infer.id, infer.outputs, infer.signature) == ("17", ("y",), "other")
    assert dict(infer.params) == {"sequence_id": -5, "t": 0.5, "b": False}
    assert infer.inputs[0].data.tolist() == [1, 2]  # type: ignore[union-attr]


def test_the_model_is_found_in_the_message_and_can_be_renamed() -> None:
    message = asking()
    message.raw_input_contents.append(b"12345678")
    body = wire.frame(message.SerializeToString())
    found = KSERVE_V2_GRPC.locate(Target(KSERVE_V2_GRPC, Operation.INFER, inside=True), [], body)
    assert (found.model, found.version) == ("m", "3")
    renamed = service_pb2.ModelInferRequest.FromString(
        KSERVE_V2_GRPC.renamed(found, [], body, "inner", None)[5:]
    )
    message.model_name, message.model_version = "inner", ""
    assert renamed == message


def test_what_is_written_google_reads() -> None:
    infer = a_request(a_tensor("x", "FP32", [[1, np.nan]]), id="7", outputs=("y",), params={"n": 2, "s": "a"})
    call = KSERVE_V2_GRPC.write_request(infer, "inner", "2")
    assert (call.method, call.path) == (b"POST", b"/inference.GRPCInferenceService/ModelInfer")
    message = service_pb2.ModelInferRequest.FromString(call.body[5:])
    assert (message.model_name, message.model_version, message.id) == ("inner", "2", "7")
    assert [(one.name, one.datatype, list(one.shape)) for one in message.inputs] == [("x", "FP32", [1, 2])]
    assert message.raw_input_contents[0] == np.array([1, np.nan], "<f4").tobytes()
    assert [one.name for one in message.outputs] == ["y"]
    assert (message.parameters["n"].int64_param, message.parameters["s"].string_param) == (2, "a")
    headers, body = KSERVE_V2_GRPC.write_response(a_response(a_tensor("y", "INT64", [7])), a_request(id="7"))
    answer = service_pb2.ModelInferResponse.FromString(body[5:])
    assert (answer.model_name, answer.model_version, answer.id) == ("digits", "1", "7")
    assert answer.raw_output_contents[0] == (7).to_bytes(8, "little")
    assert (b"grpc-status", b"0") in headers


def test_metadata_and_readiness_are_google_s_messages() -> None:
    _, body = KSERVE_V2_GRPC.write_metadata("digits", ["1", "2"], DIGITS)
    told = service_pb2.ModelMetadataResponse.FromString(body[5:])
    assert (list(told.versions), list(told.inputs[0].shape)) == (["1", "2"], [-1, 64])
    again = KSERVE_V2_GRPC.read_metadata(wire.frame(told.SerializeToString()))
    assert (again.signature, again.versions) == (DIGITS, ("1", "2"))
    ready = service_pb2.ModelReadyResponse(ready=True).SerializeToString()
    assert KSERVE_V2_GRPC.read_ready(200, wire.frame(ready))
    assert not KSERVE_V2_GRPC.read_ready(200, wire.frame(b""))
    answer = KSERVE_V2_GRPC.write_status(INFER, [VersionState("1")])
    assert service_pb2.ModelReadyResponse.FromString(answer.body[5:]).ready


def test_bad_tensors_are_refused_by_what_is_wrong() -> None:
    both = asking()
    both.inputs[0].contents.fp32_contents.extend([1, 2])
    both.raw_input_contents.append(b"12345678")
    assert refused(both) == "malformed_request"
    assert refused(asking("FP16")) == "wrong_dtype"
    assert refused(asking("COMPLEX")) == "wrong_dtype"
    assert refused(asking()) == "wrong_shape"
    other = asking()
    other.inputs[0].contents.int_contents.extend([1, 2])
    assert refused(other) == "wrong_dtype"
    large = asking("UINT8")
    large.inputs[0].contents.uint_contents.extend([1, 256])
    assert refused(large) == "wrong_dtype"
    short = asking()
    short.raw_input_contents.append(b"1234")
    assert refused(short) == "wrong_shape"
    twice = asking()
    twice.inputs.add(name="x", datatype="FP32", shape=[2])
    twice.raw_input_contents.extend([b"12345678"] * 2)
    assert refused(twice) == "wrong_name"
    shared = asking()
    shared.inputs[0].parameters["shared_memory_region"].string_param = "r"
    assert refused(shared) == "unsupported"
    assert refused(service_pb2.ModelInferRequest(model_name="m")) == "malformed_request"


@pytest.mark.parametrize(
    ("status", "message", "kind"),
    [
        (3, b"unexpected shape for input 'x'", ErrorKind.INVALID),
        (5, b"Request for unknown model: 'x'", ErrorKind.NOT_FOUND),
        (13, b"ValueError: cannot reshape array of size 3", ErrorKind.INVALID),
        (13, b"Internal server error", ErrorKind.BACKEND),
        (14, b"Socket closed", ErrorKind.UNAVAILABLE),
        (8, b"queue is full", ErrorKind.OVERLOADED),
        (12, b"", ErrorKind.UNIMPLEMENTED),
        (4, b"", ErrorKind.TIMEOUT),
    ],
)
def test_a_status_means_what_its_words_say(status: int, message: bytes, kind: ErrorKind) -> None:
    headers = [(b"grpc-status", b"%d" % status), (b"grpc-message", message)]
    assert not KSERVE_V2_GRPC.succeeded(200, headers, b"")
    assert KSERVE_V2_GRPC.read_error(200, headers, b"").kind is kind
