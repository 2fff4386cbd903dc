"""PaddleServing's C++ server: vectors written from its proto, for the server can't be had here."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.dialects.catalogue import PADDLE_SERVING
from gateway.dialects.errors import InvalidPrediction
from gateway.dialects.protocol import Operation, Target
from gateway.dialects.tensors import Tensor
from gateway.http.message import Headers
from tests.dialects.models import a_request, a_response, a_tensor, caught

ASKED = Target(PADDLE_SERVING, Operation.INFER, "m")


def test_a_request_as_its_documentation_has_it() -> None:
    body = (
        b'{"tensor":[{"float_data":[0.5,-1],"elem_type":1,"name":"x","alias_name":"in","shape":[1,2]},'
        b'{"elem_type":20,"name":"s","alias_name":"s","shape":[1],"data":["a"]},'
        b'{"elem_type":7,"name":"u","shape":[2],"tensor_content":"AP8="}],'
        b'"fetch_var_names":["price"],"log_id":0}'
    )
    infer = PADDLE_SERVING.read_request(ASKED, [], body, None)
    assert [(one.name, one.dtype, one.shape) for one in infer.inputs] == [
        ("in", "FP32", (1, 2)),
        ("s", "BYTES", (1,)),
        ("u", "UINT8", (2,)),
    ]
    assert infer.inputs[2].data.tolist() == [0, 255]  # type: ignore[union-attr]
    assert infer.outputs == ("price",)


def test_an_answer_is_that_of_the_last_engine() -> None:
    body = (
        b'{"outputs":[{"tensor":[{"name":"a","elem_type":0,"shape":[1],"int64_data":["-5"]}],"engine_name":"g"}],'
        b'"err_no":0}'
    )
    assert PADDLE_SERVING.succeeded(200, [], body)
    (tensor,) = PADDLE_SERVING.read_response([], body, None).outputs
    assert tensor.data.tolist() == [-5]  # type: ignore[union-attr]
    assert not PADDLE_SERVING.succeeded(200, [], b'{"outputs":[],"err_no":5001,"err_msg":"bad"}')


def test_what_is_written() -> None:
    infer = a_request(a_tensor("x", "FP32", [[1.5]]), outputs=("y",))
    call = PADDLE_SERVING.write_request(infer, "m", None)
    assert call.path == b"/GeneralModelService/inference"
    assert call.body == (
        b'{"tensor":[{"name":"x","alias_name":"x","shape":[1,1],"elem_type":1,"float_data":[1.5]}],'
        b'"fetch_var_names":["y"]}'
    )
    _, body = PADDLE_SERVING.write_response(a_response(a_tensor("y", "FP16", [1.0])), a_request())
    assert b'"elem_type":5,"tensor_content":"ADw="' in body


@pytest.mark.parametrize(
    ("tensor", "code"),
    [
        (a_tensor("x", "UINT64", [1]), "wrong_dtype"),
        (a_tensor("x", "FP32", [float("inf")]), "not_finite"),
        (Tensor("x", "BYTES", (1,), [b"\xff"]), "not_text"),
    ],
)
def test_what_has_no_place_is_refused(tensor: Tensor, code: str) -> None:
    with pytest.raises(InvalidPrediction) as refused:
        PADDLE_SERVING.write_request(a_request(tensor), "m", None)
    assert refused.value.code == code


PROTO = [(b"content-type", b"application/proto")]
REQUEST = bytes.fromhex(  # written by paddle-serving-client 0.9.0's own messages, as the answer below
    "0a1f0a1380808080808080808001ffffffffffffffff7f5a01026a01697202695f0a1712080000003f000080bf50015a0201026a0166"
    "7202665f0a181a0af9ffffffffffffffff0150025a01016a016e72026e5f0a162208a0c8eb85f3cce17f50035a01016a01647202645f"
    "0a134a056772c3bc6e50145a01016a01737202735f0a1050075a01026a01757202755f7a0200ff0a103202010050095a01026a016272"
    "02625f120570726963652007"
)
ANSWER = bytes.fromhex(
    "0a630a161208000040400000003f50015a0201026a01797201790a150a0afbffffffffffffffff015a01016a016e72016e0a0e4a0161"
    "50145a01016a01737201730a0f50055a01016a01687201687a02003c0a0e32010150095a01016a016272016212016d"
)


def test_its_own_client_s_messages_are_read_and_answered() -> None:
    infer = PADDLE_SERVING.read_request(ASKED, PROTO, REQUEST, None)
    assert infer.outputs == ("price",)
    read = {one.name: one.data if isinstance(one.data, list) else one.data.tolist() for one in infer.inputs}
    assert read == {
        "i_": [-(2**63), 2**63 - 1],
        "f_": [[0.5, -1]],
        "n_": [-7],
        "d_": [1e308],
        "s_": ["grün".encode()],
        "u_": [0, 255],
        "b_": [True, False],
    }
    outputs = (
        a_tensor("y", "FP32", [[3, 0.5]]),
        a_tensor("n", "INT64", [-5]),
        Tensor("s", "BYTES", (1,), [b"a"]),
        a_tensor("h", "FP16", [1]),
        a_tensor("b", "BOOL", [True]),
    )
    headers, body = PADDLE_SERVING.write_response(
        a_response(*outputs), a_request(model="m", style=infer.style)
    )
    assert (headers, body) == (PROTO, ANSWER)


def test_a_message_carries_what_json_can_not() -> None:
    odd = a_tensor("y", "FP32", [float("nan")])
    _, body = PADDLE_SERVING.write_response(a_response(odd), a_request(style="binary"))
    assert b"\x00\x00\xc0\x7f" in body


@given(st.binary(max_size=200))
def test_any_bytes_are_a_message_or_refused(data: bytes) -> None:
    caught(lambda: PADDLE_SERVING.read_request(ASKED, PROTO, data, None))
    caught(lambda: PADDLE_SERVING.read_request(ASKED, PROTO, b"\x0a" + bytes([len(data) % 128]) + data, None))


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ([], b'{"tensor":[{"name":"x","elem_type":0,"shape":[1],"lod":[0,1],"int64_data":[1]}]}'),
        (PROTO, bytes.fromhex("0a0d0a01015a010162020001") + b"\x6a\x01x"),
    ],
)
def test_ragged_tensors_are_refused(headers: Headers, body: bytes) -> None:
    with pytest.raises(InvalidPrediction) as refused:
        PADDLE_SERVING.read_request(ASKED, headers, body, None)
    assert refused.value.code == "unsupported"
