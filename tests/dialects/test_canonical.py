from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.dialects.canonical import KEY_BYTES, cacheable, canonical_key
from gateway.dialects.catalogue import KSERVE_V2, TENSORFLOW_SERVING
from gateway.dialects.metadata import Signature, TensorSpec
from gateway.dialects.protocol import Operation, Target
from gateway.dialects.tensors import InferRequest, Tensor
from tests.dialects.models import a_request, a_tensor, tensors

SIGNATURE = Signature((TensorSpec("x", "FP32", (-1, 4)), TensorSpec("n", "INT64", (-1,))), ())
VALUES = [[1.0, 0.0, 0.5, 100.0], [0.1, -2.0, 1e-3, 3.0]]
COUNTS = [7, 8]


def key(request: InferRequest, model: str = "m", version: str = "1", scope: bytes = b"") -> bytes:
    return canonical_key(request, model, version, scope)


def tfs(body: str | bytes) -> InferRequest:
    target = Target(TENSORFLOW_SERVING, Operation.INFER, "m")
    return TENSORFLOW_SERVING.read_request(
        target, [], body if isinstance(body, bytes) else body.encode(), SIGNATURE
    )


def v2(body: str | bytes, length: int | None = None) -> InferRequest:
    headers = [] if length is None else [(b"inference-header-content-length", b"%d" % length)]
    target = Target(KSERVE_V2, Operation.INFER, "m")
    return KSERVE_V2.read_request(target, headers, body if isinstance(body, bytes) else body.encode(), None)


def spellings(value: float) -> list[str]:
    """The same FP32 number as different JSON texts."""
    texts = [repr(value), f"{value:.9e}", f"{np.float32(value):.9g}", f"{float(np.float32(value))!r}"]
    if value == int(value):
        texts += [str(int(value)), f"{int(value)}.000", f"{int(value)}e0", f"{int(value)}E+00"]
    if value == 0:
        texts += ["-0.0", "-0", "0e5"]
    if value == 0.1:
        texts += ["0.100000001", "1e-1", "0.10000000149011612"]
    return texts


def equivalents() -> list[InferRequest]:
    """One question, written in every way we know: about a thousand bodies."""
    requests = []
    width = max(len(spellings(value)) for row in VALUES for value in row)
    for turn, space in itertools.product(range(width * 8), ("", " ")):
        pick = [
            [spellings(v)[(turn + 3 * i + j) % len(spellings(v))] for j, v in enumerate(row)]
            for i, row in enumerate(VALUES)
        ]
        counts = [f"{count}{('', '.0', 'e0')[turn % 3]}" for count in COUNTS]
        rows = [f"[{(',' + space).join(row)}]" for row in pick]
        x, n = f"[{','.join(rows)}]", f"[{','.join(counts)}]"
        flat = f"[{','.join(itertools.chain(*pick))}]"
        row_form = [
            f'{{"x":{space}{row},"n":{count}}}' if turn % 2 else f'{{"n":{count},"x":{row}}}'
            for row, count in zip(rows, counts, strict=True)
        ]
        requests += [
            tfs(f'{{"instances":{space}[{",".join(row_form)}]}}'),
            tfs(f'{{"signature_name":"serving_default","inputs":{{"x":{x},"n":{n}}}}}'),
            tfs(f'{{"inputs":{{"n":{n},"x":{x}}},"signature_name":""}}'),
        ]
        a = f'{{"name":"x","datatype":"FP32","shape":[2,4],"data":{x if turn % 2 else flat}}}'
        b = f'{{"data":{n},"shape":[2],"datatype":"INT64","name":"n"}}'
        delivery = ("", ',"id":"q1"', ',"parameters":{"priority":3,"timeout":5}', ',"parameters":null')[
            turn % 4
        ]
        requests += [v2(f'{{"inputs":[{a},{b}]{delivery}}}'), v2(f'{{"inputs":{space}[{b},{a}]{delivery}}}')]
    head = (
        b'{"inputs":[{"name":"x","datatype":"FP32","shape":[2,4],"parameters":{"binary_data_size":32}},'
        b'{"name":"n","datatype":"INT64","shape":[2],"parameters":{"binary_data_size":16}}]}'
    )
    raw = np.array(VALUES, "<f4").tobytes() + np.array(COUNTS, "<i8").tobytes()
    requests.append(v2(head + raw, len(head)))
    return requests


def test_one_question_has_one_key_however_it_is_written() -> None:
    requests = equivalents()
    assert len(requests) > 800
    assert len({key(request) for request in requests}) == 1


