from __future__ import annotations

import pytest

from gateway.dialects.errors import InvalidPrediction
from gateway.dialects.metadata import Signature, TensorSpec, check, explain, parse_signature
from gateway.dialects.tensors import InferRequest, Tensor
from tests.dialects.models import DIGITS, PAIR, a_request, a_tensor

EXPECTED = "input: FP32[-1,64] -> probabilities: FP32[-1,10], label: INT64[-1]"


def test_a_signature_reads_as_one_line() -> None:
    assert DIGITS.render() == EXPECTED
    assert TensorSpec("x", "BYTES", None).render() == "x: BYTES[...]"
    assert TensorSpec("t", "FP16", ()).render() == "t: FP16[]"


@pytest.mark.parametrize(
    ("declared", "given", "fits"),
    [
        ((-1, 64), (1, 64), True),
        ((-1, 64), (0, 64), True),
        ((-1, 64), (1, 63), False),
        ((-1, 64), (64,), False),
        ((), (), True),
        ((), (1,), False),
        (None, (), True),
        (None, (1, 2, 3), True),
    ],
)
def test_a_shape_fits_or_not(declared: tuple[int, ...] | None, given: tuple[int, ...], fits: bool) -> None:
    assert TensorSpec("x", "FP32", declared).fits(given) is fits


def digits(shape: tuple[int, ...] = (1, 64), name: str = "input", dtype: str = "FP32") -> Tensor:
    size = 1
    for dim in shape:
        size *= dim
    tensor = a_tensor(name, dtype, [0] * size)
    assert not isinstance(tensor.data, list)
    return Tensor(name, dtype, shape, tensor.data.reshape(shape))


@pytest.mark.parametrize(
    "request_",
    [
        a_request(digits()),
        a_request(digits((0, 64))),
        a_request(digits(), outputs=("label",)),
        a_request(digits(), signature="serving_default"),
    ],
    ids=["one", "empty batch", "one output", "default signature"],
)
def test_what_fits_passes(request_: InferRequest) -> None:
    check(request_, DIGITS)


@pytest.mark.parametrize(
    ("request_", "code", "words"),
    [
        (a_request(digits(name="x")), "wrong_name", "no input 'x'"),
        (a_request(), "wrong_name", "'input' is missing"),
        (a_request(digits(), digits()), "wrong_name", "given twice"),
        (a_request(digits(), outputs=("nope",)), "wrong_name", "no output 'nope'"),
        (a_request(digits(dtype="FP64")), "wrong_dtype", "is FP64"),
        (a_request(digits((64,))), "wrong_shape", "has shape [64]"),
        (a_request(digits((2, 63))), "wrong_shape", "has shape [2, 63]"),
    ],
    ids=["unknown", "missing", "twice", "output", "dtype", "rank", "dimension"],
)
def test_what_does_not_fit_is_told_what_would(request_: InferRequest, code: str, words: str) -> None:
    with pytest.raises(InvalidPrediction) as refused:
        check(request_, DIGITS)
    assert refused.value.code == code
    assert words in refused.value.message
    assert refused.value.message.endswith(f"expected {EXPECTED}")
    assert refused.value.details == {"expected": EXPECTED}
    assert refused.value.status == 422


def test_signatures_are_found_by_name() -> None:
    other = Signature(PAIR.inputs, PAIR.outputs, "other")
    both = Signature(DIGITS.inputs, DIGITS.outputs, others=(other,))
    assert both.named("") is both
    assert both.named("serving_default") is both
    assert both.named("other") is other
    with pytest.raises(InvalidPrediction, match=r'"x" not found in signature def.*serving_default, other'):
        both.named("x")
    with pytest.raises(InvalidPrediction) as refused:
        check(a_request(digits(), signature="x"), both)
    assert refused.value.code == "unknown_signature"


def test_an_explanation_is_added_once_and_only_where_it_helps() -> None:
    plain = InvalidPrediction("wrong_shape", "no")
    better = explain(plain, DIGITS)
    assert better.message == f"no; expected {EXPECTED}"
    assert explain(better, DIGITS) is better
    assert explain(plain, None) is plain
    json = InvalidPrediction("malformed_json", "no")
    assert explain(json, DIGITS) is json


@pytest.mark.parametrize(
    "text",
    [
        "input: FP32[-1,64] -> probabilities: FP32[-1,10], label: INT64[-1]",
        "x: BYTES[...] -> y: BOOL[]",
        "a: INT8[2], b: UINT64[-1,2,3] -> c: FP64[1]",
    ],
)
def test_a_signature_is_read_as_it_is_shown(text: str) -> None:
    assert parse_signature(text).render() == text


@pytest.mark.parametrize(
    "text", ["", "x: FP32[1]", "x: FP3[1] -> y: FP32[1]", "x -> y", "x: FP32[a] -> y: FP32[1]"]
)
def test_what_is_no_signature_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        parse_signature(text)
