"""Classify and regress in tensors: bytes that tensorflow-serving-api 2.21 wrote, and TensorFlow's JSON."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.dialects import wire
from gateway.dialects.catalogue import TENSORFLOW_SERVING, TENSORFLOW_SERVING_GRPC
from gateway.dialects.metadata import Signature, TensorSpec, parse_signature
from gateway.dialects.protocol import LOSSY, Operation, Target
from gateway.dialects.tensors import InferRequest, Tensor
from gateway.dialects.tf_example import read_examples, read_input, write_results
from gateway.http.message import find
from tests.dialects.models import a_request, a_response, a_tensor, caught, tensors

CLASSIFY = bytes.fromhex(
    "0a140a016d1a0f73657276696e675f64656661756c74125512530a150a130a110a0178120c120a0a080000003f000000c00a150a13"
    "0a110a0178120c120a0a080000803fe6b1617f12230a210a130a016e120e1a0c0a0afdffffffffffffffff010a0a0a017312050a03"
    "0a01ff"
)
CLASSIFIED = bytes.fromhex(
    "0a250a0f0a080a0161150000003f0a030a01620a120a05150000c0bf0a090a02c3bc150000c07f"
    "12180a016d120208071a0f73657276696e675f64656661756c74"
)
REGRESS = bytes.fromhex("0a030a016d12130a110a0f0a0d0a0b0a017812061a040a020102")
REGRESSED = bytes.fromhex("0a090a050d0000003f0a0012180a016d120208071a0f73657276696e675f64656661756c74")
EXAMPLE = bytes.fromhex("0a130a110a0178120c120a0a080000003f000000c0")  # x: 0.5, -2

MODEL = parse_signature(
    "x: FP32[-1,2], n: INT8[-1], s: BYTES[-1,1] -> scores: FP32[-1,2], classes: BYTES[-1,2]"
)
VALUES = parse_signature("x: INT64[-1,2] -> y: FP64[-1,1]")
ITSELF = parse_signature("inputs: BYTES[-1] -> scores: FP32[-1,2]")
SCORES = a_tensor("scores", "FP32", [[0.5, 0.0], [-1.5, np.nan]])
CLASSES = Tensor("classes", "BYTES", (2, 2), [b"a", b"b", b"", "ü".encode()])


def asked(document: object, signature: Signature | None, verb: str = "classify") -> InferRequest:
    target = TENSORFLOW_SERVING.recognise(b"POST", f"/v1/models/m:{verb}".encode())
    assert target is not None
    return TENSORFLOW_SERVING.read_request(target, [], json.dumps(document).encode(), signature)


def asked_in_grpc(message: bytes, operation: Operation, signature: Signature) -> InferRequest:
    body = wire.frame(message)
    target = TENSORFLOW_SERVING_GRPC.locate(Target(TENSORFLOW_SERVING_GRPC, operation, inside=True), [], body)
    return TENSORFLOW_SERVING_GRPC.read_request(target, [], body, signature)


def test_examples_and_their_context_become_the_inputs_of_their_names() -> None:
    infer = asked_in_grpc(CLASSIFY, Operation.CLASSIFY, MODEL)
    assert (infer.model, infer.style, infer.outputs) == ("m", "classify", ("classes", "scores"))
    x, n, s = infer.inputs
    assert (x.name, x.dtype, x.shape) == ("x", "FP32", (2, 2))
    np.testing.assert_array_equal(x.data, np.array([[0.5, -2], [1, 3e38]], np.float32))  # type: ignore[arg-type]
    assert (n.dtype, n.shape, list(n.data)) == ("INT8", (2,), [-3, -3])
    assert (s.shape, s.data) == ((2, 1), [b"\xff", b"\xff"])
    document = {
        "examples": [{"x": [0.5, -2.0]}, {"x": [1.0, 3e38], "n": -4}],
        "context": {"n": -3, "s": {"b64": "/w=="}},
    }
    assert [list(one.data) for one in asked(document, MODEL).inputs[1:]] == [[-3, -4], [b"\xff", b"\xff"]]


def test_an_answer_becomes_what_google_s_own_messages_say() -> None:
    infer = replace(asked_in_grpc(CLASSIFY, Operation.CLASSIFY, MODEL), version="7")
    headers, body = TENSORFLOW_SERVING_GRPC.write_response(a_response(SCORES, CLASSES, version="7"), infer)
    assert body[5:] == CLASSIFIED
    assert (b"grpc-status", b"0") in headers
    infer = asked_in_grpc(REGRESS, Operation.REGRESS, VALUES)
    assert infer.inputs[0].data.tolist() == [[1, 2]]  # type: ignore[union-attr]
    answer = a_response(a_tensor("y", "FP64", [[0.5], [0]]), version="7")
    assert TENSORFLOW_SERVING_GRPC.write_response(answer, infer)[1][5:] == REGRESSED


def test_json_gets_results() -> None:
    infer = asked({"examples": [{"x": [1.0, 2.0], "n": 1, "s": "a"}]}, MODEL)
    _, body = TENSORFLOW_SERVING.write_response(a_response(SCORES, CLASSES), infer)
    assert body == '{"results":[[["a",0.5],["b",0.0]],[["",-1.5],["ü",NaN]]]}'.encode()
    infer = asked({"examples": [{"x": [1, 2]}]}, VALUES, "regress")
    assert infer.outputs == ("y",)
    headers, body = TENSORFLOW_SERVING.write_response(a_response(a_tensor("y", "FP64", [0.5, -2])), infer)
    assert (body, find(list(headers), LOSSY)) == (b'{"results":[0.5,-2.0]}', None)
    headers, body = TENSORFLOW_SERVING.write_response(a_response(a_tensor("y", "FP64", [0.1])), infer)
    assert (body, find(list(headers), LOSSY)) == (b'{"results":[0.1]}', b"precision")


def test_scores_alone_and_classes_alone_are_a_classification() -> None:
    for outputs, results in (((SCORES,), [["", 0.5], ["", 0.0]]), ((CLASSES,), [["a", 0.0], ["b", 0.0]])):
        signature = Signature(MODEL.inputs, tuple(TensorSpec("only", one.dtype, (-1, 2)) for one in outputs))
        infer = asked({"examples": [{"x": [1.0, 2.0], "n": 1, "s": "a"}]}, signature)
        assert infer.outputs == ("only",)
        named = [replace(one, name="only") for one in outputs]
        _, body = TENSORFLOW_SERVING.write_response(a_response(*named), infer)
        assert json.loads(body)["results"][0] == results


def test_of_several_outputs_those_of_tensorflow_s_names_are_taken() -> None:
    signature = parse_signature(
        "x: FP32[-1,1] -> logits: FP32[-1,2], scores: FP32[-1,2], y: FP32[-1], outputs: FP32[-1,1]"
    )
    assert asked({"examples": [{"x": 1.0}]}, signature).outputs == ("scores",)
    assert asked({"examples": [{"x": 1.0}]}, signature, "regress").outputs == ("outputs",)


def test_a_model_of_serialised_examples_gets_them() -> None:
    (inputs,) = asked({"examples": [{"x": [0.5, -2.0]}]}, ITSELF).inputs
    assert (inputs.name, inputs.dtype, inputs.shape, inputs.data) == ("inputs", "BYTES", (1,), [EXAMPLE])
    (inputs,) = asked_in_grpc(CLASSIFY, Operation.CLASSIFY, ITSELF).inputs
    assert isinstance(inputs.data, list)
    examples = [{"n": [-3], "s": [b"\xff"], "x": [0.5, -2.0]}, {"n": [-3], "s": [b"\xff"], "x": [1.0, _3E38]}]
    given = [wire.block(1, wire.block(1, each)) for each in inputs.data]
    assert [read_input(each)[0] for each in given] == examples


_3E38 = float(np.float32(3e38))


def one(**features: object) -> dict[str, object]:
    return {"examples": [{"x": [1.0, 2.0], "n": 1, "s": "a"} | features]}


@pytest.mark.parametrize(
    ("document", "code", "says"),
    [
        pytest.param({}, "malformed_request", "'examples'", id="no examples"),
        pytest.param({"examples": []}, "malformed_request", "no examples", id="none"),
        pytest.param({"examples": [1]}, "malformed_request", "object", id="no object"),
        pytest.param(one(z=1), "wrong_name", "no input 'z'", id="a feature that the model has not"),
        pytest.param({"examples": [{"x": [1.0, 2.0]}]}, "wrong_name", "no feature 'n'", id="a missing one"),
        pytest.param(one(x=[1.0]), "wrong_shape", "'x'", id="too few values"),
        pytest.param(one(x=[[1.0, 2.0]]), "wrong_dtype", "'x'", id="nested"),
        pytest.param(one(x=[1.0, "a"]), "wrong_dtype", "several kinds", id="of two kinds"),
        pytest.param(one(x=["a", "b"]), "wrong_dtype", "byte strings", id="text for numbers"),
        pytest.param(one(s=1), "wrong_dtype", "numbers", id="a number for text"),
        pytest.param(one(n=200), "wrong_dtype", "INT8", id="out of range"),
        pytest.param(one(n=2**63), "wrong_dtype", "'n'", id="beyond int64"),
        pytest.param(one(n=None), "wrong_dtype", "'n'", id="null"),
        pytest.param({**one(), "signature_name": "x"}, "unknown_signature", "x", id="no such signature"),
    ],
)
def test_what_is_no_list_of_examples_of_this_model_is_refused(document: Any, code: str, says: str) -> None:
    refused = caught(lambda: asked(document, MODEL))
    assert refused is not None
    assert refused.code == code
    assert says in refused.message
    assert 400 <= refused.status < 500


@pytest.mark.parametrize(
    ("outputs", "verb"),
    [
        ("label: INT64[-1]", "classify"),
        ("a: FP32[-1,2], b: FP32[-1,2]", "classify"),
        ("y: FP32[-1,2]", "regress"),
        ("a: FP32[-1], b: FP32[-1]", "regress"),
        ("n: INT64[-1]", "regress"),
    ],
)
def test_a_model_that_is_neither_is_refused_with_its_signature(outputs: str, verb: str) -> None:
    signature = parse_signature(f"x: FP32[-1,2] -> {outputs}")
    refused = caught(lambda: asked({"examples": [{"x": [1.0, 2.0]}]}, signature, verb))
    assert refused is not None
    assert (refused.status, refused.code) == (422, "wrong_shape")
    assert f"expected {signature.render()}" in refused.message
    unknown = caught(lambda: asked({"examples": [{"x": [1.0, 2.0]}]}, None, verb))
    assert unknown is not None
    assert unknown.code == "signature_unknown"


def test_an_answer_that_is_none_is_refused() -> None:
    infer = asked({"examples": [{"x": [1.0, 2.0], "n": 1, "s": "a"}]}, MODEL)
    binary = replace(CLASSES, data=[b"\xff"] * 4)
    for answer, code in ((a_response(SCORES, binary), "not_text"), (a_response(SCORES), "wrong_name")):
        refused = caught(lambda answer=answer: TENSORFLOW_SERVING.write_response(answer, infer))
        assert refused is not None
        assert refused.code == code


def test_truth_values_are_ones_and_zeros_where_the_model_has_truth_values() -> None:
    signature = parse_signature("b: BOOL[-1,2], n: INT64[-1] -> y: FP32[-1]")
    b, n = asked({"examples": [{"b": [True, False], "n": True}]}, signature, "regress").inputs
    assert (b.data.tolist(), n.data.tolist()) == ([[True, False]], [1])  # type: ignore[union-attr]
    refused = caught(lambda: asked({"examples": [{"b": [2, 0], "n": 1}]}, signature, "regress"))
    assert refused is not None
    assert refused.code == "wrong_dtype"


@given(st.binary(max_size=200))
def test_any_bytes_are_examples_or_refused(data: bytes) -> None:
    caught(lambda: asked_in_grpc(wire.string(1, "m") + wire.block(2, data), Operation.CLASSIFY, ITSELF))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("xnsb"), inner, max_size=3),
    max_leaves=12,
)


@given(JSON, JSON)
def test_any_json_is_examples_or_refused(examples: object, context: object) -> None:
    for signature in (MODEL, ITSELF):
        caught(lambda signature=signature: asked({"examples": [examples], "context": context}, signature))


@given(st.lists(st.floats(width=32, allow_nan=False), min_size=2, max_size=2), st.binary(max_size=4))
def test_both_forms_of_an_example_are_the_same(x: list[float], s: bytes) -> None:
    (written,) = asked({"examples": [{"x": x}]}, ITSELF).inputs
    assert isinstance(written.data, list)
    (again,) = read_input(wire.block(1, wire.block(1, written.data[0])))
    assert again == {"x": x}


@given(tensors("scores"))
def test_any_answer_is_a_result_or_refused(tensor: Tensor) -> None:
    for style in ("classify", "regress"):
        refused = caught(lambda style=style: write_results([tensor], style))
        assert refused is None or refused.code in ("wrong_shape", "not_text")


def test_a_prediction_is_still_read_as_one() -> None:
    assert asked({"inputs": {"x": [[1, 2]]}}, VALUES, "predict").style == "column"
    assert caught(lambda: asked({"examples": [{}]}, VALUES, "predict")) is not None
    assert read_examples({"examples": [{}]}) == [{}]
    assert a_request().style == "named"