def test_different_questions_have_different_keys() -> None:
    requests: list[InferRequest] = []
    for dtype in ("FP16", "FP32", "FP64"):
        requests += [a_request(a_tensor("x", dtype, VALUES), a_tensor("n", "INT64", COUNTS))]
        requests += [
            a_request(a_tensor("x", dtype, np.reshape(VALUES, shape))) for shape in ((8,), (4, 2), (2, 4, 1))
        ]
    for dtype in ("INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64", "FP32"):
        requests.append(a_request(a_tensor("n", dtype, COUNTS)))
    for index in range(1000):
        changed = np.array(VALUES, np.float32).reshape(-1)
        changed[index % 8] += np.float32(index + 1) * np.float32(2**-10)
        requests.append(a_request(a_tensor("x", "FP32", changed.reshape(2, 4))))
    x = a_tensor("x", "FP32", VALUES)
    requests += [
        a_request(x),
        a_request(a_tensor("y", "FP32", VALUES)),
        a_request(x, outputs=()),
        a_request(x, outputs=("a",)),
        a_request(x, outputs=("b",)),
        a_request(x, outputs=("a", "b")),
        a_request(x, outputs=("all",)),
        a_request(x, params={"seed": 1}),
        a_request(x, params={"seed": 2}),
        a_request(x, signature="other"),
        a_request(Tensor("x", "FP32", x.shape, x.data, {"content_type": "np"})),
        a_request(a_tensor("x", "FP32", [0.0])),
        a_request(a_tensor("x", "FP32", [math.nan])),
        a_request(a_tensor("x", "FP32", [math.inf])),
        a_request(a_tensor("x", "FP32", [-math.inf])),
        a_request(a_tensor("x", "BOOL", [False])),
        a_request(a_tensor("x", "FP32", np.zeros((0, 4)))),
        a_request(a_tensor("x", "FP32", np.zeros((0, 8)))),
        a_request(Tensor("x", "BYTES", (2,), [b"ab", b"c"])),
        a_request(Tensor("x", "BYTES", (2,), [b"a", b"bc"])),
        a_request(Tensor("x", "BYTES", (2,), [b"", b"abc"])),
        a_request(Tensor("x", "BYTES", (1,), [b"abc"])),
        a_request(Tensor("x", "BYTES", (1,), [b"2:ab1:c"])),
    ]
    keys = [key(request) for request in requests]
    assert len(set(keys)) == len(requests)


def test_model_version_and_scope_are_part_of_the_question() -> None:
    request = a_request(a_tensor("x", "FP32", VALUES))
    keys = {
        key(request, *whom)
        for whom in [
            ("m", "1", b""),
            ("m", "2", b""),
            ("m2", "1", b""),
            ("m", "1", b"a"),
            ("m1", "", b""),
            ("", "m1", b""),
        ]
    }
    assert len(keys) == 6
    assert all(len(each) == KEY_BYTES for each in keys)


def test_zeros_and_nans_are_one_each() -> None:
    nan = np.array([0x7FC00000, 0x7FC00001, 0xFFC12345], np.uint32).view(np.float32)
    keys = {key(a_request(Tensor("x", "FP32", (1,), nan[i : i + 1]))) for i in range(3)}
    assert len(keys) == 1
    assert key(a_request(a_tensor("x", "FP32", [-0.0]))) == key(a_request(a_tensor("x", "FP32", [0.0])))
    scalar = [key(a_request(a_tensor("x", "FP64", value))) for value in (-0.0, 0.0)]
    assert scalar[0] == scalar[1]
    assert len({key(a_request(a_tensor("x", "FP16", value))) for value in (math.nan, -math.nan)}) == 1


def test_hashing_leaves_the_tensor_as_it_was() -> None:
    tensor = a_tensor("x", "FP32", [-0.0, math.nan])
    assert isinstance(tensor.data, np.ndarray)
    before = tensor.data.tobytes()
    key(a_request(tensor))
    assert tensor.data.tobytes() == before


def test_asking_for_the_same_outputs_in_another_order_is_the_same_question() -> None:
    x = a_tensor("x", "FP32", VALUES)
    assert key(a_request(x, outputs=("a", "b"))) == key(a_request(x, outputs=("b", "a")))


def test_parameters_count_in_any_order_but_not_those_of_delivery() -> None:
    x = a_tensor("x", "FP32", VALUES)
    some = key(a_request(x, params={"a": 1, "b": {"d": 1, "c": 2}}))
    assert some == key(
        a_request(x, params={"b": {"c": 2, "d": 1}, "a": 1, "timeout": 3, "id": "x", "trace": 1})
    )
    assert key(a_request(x, params={"priority": 1})) == key(a_request(x))


@given(tensors())
def test_the_key_depends_on_nothing_but_the_tensor(tensor: Tensor) -> None:
    data = tensor.data if isinstance(tensor.data, list) else tensor.data.copy()
    assert key(a_request(tensor)) == key(
        a_request(Tensor(tensor.name, tensor.dtype, tensor.shape, data), style="row")
    )


@given(tensors(), tensors())
def test_equal_keys_mean_equal_tensors(one: Tensor, other: Tensor) -> None:
    if key(a_request(one)) == key(a_request(other)):
        assert (one.dtype, one.shape) == (other.dtype, other.shape)
        if isinstance(one.data, list):
            assert one.data == other.data
        else:
            np.testing.assert_array_equal(one.data, other.data)


@given(st.lists(st.binary(max_size=4), max_size=4), st.lists(st.binary(max_size=4), max_size=4))
def test_byte_strings_never_run_together(one: list[bytes], other: list[bytes]) -> None:
    keys = [key(a_request(Tensor("x", "BYTES", (len(each),), each))) for each in (one, other)]
    assert (keys[0] == keys[1]) is (one == other)


@pytest.mark.parametrize(
    ("params", "may"),
    [
        ({}, True),
        ({"seed": 1}, True),
        ({"temperature": 0}, True),
        ({"temperature": 0.0}, True),
        ({"temperature": None}, True),
        ({"temperature": 0.7}, False),
        ({"temperature": "0.7"}, False),
        ({"temperature": 0.7, "seed": 1}, True),
        ({"sequence_id": 5}, False),
        ({"sequence_start": True}, False),
    ],
    ids=json.dumps,
)
def test_only_what_would_be_answered_the_same_again_may_be_kept(params: dict[str, object], may: bool) -> None:
    assert cacheable(a_request(params=params)) is may
