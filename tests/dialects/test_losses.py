"""Every spot where two protocols say less than one: it arrives exactly, is marked, or is refused.

The spots are the rows of docs/serving.md's table, in its order.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from gateway.dialects import losses
from gateway.dialects.catalogue import (
    BY_NAME,
    DIALECTS,
    KSERVE_V1,
    KSERVE_V2,
    KSERVE_V2_GRPC,
    MULTI_MODEL_SERVER,
    PADDLE_PIPELINE,
    TENSORFLOW_SERVING,
    TENSORFLOW_SERVING_GRPC,
    TORCHSERVE,
    TORCHSERVE_GRPC,
)
from gateway.dialects.errors import ErrorKind
from gateway.dialects.metadata import Signature, TensorSpec
from gateway.dialects.protocol import LOSSY, Dialect
from gateway.dialects.tensors import Tensor
from gateway.http.message import find
from tests.dialects.models import (
    HALF,
    a_request,
    a_response,
    a_tensor,
    assert_same,
    caught,
    signature_of,
)
from tests.dialects.test_catalogue import answer, ask

NAMED = [pytest.param(each, id=each.name) for each in DIALECTS]
BARE = [pytest.param(each, id=each.name) for each in DIALECTS if not each.has_parameters]
ONE = a_tensor("x", "FP32", [[1.0, 2.0]])


def code(dialect: Dialect, *inputs: Tensor, **fields: object) -> str | None:
    """What writing a request is refused with."""
    refused = caught(lambda: dialect.write_request(a_request(*inputs, **fields), "m", None))
    return refused and refused.code


def lost(dialect: Dialect, response: object, request: object) -> bytes | None:
    headers, _ = losses.write_response(dialect, response, request)  # type: ignore[arg-type]
    return find(list(headers), LOSSY)


# 1 and 2: TensorFlow Serving's JSON


@pytest.mark.parametrize(
    "tensor",
    [
        pytest.param(a_tensor("x", "FP32", np.zeros((0, 3))), id="an empty batch"),
        pytest.param(a_tensor("x", "UINT64", [2**64 - 1]), id="uint64"),
        pytest.param(a_tensor("x", "FP16", [[6e-8]]), id="a half"),
        pytest.param(Tensor("x", "INT8", (), np.array(-128, np.int8)), id="a scalar"),
    ],
)
def test_datatypes_and_shapes_that_json_does_not_say_come_from_the_signature(tensor: Tensor) -> None:
    assert_same(ask(TENSORFLOW_SERVING, a_request(tensor), signature_of(tensor)).inputs[0], tensor)
    again = answer(TENSORFLOW_SERVING, a_response(tensor), signature_of(tensor), "column")
    assert_same(again.outputs[0], tensor)


@pytest.mark.parametrize("dialect", [KSERVE_V1, TORCHSERVE, MULTI_MODEL_SERVER], ids=lambda one: one.name)
def test_what_has_no_rows_is_refused_where_only_rows_go(dialect: Dialect) -> None:
    uneven = (a_tensor("a", "FP32", [1, 2]), a_tensor("b", "FP32", [1, 2, 3]))
    assert code(dialect, *uneven) == "wrong_shape"


def test_outputs_without_rows_are_refused_to_a_client_that_asked_by_rows() -> None:
    uneven = a_response(a_tensor("a", "FP32", [1, 2]), a_tensor("b", "FP32", 3))
    refused = caught(lambda: TENSORFLOW_SERVING.write_response(uneven, a_request(style="row")))
    assert refused is not None
    assert (refused.code, refused.status) == ("wrong_shape", 422)
    assert "column form" in refused.message


# 3 and 4: signatures, labels and versions


def test_a_signature_s_name_goes_where_there_is_a_place_and_is_refused_elsewhere() -> None:
    other = replace(signature_of(ONE), name="other")
    model = replace(signature_of(ONE), others=(other,))
    for dialect in DIALECTS:
        if dialect.has_parameters or dialect in (TENSORFLOW_SERVING, TENSORFLOW_SERVING_GRPC):
            assert ask(dialect, a_request(ONE, signature="other"), model).signature == "other"
        else:
            assert code(dialect, ONE, signature="other") == "unsupported"


@pytest.mark.parametrize("dialect", [TENSORFLOW_SERVING, TENSORFLOW_SERVING_GRPC], ids=lambda one: one.name)
def test_a_version_that_tensorflow_serving_can_not_have_is_refused(dialect: Dialect) -> None:
    refused = caught(lambda: dialect.write_request(a_request(ONE), "m", "1.0"))
    assert refused is not None
    assert refused.code == "unsupported"
    assert caught(lambda: dialect.write_request(a_request(ONE), "m", "17")) is None


def test_a_version_that_an_answer_can_not_name_is_marked() -> None:
    assert lost(TENSORFLOW_SERVING_GRPC, a_response(ONE, version="1.0"), a_request()) == b"answer-version"
    assert lost(TENSORFLOW_SERVING_GRPC, a_response(ONE, version="2"), a_request()) is None
    assert lost(KSERVE_V2, a_response(ONE, version="1.0"), a_request()) is None


# 5 and 6: bytes that are no text, NaN and infinities

CARRY_ALL = ("tensorflow-serving", "tensorflow-serving-grpc", "kserve-v2-grpc")
ODD = [
    pytest.param(Tensor("x", "BYTES", (1,), [b"\xff\x00"]), "not_text", id="bytes"),
    pytest.param(a_tensor("x", "FP32", [np.nan]), "not_finite", id="NaN"),
    pytest.param(a_tensor("x", "FP64", [-np.inf]), "not_finite", id="infinity"),
]


@pytest.mark.parametrize("dialect", [one for one in NAMED if one.values[0] is not TORCHSERVE_GRPC])
@pytest.mark.parametrize(("tensor", "refusal"), ODD)
def test_what_json_can_not_say_arrives_exactly_or_is_refused(
    dialect: Dialect, tensor: Tensor, refusal: str
) -> None:
    as_base64 = dialect in (KSERVE_V1, TORCHSERVE, MULTI_MODEL_SERVER) and tensor.dtype == "BYTES"
    if dialect.name in CARRY_ALL or as_base64:
        assert_same(ask(dialect, a_request(tensor), signature_of(tensor)).inputs[0], tensor)
        assert_same(answer(dialect, a_response(tensor), signature_of(tensor), "row").outputs[0], tensor)
        return
    assert code(dialect, tensor) == refusal
    refused = caught(lambda: dialect.write_response(a_response(tensor), a_request()))
    assert refused is not None
    assert (refused.code, refused.status) == (refusal, 422)


@pytest.mark.parametrize(("tensor", "refusal"), ODD)
def test_v2_s_binary_tensors_carry_what_its_json_can_not(tensor: Tensor, refusal: str) -> None:
    assert_same(answer(KSERVE_V2, a_response(tensor), signature_of(tensor), "binary").outputs[0], tensor)


# 7 and 8: bodies that are a handler's, and texts


def test_a_handler_gets_rows_and_one_of_bytes_may_get_any_body() -> None:
    call = TORCHSERVE.write_request(a_request(ONE), "m", None)
    assert call.body == b'{"instances":[[1.0,2.0]]}'
    picture = Signature((TensorSpec("image", "BYTES", (-1,)),), (TensorSpec("y", "FP32", (-1,)),))
    target = TORCHSERVE.recognise(b"POST", b"/predictions/m")
    assert target is not None
    headers = [(b"content-type", b"image/png")]
    (image,) = TORCHSERVE.read_request(target, headers, b"\x89PNG", picture).inputs
    assert (image.dtype, image.data) == ("BYTES", [b"\x89PNG"])


def test_texts_of_paddleserving_get_their_datatype_from_the_signature() -> None:
    tensor = a_tensor("x", "UINT16", [[65535, 0]])
    assert_same(ask(PADDLE_PIPELINE, a_request(tensor), signature_of(tensor)).inputs[0], tensor)
    target = PADDLE_PIPELINE.recognise(b"POST", b"/m/prediction")
    assert target is not None
    body = PADDLE_PIPELINE.write_request(a_request(tensor), "m", None).body
    refused = caught(lambda: PADDLE_PIPELINE.read_request(target, [], body, None))
    assert refused is not None
    assert refused.code == "signature_unknown"


# 9: ids, the choice of outputs, parameters


@pytest.mark.parametrize("theirs", NAMED)
def test_id_and_choice_of_outputs_are_kept_whatever_the_server_speaks(theirs: Dialect) -> None:
    y, n = a_tensor("y", "FP32", [0.5]), a_tensor("n", "INT64", [7])
    asked = a_request(ONE, id="17", outputs=("n",))
    said = answer(theirs, a_response(y, n), signature_of(y, n), "row")  # all that the server computes
    for ours in (KSERVE_V2, KSERVE_V2_GRPC):
        headers, body = ours.write_response(said, asked)
        told = ours.read_response(headers, body, None)
        assert (told.id, [one.name for one in told.outputs]) == ("17", ["n"])


@pytest.mark.parametrize("dialect", NAMED)
def test_parameters_arrive_or_are_said_to_be_lost(dialect: Dialect) -> None:
    asked = a_request(ONE, params={"temperature": 0.5})
    kind = replace(ONE, params={"content_type": "np"})
    if dialect.has_parameters:
        assert losses.of_request(asked, dialect) == ()
        arrived = ask(dialect, a_request(kind, params={"temperature": 0.5}), signature_of(ONE))
        assert (dict(arrived.params), dict(arrived.inputs[0].params)) == (
            {"temperature": 0.5},
            {"content_type": "np"},
        )
    else:
        assert losses.of_request(asked, dialect) == ("parameters",)
        assert losses.of_request(a_request(kind), dialect) == ("parameters",)
    assert losses.of_request(a_request(ONE), dialect) == ()


@pytest.mark.parametrize("dialect", NAMED)
def test_an_answer_s_parameters_arrive_or_are_said_to_be_lost(dialect: Dialect) -> None:
    said = replace(a_response(ONE), params={"tokens": 3})
    kind = a_response(replace(ONE, params={"content_type": "np"}))
    expected = None if dialect.has_parameters else b"answer-parameters"
    assert lost(dialect, said, a_request()) == expected
    assert lost(dialect, kind, a_request()) == expected
    assert lost(dialect, a_response(ONE), a_request()) is None


def test_what_was_lost_both_ways_is_said_in_one_field() -> None:
    said = replace(a_response(ONE), params={"tokens": 3})
    headers, _ = losses.write_response(TENSORFLOW_SERVING, said, a_request(), ("parameters",))
    assert find(list(headers), LOSSY) == b"parameters, answer-parameters"


@pytest.mark.parametrize("dialect", BARE)
def test_part_of_a_sequence_is_refused_where_sequences_have_no_place(dialect: Dialect) -> None:
    refused = caught(lambda: losses.of_request(a_request(ONE, params={"sequence_id": 5}), dialect))
    assert refused is not None
    assert refused.code == "unsupported"


# 10: error codes


@pytest.mark.parametrize(
    ("dialect", "status", "body"),
    [
        ("kserve-v2", 500, b'{"error":"failed to parse the request JSON buffer"}'),
        ("kserve-v2", 422, b'{"detail":[{"msg":"missing"}]}'),
        ("kserve-v1", 500, b'{"error":"KeyError : \'instances\'"}'),
        ("tensorflow-serving", 400, b'{"error":"JSON Parse error: x"}'),
        ("torchserve", 503, b'{"code":503,"type":"InternalServerException","message":"Prediction failed"}'),
        ("paddle-pipeline", 200, b'{"err_no":5000,"err_msg":"bad","key":[],"value":[]}'),
    ],
)
def test_the_same_mistake_means_the_same_whatever_the_server_says(
    dialect: str, status: int, body: bytes
) -> None:
    assert BY_NAME[dialect].read_error(status, [], body).kind is ErrorKind.INVALID


# 11: columns that were vectors


@pytest.mark.parametrize("dialect", [KSERVE_V2, KSERVE_V2_GRPC], ids=lambda one: one.name)
def test_a_vector_that_a_server_made_a_column_of_is_a_vector_again(dialect: Dialect) -> None:
    headers, body = dialect.write_response(a_response(a_tensor("y", "FP32", [[1], [2]])), a_request())
    assert dialect.read_response(headers, body, HALF).outputs[0].shape == (2,)
    wide = replace(HALF, outputs=(TensorSpec("y", "FP32", (-1, 1)),))
    for signature in (None, wide):  # as declared, or as it says itself
        assert dialect.read_response(headers, body, signature).outputs[0].shape == (2, 1)


# 12: halves in V2's gRPC have no typed contents


def test_halves_go_raw_over_grpc() -> None:
    half = a_tensor("x", "FP16", [6e-8, -65504, np.nan])
    assert_same(ask(KSERVE_V2_GRPC, a_request(half), signature_of(half)).inputs[0], half)


# 15: decimals


@settings(max_examples=100, deadline=None)
@given(hnp.arrays(np.uint32, (8,), elements=st.integers(0, 2**32 - 1)))
def test_every_float_survives_every_dialect_s_decimals(bits: np.ndarray) -> None:
    values = bits.view(np.float32)
    tensor = Tensor("x", "FP32", (8,), np.where(np.isfinite(values), values, np.float32(0)))
    for dialect in DIALECTS:
        (again,) = ask(dialect, a_request(tensor), signature_of(tensor)).inputs
        assert_same(again, tensor)
