"""Any dialect to any other through the neutral form: what goes in comes out."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from gateway.config.schema import Speaks
from gateway.dialects.canonical import canonical_key
from gateway.dialects.catalogue import (
    BY_NAME,
    DIALECTS,
    KSERVE_V1,
    KSERVE_V2,
    KSERVE_V2_GRPC,
    TENSORFLOW_SERVING,
    TENSORFLOW_SERVING_GRPC,
    recognise,
    reread,
)
from gateway.dialects.errors import ErrorKind, InvalidPrediction
from gateway.dialects.metadata import Signature, check
from gateway.dialects.protocol import Dialect, Operation, Target
from gateway.dialects.tensors import InferRequest, InferResponse, Tensor, is_finite
from tests.dialects.models import DIGITS, a_request, a_response, a_tensor, assert_same, signature_of, tensors

PAIRS = [pytest.param(a, b, id=f"{a.name} to {b.name}") for a, b in itertools.product(DIALECTS, repeat=2)]


def test_the_names_are_those_of_the_policies() -> None:
    spoken = set(get_args(Speaks)) - {"http", "grpc"}  # any other API, and gRPC that nobody looks into
    assert set(BY_NAME) == spoken
    assert [repr(dialect) for dialect in DIALECTS] == [f"<Dialect {name}>" for name in BY_NAME]


@pytest.mark.parametrize(
    ("method", "path", "dialect"),
    [
        (b"POST", b"/v1/models/digits:predict", TENSORFLOW_SERVING),
        (b"POST", b"/v2/models/digits/infer", KSERVE_V2),
        (b"GET", b"/v2/health/live", KSERVE_V2),
        (b"GET", b"/orders/17", None),
        (b"GET", b"/", None),
    ],
)
def test_a_url_belongs_to_one_dialect(method: bytes, path: bytes, dialect: Dialect | None) -> None:
    target = recognise(method, path)
    assert (target and target.dialect) is dialect
    claims = [each for each in DIALECTS if each.recognise(method, path) is not None]
    shared = [KSERVE_V1] if dialect is TENSORFLOW_SERVING else []
    assert claims == ([] if dialect is None else [dialect, *shared])


@pytest.mark.parametrize(
    ("path", "speaks", "meant"),
    [
        ("/v1/models/m:predict", "kserve-v1", "kserve-v1"),
        ("/v1/models/m/versions/2:predict", "kserve-v1", "tensorflow-serving"),
        ("/v1/models/m:predict", "kserve-v2", "tensorflow-serving"),
        ("/v1/models/m:predict", "http", "tensorflow-serving"),
        ("/predictions/m", "torchserve", "torchserve"),
        ("/predictions/m", "multi-model-server", "multi-model-server"),
        ("/predictions/m/1.0", "multi-model-server", "torchserve"),
        ("/models/m/invoke", "torchserve", "multi-model-server"),
        ("/v2/models/m/infer", "kserve-v1", "kserve-v2"),
    ],
)
def test_a_url_of_several_dialects_is_read_as_the_pool_s_own(path: str, speaks: str, meant: str) -> None:
    target = recognise(b"POST", path.encode())
    assert target is not None
    assert reread(target, b"POST", path.encode(), speaks).dialect.name == meant


def ask(dialect: Dialect, request: InferRequest, signature: Signature) -> InferRequest:
    """Write a request in a dialect and read it as that dialect's server would."""
    call = dialect.write_request(request, request.model, request.version)
    target = dialect.recognise(call.method, call.path)
    assert target is not None
    target = dialect.locate(target, call.headers, call.body)
    if not target.model:  # the URL is for the only model there is
        target = replace(target, model=request.model)
    assert (target.operation, target.model) == (Operation.INFER, request.model)
    return dialect.read_request(target, call.headers, call.body, signature)


def answer(dialect: Dialect, response: InferResponse, signature: Signature, style: str) -> InferResponse:
    """Write a response in a dialect and read it as that dialect's client would."""
    headers, body = dialect.write_response(response, a_request(style=style))
    return dialect.read_response(headers, body, signature)


BY_ROWS = {"kserve-v1", "torchserve", "multi-model-server"}  # no other form goes to their servers


UNSIGNED = {"UINT16", "UINT32", "UINT64"}  # PaddleServing has none of them


NAN = {"tensorflow-serving", "tensorflow-serving-grpc", "kserve-v2-grpc"}
NO_BYTES = {"kserve-v2", "paddle-pipeline", "paddle-pipeline-grpc", "paddle-serving"}  # text only


