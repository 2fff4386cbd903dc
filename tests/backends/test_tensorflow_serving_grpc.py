"""TensorFlow Serving's gRPC services over a real channel; one request is bytes written by hand."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from onnx import TensorProto

from backends.tensorflow_messages import MODEL_SERVICE, PREDICTION_SERVICE, SIGNATURE_MAP_URL, message
from tests.backends.models import DIGITS, adder, echo, put
from tests.backends.process import Backend
from tests.services.etcd import free_port

SAMPLES = json.loads((DIGITS / "samples.json").read_text())


@pytest.fixture(scope="module")
def channel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[grpc.Channel]:
    models = tmp_path_factory.mktemp("models")
    put(models, "add", "1", adder())
    put(models, "add", "2", adder())
    put(models, "text", "1", echo(TensorProto.STRING))
    put(models, "half", "1", echo(TensorProto.FLOAT16))
    put(models, "bad", "1", b"no model")
    (models / "digits").symlink_to(DIGITS / "digits")
    chosen = free_port()
    with Backend("--repository", str(models), "--grpc-address", f"127.0.0.1:{chosen}") as backend:
        assert backend.ready, backend.log
        with grpc.insecure_channel(f"127.0.0.1:{chosen}") as channel:
            grpc.channel_ready_future(channel).result(timeout=10)
            yield channel
        assert backend.stop() == 0


def call(channel: grpc.Channel, service: str, method: str) -> Callable[..., Any]:
    return channel.unary_unary(
        f"/{service}/{method}",
        request_serializer=lambda request: (
            request if isinstance(request, bytes) else request.SerializeToString()
        ),
        response_deserializer=message(f"{method}Response").FromString,
    )


def spec(name: str, version: int | None = None, label: str = "", signature: str = "") -> Any:
    said = message("ModelSpec")(name=name, version_label=label, signature_name=signature)
    if version is not None:
        said.version.value = version
    return said


def tensor(dtype: int, shape: tuple[int, ...], **values: object) -> Any:
    dims = [message("TensorShapeProto.Dim")(size=size) for size in shape]
    return message("TensorProto")(dtype=dtype, tensor_shape=message("TensorShapeProto")(dim=dims), **values)


def predict(channel: grpc.Channel, model: Any, inputs: dict[str, Any], wanted: tuple[str, ...] = ()) -> Any:
    request = message("PredictRequest")(model_spec=model, output_filter=wanted)
    for name, value in inputs.items():
        request.inputs[name].CopyFrom(value)
    return call(channel, PREDICTION_SERVICE, "Predict")(request, timeout=20)


def test_digits_are_read_in_both_encodings_of_a_tensor(channel: grpc.Channel) -> None:
    pixels = np.array([sample["pixels"] for sample in SAMPLES], dtype=np.float32)
    labels = [sample["label"] for sample in SAMPLES]
    for values in ({"tensor_content": pixels.tobytes()}, {"float_val": pixels.ravel().tolist()}):
        answer = predict(channel, spec("digits"), {"input": tensor(1, pixels.shape, **values)})
        label = answer.outputs["label"]
        assert np.frombuffer(label.tensor_content, dtype=np.int64).tolist() == labels
        assert (label.dtype, [dim.size for dim in label.tensor_shape.dim]) == (9, [len(labels)])
        assert (answer.model_spec.version.value, answer.model_spec.signature_name) == (2, "serving_default")


def test_a_request_written_by_hand_is_understood(channel: grpc.Channel) -> None:
    def field(number: int, data: bytes) -> bytes:  # length-delimited, shorter than 128 bytes
        return bytes([number << 3 | 2, len(data)]) + data

    shape = field(2, field(2, b"\x08\x01") + field(2, b"\x08\x02"))  # TensorShapeProto: dim {1}, dim {2}
    left = b"\x08\x01" + shape + field(4, struct.pack("<2f", 1, 2))  # dtype DT_FLOAT, tensor_content
    right = b"\x08\x01" + shape + field(5, struct.pack("<2f", 3, 4))  # the same as packed float_val
    request = field(1, field(1, b"add") + field(2, b"\x08\x01"))  # model_spec: name, version {value: 1}
    for name, value in ((b"left", left), (b"right", right)):
        request += field(2, field(1, name) + field(2, value))  # inputs: map entry
    answer = call(channel, PREDICTION_SERVICE, "Predict")(request, timeout=20)
    assert struct.unpack("<2f", answer.outputs["sum"].tensor_content) == (4, 6)


def test_text_half_precision_filters_labels_and_short_values(channel: grpc.Channel) -> None:
    text = predict(channel, spec("text"), {"x": tensor(7, (2,), string_val=["é".encode(), b"b"])})
    assert list(text.outputs["y"].string_val) == ["é".encode(), b"b"]
    bits = np.array([0.5, -2], dtype=np.float16).view(np.uint16).tolist()
    half = predict(channel, spec("half"), {"x": tensor(19, (2,), half_val=bits)})
    assert np.frombuffer(half.outputs["y"].tensor_content, dtype=np.float16).tolist() == [0.5, -2]
    blank = {"input": tensor(1, (1, 64), float_val=[0.0])}  # one value for all (tensor.cc)
    one = predict(channel, spec("digits", label="stable"), blank, ("label",))
    assert (list(one.outputs), one.model_spec.version.value) == (["label"], 1)


PAIR = {"left": tensor(1, (1, 2), float_val=[1, 2]), "right": tensor(1, (1, 2), float_val=[3, 4])}


@pytest.mark.parametrize(
    ("model", "inputs", "code"),
    [
        (spec("nope"), PAIR, grpc.StatusCode.NOT_FOUND),
        (spec("add", 9), PAIR, grpc.StatusCode.NOT_FOUND),
        (spec("add", label="gold"), PAIR, grpc.StatusCode.NOT_FOUND),
        (spec("add", signature="other"), PAIR, grpc.StatusCode.INVALID_ARGUMENT),
        (spec("add"), {"left": PAIR["left"]}, grpc.StatusCode.INVALID_ARGUMENT),
        (
            spec("add"),
            PAIR | {"right": tensor(2, (1, 2), double_val=[1, 2])},
            grpc.StatusCode.INVALID_ARGUMENT,
        ),
        (spec("add"), PAIR | {"right": tensor(1, (1, 3), float_val=[1])}, grpc.StatusCode.INVALID_ARGUMENT),
        (
            spec("add"),
            PAIR | {"right": tensor(1, (1, 2), tensor_content=b"123")},
            grpc.StatusCode.INVALID_ARGUMENT,
        ),
        (spec("add"), PAIR | {"right": tensor(1, (1, 2))}, grpc.StatusCode.INVALID_ARGUMENT),
        (spec("text"), {"x": tensor(7, (1,), string_val=[b"\xff"])}, grpc.StatusCode.INVALID_ARGUMENT),
    ],
    ids=[
        "model",
        "version",
        "label",
        "signature",
        "missing",
        "dtype",
        "shape",
        "bytes",
        "no values",
        "utf-8",
    ],
)
def test_what_is_wrong_is_named_by_its_status(
    channel: grpc.Channel, model: Any, inputs: dict[str, Any], code: grpc.StatusCode
) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        predict(channel, model, inputs)
    assert caught.value.code() == code


def test_metadata_is_a_packed_map_of_signatures(channel: grpc.Channel) -> None:
    ask = call(channel, PREDICTION_SERVICE, "GetModelMetadata")
    answer = ask(message("GetModelMetadataRequest")(model_spec=spec("add"), metadata_field=["signature_def"]))
    packed = answer.metadata["signature_def"]
    assert packed.type_url == SIGNATURE_MAP_URL
    signature = message("SignatureDefMap").FromString(packed.value).signature_def["serving_default"]
    assert {name: info.dtype for name, info in signature.inputs.items()} == {"left": 1, "right": 1}
    assert [dim.size for dim in signature.outputs["sum"].tensor_shape.dim] == [-1, 2]
    with pytest.raises(grpc.RpcError):
        ask(message("GetModelMetadataRequest")(model_spec=spec("add"), metadata_field=["graph"]))


def test_status_lists_versions_newest_first_and_those_that_failed(channel: grpc.Channel) -> None:
    ask = call(channel, MODEL_SERVICE, "GetModelStatus")

    def states(model: Any) -> list[tuple[int, int]]:
        answer = ask(message("GetModelStatusRequest")(model_spec=model))
        return [(one.version, one.state) for one in answer.model_version_status]

    assert states(spec("add")) == [(2, 30), (1, 30)]
    assert states(spec("add", 1)) == [(1, 30)]
    assert states(spec("bad")) == [(1, 50)]
    with pytest.raises(grpc.RpcError) as caught:
        states(spec("nope"))
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize(
    ("service", "method"),
    [(PREDICTION_SERVICE, "Classify"), (MODEL_SERVICE, "HandleReloadConfigRequest")],
)
def test_what_is_not_done_here_says_why(channel: grpc.Channel, service: str, method: str) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(f"/{service}/{method}")(b"")
    assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED
    assert method in caught.value.details()


def test_every_prediction_says_how_busy_the_server_is(channel: grpc.Channel) -> None:
    ask = call(channel, PREDICTION_SERVICE, "Predict")
    request = message("PredictRequest")(model_spec=spec("add"))
    for name, value in PAIR.items():
        request.inputs[name].CopyFrom(value)
    _, done = ask.with_call(request, timeout=20)
    assert dict(done.trailing_metadata())["x-headgate-load"] == "running=0, waiting=0"


def test_health_is_the_standard_service(channel: grpc.Channel) -> None:
    answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=20)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING
