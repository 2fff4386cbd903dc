"""PaddleServing's pipeline: texts, typed tensors, and failures inside a success."""

from __future__ import annotations

import pytest

from gateway.dialects import wire
from gateway.dialects.catalogue import PADDLE_PIPELINE, PADDLE_PIPELINE_GRPC
from gateway.dialects.errors import ErrorKind, InvalidPrediction
from gateway.dialects.metadata import parse_signature
from gateway.dialects.paddle_values import read_values
from gateway.dialects.protocol import Operation, Target
from tests.dialects.models import a_request, a_tensor

SIGNATURE = parse_signature("x: FP32[-1,2], b: BOOL[-1], s: BYTES[-1] -> y: FP32[-1,2], n: INT64[-1]")
ASKED = Target(PADDLE_PIPELINE, Operation.INFER, "m")


@pytest.mark.parametrize(
    ("name", "text", "values"),
    [
        ("x", "[[1.0, 2.0]]", [[1, 2]]),
        ("x", "[[1e-3,inf]]", [[0.001, float("inf")]]),
        ("b", "[True, False]", [True, False]),
        ("b", "[true]", [True]),
        ("s", '["a", "nan"]', [b"a", b"nan"]),
        ("s", "plain text", [b"plain text"]),
        ("s", "12", [b"12"]),
    ],
)
def test_a_text_is_json_or_python(name: str, text: str, values: list[object]) -> None:
    (tensor,) = read_values([name], [text], [], SIGNATURE.inputs)
    if isinstance(tensor.data, list):
        assert tensor.data == values
    else:
        assert tensor.data.tolist() == a_tensor(name, tensor.dtype, values).data.tolist()  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b'{"key": ["x"], "value": []}', "malformed_request"),
        (b'{"key": ["x"], "value": ["[[1"]}', "malformed_json"),
        (b'{"key": ["z"], "value": ["1"]}', "wrong_name"),
        (b'{"key": [], "value": []}', "malformed_request"),
        (b'{"tensors": [{"name": "x", "elem_type": 13, "shape": [1]}]}', "wrong_dtype"),
        (b'{"tensors": [{"name": "x", "elem_type": 1, "shape": [2], "float_data": [1]}]}', "wrong_shape"),
        (b'{"tensors": [{"name": "x", "shape": [1], "lod": [0, 1], "int64_data": [1]}]}', "unsupported"),
    ],
)
def test_what_is_refused(body: bytes, code: str) -> None:
    with pytest.raises(InvalidPrediction) as refused:
        PADDLE_PIPELINE.read_request(ASKED, [], body, SIGNATURE)
    assert refused.value.code == code


def test_typed_tensors_say_their_datatype_themselves() -> None:
    body = (
        b'{"tensors": [{"name": "i", "elem_type": 0, "shape": [2], "int64_data": ["9007199254740993", 1]},'
        b'{"name": "s", "elem_type": 12, "shape": [1], "str_data": ["a"]}]}'
    )
    i, s = PADDLE_PIPELINE.read_request(ASKED, [], body, None).inputs
    assert i.data.tolist() == [2**53 + 1, 1]  # type: ignore[union-attr]
    assert s.data == [b"a"]


def test_a_request_names_the_service() -> None:
    infer = a_request(a_tensor("x", "FP32", [[1, 2]]))
    call = PADDLE_PIPELINE.write_request(infer, "inner", None)
    assert (call.path, call.body) == (b"/inner/prediction", b'{"key":["x"],"value":["[[1.0,2.0]]"]}')
    call = PADDLE_PIPELINE_GRPC.write_request(infer, "inner", None)
    target = PADDLE_PIPELINE_GRPC.recognise(b"POST", call.path)
    assert target is not None
    assert PADDLE_PIPELINE_GRPC.locate(target, [], call.body).model == "inner"
    # pipeline_service_pb2.Request(key=["x"], value=["[[1.0,2.0]]"], name="inner", method="prediction")
    assert call.body[5:] == b'\n\x01x\x12\x0b[[1.0,2.0]]"\x05inner*\nprediction'


@pytest.mark.parametrize(
    ("number", "message", "kind"),
    [
        (5000, "params", ErrorKind.INVALID),
        (3002, "Service name error", ErrorKind.NOT_FOUND),
        (6000, "timeout", ErrorKind.TIMEOUT),
        (10000, "[digits] InvalidArgument : Got invalid dimensions for input: x", ErrorKind.INVALID),
        (10000, "ZeroDivisionError", ErrorKind.BACKEND),
    ],
)
def test_an_err_no_inside_a_success_is_a_failure(number: int, message: str, kind: ErrorKind) -> None:
    body = f'{{"err_no":{number},"err_msg":"{message}","key":[],"value":[],"tensors":[]}}'.encode()
    assert not PADDLE_PIPELINE.succeeded(200, [], body)
    assert PADDLE_PIPELINE.read_error(200, [], body) == (kind, message)
    call = wire.frame(wire.number(1, number) + wire.string(2, message))
    assert not PADDLE_PIPELINE_GRPC.succeeded(200, [(b"grpc-status", b"0")], call)
    assert PADDLE_PIPELINE_GRPC.read_error(200, [(b"grpc-status", b"0")], call).kind is kind