def assert_no_place(
    refusal: InvalidPrediction, names: set[str], by_rows: set[str], a: Tensor, b: Tensor
) -> None:
    """What a dialect of the two has no place for, and nothing else, is refused."""
    if refusal.code == "not_finite":
        assert names - NAN
        assert not (is_finite(a) and is_finite(b))
    elif refusal.code == "not_text":
        assert names & NO_BYTES
        assert "BYTES" in (a.dtype, b.dtype)
    elif refusal.code == "wrong_dtype":
        assert names & {"paddle-serving", "torchserve-grpc"}
        assert {a.dtype, b.dtype} & (UNSIGNED | {"FP16"})
    else:
        assert refusal.code == "wrong_shape"
        assert names & by_rows
        assert a.shape[0] != b.shape[0]


MANY = settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
PAIR = st.tuples(st.sampled_from(DIALECTS), st.sampled_from(DIALECTS))
EDGES = [
    a_tensor("a", "INT64", [[-(2**63), 2**63 - 1], [0, 1]]),
    a_tensor("a", "UINT64", [[2**64 - 1], [0]]),
    a_tensor("a", "FP32", [[1e-45, 3.4028235e38], [-0.0, 0.1]]),
    a_tensor("a", "FP16", [6e-8, -65504]),
    a_tensor("a", "BOOL", [True, False]),
    Tensor("a", "BYTES", (2,), ["grün".encode(), b""]),
]


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_every_pair_carries_the_edges_of_every_datatype(first: Dialect, second: Dialect) -> None:
    b = a_tensor("b", "INT32", [7, -7])
    for a in EDGES:
        names = {first.name, second.name}
        if a.dtype in UNSIGNED and names & {"paddle-serving", "torchserve-grpc"}:
            continue
        if a.dtype == "FP16" and "torchserve-grpc" in names:
            continue
        signature = signature_of(a, b)
        once = ask(first, a_request(a, b), signature)
        back = ask(first, ask(second, once, signature), signature)
        there = answer(first, a_response(a, b), signature, "row")
        again = answer(first, answer(second, there, signature, "row"), signature, "row")
        for tensors_ in (back.inputs, again.outputs):
            assert_same(tensors_[0], a)
            assert_same(tensors_[1], b)


def any_tensor(name: str) -> st.SearchStrategy[Tensor]:
    """Half of them without NaN, infinities and bytes that are no text: those have a place everywhere."""
    return tensors(name, finite=True, text=True) | tensors(name)


ODD = [
    a_tensor("a", "FP32", [[np.nan, np.inf], [-np.inf, -0.0]]),
    a_tensor("a", "FP64", [[np.nan], [5e-324]]),
    a_tensor("a", "FP16", [np.nan, np.inf]),
    Tensor("a", "BYTES", (2, 1), [b"\xff\x00", b'{"b64": "x"}']),
]
EMPTY = [a_tensor("a", dtype, np.zeros((0, 2, 3))) for dtype in ("BOOL", "UINT64", "FP16")]
EMPTY.append(Tensor("a", "BYTES", (0, 4), []))
EXACT_PAIRS = [pair for pair in PAIRS if {one.name for one in pair.values} <= NAN]  # type: ignore[union-attr]


@pytest.mark.parametrize(("first", "second"), EXACT_PAIRS)
@pytest.mark.parametrize("tensor", [*ODD, *EMPTY], ids=lambda one: one.dtype)
def test_nan_bytes_and_nothing_go_there_and_back_where_all_has_a_place(
    first: Dialect, second: Dialect, tensor: Tensor
) -> None:
    signature = signature_of(tensor)
    once = ask(first, a_request(tensor), signature)
    assert_same(ask(first, ask(second, once, signature), signature).inputs[0], tensor)
    there = answer(first, a_response(tensor), signature, "row")
    assert_same(answer(first, answer(second, there, signature, "row"), signature, "row").outputs[0], tensor)


@MANY
@given(PAIR, any_tensor("a"), any_tensor("b"))
def test_requests_survive_every_round_trip(pair: tuple[Dialect, Dialect], a: Tensor, b: Tensor) -> None:
    first, second = pair
    signature = signature_of(a, b)
    try:
        once = ask(first, a_request(a, b, model="m x"), signature)
        there = ask(second, once, signature)
    except InvalidPrediction as refusal:
        assert_no_place(refusal, {first.name, second.name}, BY_ROWS, a, b)
        return
    back = ask(first, there, signature)
    check(back, signature)
    for request in (once, there, back):
        assert_same(request.inputs[0], a)
        assert_same(request.inputs[1], b)
    key = canonical_key(a_request(a, b), "m", "1", b"")
    assert {canonical_key(request, "m", "1", b"") for request in (once, there, back)} == {key}


