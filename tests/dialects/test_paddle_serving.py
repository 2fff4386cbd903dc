"""PaddleServing's C++ server: vectors written from its proto, for the server can't be had here."""

from __future__ import annotations

import pytest

from gateway.dialects.catalogue import PADDLE_SERVING
from gateway.dialects.errors import InvalidPrediction
from gateway.dialects.protocol import Operation, Target
from gateway.dialects.tensors import Tensor
from tests.dialects.models import a_request, a_response, a_tensor

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


def test_protobuf_and_ragged_tensors_are_refused() -> None:
    for headers, body in (
        ([(b"content-type", b"application/proto")], b""),
        ([], b'{"tensor":[{"name":"x","elem_type":0,"shape":[1],"lod":[0,1],"int64_data":[1]}]}'),
    ):
        with pytest.raises(InvalidPrediction) as refused:
            PADDLE_SERVING.read_request(ASKED, headers, body, None)
        assert refused.value.code == "unsupported"