@MANY
@given(PAIR, any_tensor("a"), any_tensor("b"))
def test_answers_survive_every_round_trip(pair: tuple[Dialect, Dialect], a: Tensor, b: Tensor) -> None:
    first, second = pair
    signature = signature_of(a, b)
    try:
        there = answer(first, a_response(a, b), signature, "column")
        back = answer(first, answer(second, there, signature, "column"), signature, "column")
    except InvalidPrediction as refusal:
        assert_no_place(refusal, {first.name, second.name}, {"kserve-v1"}, a, b)
        return
    for mine, theirs in zip(back.outputs, (a, b), strict=True):
        assert_same(mine, theirs)


@given(st.integers(0, 5).flatmap(lambda n: st.tuples(*[tensors(name, shapes=_rows_of(n)) for name in "ab"])))
def test_rows_of_several_outputs_are_put_together_again(outputs: tuple[Tensor, ...]) -> None:
    again = answer(TENSORFLOW_SERVING, a_response(*outputs), signature_of(*outputs), "row").outputs
    if outputs[0].shape[0] == 0:  # [] says not even how many outputs there are; the signature does
        assert [each.shape for each in again] == [each.shape for each in outputs]
    for mine, theirs in zip(again, outputs, strict=True):
        assert_same(mine, theirs)


def _rows_of(n: int) -> st.SearchStrategy[tuple[int, ...]]:
    return hnp.array_shapes(min_dims=0, max_dims=2, min_side=1, max_side=3).map(lambda inner: (n, *inner))


@given(tensors("x"))
def test_tensorflow_serving_carries_every_value_there_is(tensor: Tensor) -> None:
    signature = signature_of(tensor)
    (again,) = ask(TENSORFLOW_SERVING, a_request(tensor), signature).inputs
    assert_same(again, tensor)
    for style in ("row", "column"):
        (again,) = answer(TENSORFLOW_SERVING, a_response(tensor), signature, style).outputs
        assert_same(again, tensor)


EXACT = [pytest.param(each, id=each.name) for each in (KSERVE_V2_GRPC, TENSORFLOW_SERVING_GRPC)]


@pytest.mark.parametrize("dialect", EXACT)
@given(tensors("x"))
def test_grpc_carries_every_value_there_is(dialect: Dialect, tensor: Tensor) -> None:
    (again,) = ask(dialect, a_request(tensor), signature_of(tensor)).inputs
    assert_same(again, tensor)
    (again,) = answer(dialect, a_response(tensor), signature_of(tensor), "binary").outputs
    assert_same(again, tensor)


@given(tensors("x"))
def test_v2_json_carries_a_tensor_unharmed_or_refuses_it(tensor: Tensor) -> None:
    try:
        (again,) = ask(KSERVE_V2, a_request(tensor), signature_of(tensor)).inputs
    except InvalidPrediction as refusal:
        code = refusal.code
    else:
        assert_same(again, tensor)
        return
    assert code == ("not_text" if tensor.dtype == "BYTES" else "not_finite")


def test_digits_through_both_protocols_give_the_same_numbers() -> None:
    rng = np.random.default_rng(7)
    probabilities = rng.random((3, 10)).astype(np.float32)
    backend = a_response(
        Tensor("probabilities", "FP32", (3, 10), probabilities),
        a_tensor("label", "INT64", probabilities.argmax(1)),
    )
    for style, dialect in (("row", TENSORFLOW_SERVING), ("column", TENSORFLOW_SERVING), ("named", KSERVE_V2)):
        read = answer(dialect, backend, DIGITS, style)
        for mine, theirs in zip(read.outputs, backend.outputs, strict=True):
            assert_same(mine, theirs)


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)
def test_every_dialect_answers_errors_with_the_same_code_inside(dialect: Dialect) -> None:
    headers, body = dialect.write_error(429, "throttled", "slow down")
    if dialect.is_grpc:  # no body; the code goes out in x-headgate-reason
        assert (b"grpc-status", b"8") in headers
        assert dialect.read_error(200, headers, body) == (ErrorKind.OVERLOADED, "slow down")
        return
    assert headers == [(b"content-type", b"application/json")]
    assert b':"throttled"' in body
    assert dialect.read_error(429, headers, body).message == "slow down"


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)
def test_operations_other_than_inference_are_not_read(dialect: Dialect) -> None:
    with pytest.raises(InvalidPrediction) as refused:
        dialect.read_request(Target(dialect, Operation.METADATA, "m"), [], b"{}", DIGITS)
    assert refused.value.code == "unsupported"
