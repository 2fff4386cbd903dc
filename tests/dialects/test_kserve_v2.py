from __future__ import annotations

import json
import math

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.dialects.catalogue import KSERVE_V2 as V2
from gateway.dialects.errors import ErrorKind, InvalidPrediction
from gateway.dialects.metadata import Metadata, Signature, TensorSpec
from gateway.dialects.protocol import Operation, Target, VersionState
from gateway.dialects.tensors import InferRequest, InferResponse, Tensor
from gateway.http.message import Headers
from tests.dialects.models import DIGITS, HALF, a_request, a_response, a_tensor, assert_same, caught, tensors

INFER = Target(V2, Operation.INFER, "digits")
JSON_LENGTH = b"inference-header-content-length"


def an_input(**changes: object) -> dict[str, object]:
    return {"name": "input", "datatype": "FP32", "shape": [1, 2], "data": [1, 2], **changes}


def read(document: object, headers: Headers | None = None, tail: bytes = b"") -> InferRequest:
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    if tail:
        headers = [(JSON_LENGTH, b"%d" % len(body))]
    return V2.read_request(INFER, headers or [], body + tail, None)


# URLs


@pytest.mark.parametrize(
    ("method", "path", "target"),
    [
        (b"POST", b"/v2/models/digits/infer", Target(V2, Operation.INFER, "digits")),
        (b"POST", b"/v2/models/digits/versions/v1/infer", Target(V2, Operation.INFER, "digits", "v1")),
        (b"POST", b"/v2/models/a%3Ab/infer", Target(V2, Operation.INFER, "a:b")),
        (b"GET", b"/v2/models/digits", Target(V2, Operation.METADATA, "digits")),
        (b"GET", b"/v2/models/digits/versions/1", Target(V2, Operation.METADATA, "digits", "1")),
        (b"GET", b"/v2/models/digits/ready", Target(V2, Operation.READY, "digits")),
        (b"HEAD", b"/v2/models/digits/versions/1/ready", Target(V2, Operation.READY, "digits", "1")),
        (b"GET", b"/v2/health/live", Target(V2, Operation.LIVE)),
        (b"GET", b"/v2/health/ready", Target(V2, Operation.SERVER_READY)),
        (b"GET", b"/v2", Target(V2, Operation.SERVER_METADATA)),
    ],
)
def test_urls_are_recognised(method: bytes, path: bytes, target: Target) -> None:
    assert V2.recognise(method, path) == target
    assert V2.path_for(target, target.model, target.version) == path


@pytest.mark.parametrize(
    ("method", "path"),
    [
        (b"GET", b"/v2/models/digits/infer"),
        (b"POST", b"/v2/models/digits"),
        (b"POST", b"/v2/health/live"),
        (b"POST", b"/v2/repository/index"),
        (b"POST", b"/v2/models/digits/generate"),
        (b"POST", b"/v2/models/a%2Fb/infer"),
        (b"POST", b"/v2/models/a/versions/%2F/infer"),
        (b"GET", b"/v2/models//ready"),
        (b"GET", b"/V2/models/digits"),
        (b"GET", b"/v1/models/digits"),
    ],
)
def test_other_urls_are_not(method: bytes, path: bytes) -> None:
    assert V2.recognise(method, path) is None


def test_paths_are_rewritten_for_a_backend_with_its_own_names() -> None:
    assert V2.path_for(INFER, "other/model", "7") == b"/v2/models/other%2Fmodel/versions/7/infer"


# The request


@pytest.mark.parametrize("data", [[1, 2.0, 3, -0.5], [[1, 2], [3, -0.5]]], ids=["flat", "nested"])
def test_data_is_read_flat_or_nested(data: object) -> None:
    request = read(
        {"id": "a1", "inputs": [an_input(shape=[2, 2], data=data)], "outputs": [{"name": "label"}]}
    )
    assert (request.id, request.outputs, request.style, request.signature) == ("a1", ("label",), "named", "")
    assert_same(request.inputs[0], a_tensor("input", "FP32", [[1, 2], [3, -0.5]]))


@pytest.mark.parametrize("shape", [[0, 64], [2, 0], [0], [2, 0, 3]], ids=str)
def test_empty_batches_keep_their_shape(shape: list[int]) -> None:
    for data in ([], np.zeros(shape).tolist()):
        (tensor,) = read({"inputs": [an_input(shape=shape, data=data)]}).inputs
        assert_same(tensor, a_tensor("input", "FP32", np.zeros(shape)))


def test_a_scalar_is_a_list_of_one() -> None:
    (tensor,) = read({"inputs": [an_input(shape=[], data=[5])]}).inputs
    assert_same(tensor, a_tensor("input", "FP32", 5))


def test_null_members_are_absent_members() -> None:
    request = read({"id": None, "parameters": None, "outputs": None, "inputs": [an_input(parameters=None)]})
    assert (request.id, dict(request.params), request.outputs) == (None, {}, None)


def test_parameters_are_kept_and_our_own_are_taken_out() -> None:
    params = {"priority": 1, "signature_name": "other", "binary_data_output": False}
    request = read({"parameters": params, "inputs": [an_input(parameters={"content_type": "np"})]})
    assert (dict(request.params), request.signature, request.style) == ({"priority": 1}, "other", "named")
    assert request.inputs[0].params == {"content_type": "np"}
    document = orjson.loads(V2.write_request(request, "m", None).body)
    assert document["parameters"] == {"priority": 1, "signature_name": "other"}
    assert document["inputs"][0]["parameters"] == {"content_type": "np"}
    default = read({"parameters": {"signature_name": "serving_default"}, "inputs": [an_input()]})
    assert (default.signature, dict(default.params)) == ("", {})


@pytest.mark.parametrize(
    ("document", "code"),
    [
        (b"", "malformed_json"),
        (b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1],"data":[NaN]}]}', "malformed_json"),
        (b'{"inputs":[],"inputs":[]}', "duplicate_key"),
        ([], "malformed_request"),
        ({}, "malformed_request"),
        ({"inputs": []}, "malformed_request"),
        ({"inputs": {}}, "malformed_request"),
        ({"inputs": [1]}, "malformed_request"),
        ({"inputs": [an_input(name=1)]}, "malformed_request"),
        ({"inputs": [an_input(parameters=1)]}, "malformed_request"),
        ({"inputs": [an_input()], "id": 1}, "malformed_request"),
        ({"inputs": [an_input()], "parameters": []}, "malformed_request"),
        ({"inputs": [an_input()], "outputs": {}}, "malformed_request"),
        ({"inputs": [an_input()], "outputs": ["label"]}, "malformed_request"),
        ({"inputs": [an_input()], "outputs": [{}]}, "malformed_request"),
        ({"inputs": [an_input()], "outputs": [{"name": "a"}, {"name": "a"}]}, "wrong_name"),
        ({"inputs": [an_input(), an_input()]}, "wrong_name"),
        ({"inputs": [an_input(datatype="FLOAT")]}, "wrong_dtype"),
        ({"inputs": [an_input(datatype=None)]}, "wrong_dtype"),
        ({"inputs": [an_input(data=["1", "2"])]}, "wrong_dtype"),
        ({"inputs": [an_input(data=[None, None])]}, "wrong_dtype"),
        ({"inputs": [an_input(datatype="BYTES")]}, "wrong_dtype"),
        ({"inputs": [an_input(datatype="BYTES", data=["a", ["b"]])]}, "wrong_shape"),
        ({"inputs": [an_input(shape=None)]}, "wrong_shape"),
        ({"inputs": [an_input(shape=[1, -2])]}, "wrong_shape"),
        ({"inputs": [an_input(shape=[1, 3])]}, "wrong_shape"),
        ({"inputs": [an_input(shape=[2], data=[[1, 2]])]}, "wrong_shape"),
        ({"inputs": [an_input(data=[[1], [2]])]}, "wrong_shape"),
        ({"inputs": [an_input(data=[1, [2]])]}, "wrong_shape"),
        ({"inputs": [an_input(data=None)]}, "wrong_shape"),
        ({"inputs": [an_input(shape=[], data=5)]}, "wrong_shape"),
        ({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1]}]}, "wrong_shape"),
        ({"inputs": [an_input(parameters={"binary_data_size": 8})]}, "malformed_request"),
        ({"inputs": [an_input(parameters={"shared_memory_region": "r"})]}, "unsupported"),
        (
            {"inputs": [an_input()], "outputs": [{"name": "a", "parameters": {"shared_memory_region": "r"}}]},
            "unsupported",
        ),
        (
            {"inputs": [an_input()], "outputs": [{"name": "a", "parameters": {"classification": 3}}]},
            "unsupported",
        ),
    ],
)
def test_wrong_requests_are_refused_with_a_code(document: object, code: str) -> None:
    with pytest.raises(InvalidPrediction) as refused:
        read(document)
    assert refused.value.code == code


def test_the_refusal_shows_the_signature_where_it_is_known() -> None:
    body = json.dumps({"inputs": [an_input(shape=[3])]}).encode()
    with pytest.raises(InvalidPrediction, match=r"input: FP32\[-1,64\]") as refused:
        V2.read_request(INFER, [], body, DIGITS)
    assert refused.value.details == {"expected": DIGITS.render()}


def test_requests_are_written_flat_with_the_shortest_decimals() -> None:
    request = a_request(
        a_tensor("x", "FP32", [[0.1, 3.8710167e-11]]),
        a_tensor("n", "UINT64", [(1 << 64) - 1]),
        a_tensor("b", "BOOL", [True]),
        a_tensor("h", "FP16", 0.5),
        Tensor("s", "BYTES", (1,), ["é".encode()]),
        id="a1",
        outputs=("y",),
    )
    call = V2.write_request(request, "digits", "2")
    assert (call.method, call.path) == (b"POST", b"/v2/models/digits/versions/2/infer")
    assert b"[0.1,3.8710167e-11]" in call.body
    assert orjson.loads(call.body) == {
        "id": "a1",
        "inputs": [
            {"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [0.1, 3.8710167e-11]},
            {"name": "n", "datatype": "UINT64", "shape": [1], "data": [(1 << 64) - 1]},
            {"name": "b", "datatype": "BOOL", "shape": [1], "data": [True]},
            {"name": "h", "datatype": "FP16", "shape": [], "data": [0.5]},
            {"name": "s", "datatype": "BYTES", "shape": [1], "data": ["é"]},
        ],
        "outputs": [{"name": "y"}],
    }


@pytest.mark.parametrize(
    ("tensor", "code"),
    [
        (a_tensor("x", "FP32", [math.nan]), "not_finite"),
        (a_tensor("x", "FP16", [math.inf]), "not_finite"),
        (Tensor("x", "BYTES", (1,), [b"\xff"]), "not_text"),
    ],
    ids=["nan", "infinity", "bytes"],
)
def test_what_json_cannot_carry_is_refused_not_changed(tensor: Tensor, code: str) -> None:
    with pytest.raises(InvalidPrediction) as refused:
        V2.write_request(a_request(tensor), "m", None)
    assert refused.value.code == code
    with pytest.raises(InvalidPrediction) as refused:
        V2.write_response(a_response(tensor), a_request())
    assert refused.value.code == code


# Binary tensors


def test_binary_inputs_follow_the_json_in_order() -> None:
    sizes = [{"binary_data_size": 8}, {"binary_data_size": 6, "x": 1}]
    document = {
        "inputs": [
            {"name": "input", "datatype": "FP32", "shape": [1, 2], "parameters": sizes[0]},
            an_input(name="json"),
            {"name": "s", "datatype": "BYTES", "shape": [1], "parameters": sizes[1]},
        ],
        "outputs": [{"name": "y", "parameters": {"binary_data": True}}],
    }
    request = read(document, tail=np.array([1, 2], "<f4").tobytes() + b"\x02\0\0\0\xff\xfe")
    assert request.style == "binary"
    assert_same(request.inputs[0], a_tensor("input", "FP32", [[1, 2]]))
    assert_same(request.inputs[1], a_tensor("json", "FP32", [[1, 2]]))
    assert_same(request.inputs[2], Tensor("s", "BYTES", (1,), [b"\xff\xfe"]))
    assert (dict(request.inputs[0].params), dict(request.inputs[2].params)) == ({}, {"x": 1})


@pytest.mark.parametrize(
    ("size", "shape", "tail", "code"),
    [
        (8, [1, 2], b"1234", "malformed_request"),
        (8, [1, 2], b"123456789", "malformed_request"),
        (-1, [1, 2], b"12345678", "malformed_request"),
        (True, [1, 2], b"1", "malformed_request"),
        (8, [1, 3], b"12345678", "wrong_shape"),
    ],
)
def test_binary_sizes_must_agree(size: object, shape: list[int], tail: bytes, code: str) -> None:
    tensor = {"name": "x", "datatype": "FP32", "shape": shape, "parameters": {"binary_data_size": size}}
    with pytest.raises(InvalidPrediction) as refused:
        read({"inputs": [tensor]}, tail=tail)
    assert refused.value.code == code


@pytest.mark.parametrize(
    ("length", "code"),
    [
        (b"0", "unsupported"),
        (b"999", "malformed_request"),
        (b"-1", "malformed_request"),
        (b"9" * 5000, "malformed_request"),
    ],
    ids=["raw", "past the body", "negative", "endless"],
)
def test_the_length_of_the_json_must_be_one(length: bytes, code: str) -> None:
    with pytest.raises(InvalidPrediction) as refused:
        read({"inputs": [an_input()]}, headers=[(JSON_LENGTH, length)])
    assert refused.value.code == code


@given(tensors(), st.booleans())
def test_a_binary_answer_is_read_back_the_same(tensor: Tensor, by_parameter: bool) -> None:
    document: dict[str, object] = {"inputs": [an_input()]}
    if by_parameter:
        document["parameters"] = {"binary_data_output": True}
    else:
        document["outputs"] = [{"name": tensor.name, "parameters": {"binary_data": True}}]
    headers, body = V2.write_response(a_response(tensor, version="3"), read(document))
    assert headers[0] == (b"content-type", b"application/octet-stream")
    response = V2.read_response(headers, body, None)
    assert (response.model, response.version) == ("digits", "3")
    assert_same(response.outputs[0], tensor)


# The response


def test_answers_carry_the_id_and_only_the_outputs_wanted() -> None:
    outputs = (a_tensor("probabilities", "FP32", [[0.5, 0.25]]), a_tensor("label", "INT64", [0]))
    headers, body = V2.write_response(a_response(*outputs), a_request(id="a1", outputs=("label",)))
    assert headers == [(b"content-type", b"application/json")]
    assert orjson.loads(body) == {
        "model_name": "digits",
        "model_version": "1",
        "id": "a1",
        "outputs": [{"name": "label", "datatype": "INT64", "shape": [1], "data": [0]}],
    }
    _, body = V2.write_response(InferResponse(None, "", "", outputs, {"took": 1}), a_request())
    assert orjson.loads(body).keys() == {"model_name", "parameters", "outputs"}


def test_an_output_that_is_missing_is_an_error() -> None:
    with pytest.raises(InvalidPrediction, match="'label'"):
        V2.write_response(a_response(a_tensor("y", "FP32", [1])), a_request(outputs=("label",)))


def test_answers_of_three_servers_are_read() -> None:
    triton = b"""{"model_name":"digits","model_version":"1","id":"a1",
        "outputs":[{"name":"probabilities","datatype":"FP32","shape":[1,2],"data":[3.8710167016287048e-11,NaN]}]}"""
    kserve = b"""{"model_name":"digits","model_version":null,"id":"a1","parameters":null,"outputs":[
        {"name":"probabilities","shape":[1,2],"datatype":"FP32","parameters":null,"data":[3.87101669e-11,NaN]}]}"""
    mlserver = b"""{"model_name":"digits","id":"x","parameters":{},"outputs":[{"name":"probabilities",
        "shape":[1,2],"datatype":"FP32","parameters":{"content_type":"np"},"data":[3.8710167e-11,NaN]}]}"""
    for body in (triton, kserve, mlserver):
        (output,) = V2.read_response([], body, DIGITS).outputs
        assert_same(output, a_tensor("probabilities", "FP32", [[3.8710167e-11, math.nan]]))


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{}", b'{"outputs":[{}]}', b'{"outputs":[],"model_version":1}']
)
def test_answers_that_are_none_are_refused(body: bytes) -> None:
    with pytest.raises(InvalidPrediction):
        V2.read_response([], body, None)


# Errors, metadata, readiness


def test_errors_have_the_protocols_form_and_our_code() -> None:
    headers, body = V2.write_error(422, "wrong_shape", "no", {"expected": "x: FP32[-1]"})
    assert headers == [(b"content-type", b"application/json")]
    assert orjson.loads(body) == {"error": "no", "code": "wrong_shape", "expected": "x: FP32[-1]"}


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (500, b'{"error":"failed to parse the request JSON buffer: Invalid value. at 1"}', ErrorKind.INVALID),
        (422, b'{"detail":[{"loc":["inputs"],"msg":"field required"}]}', ErrorKind.INVALID),
        (400, b'{"error":"Model version not ready"}', ErrorKind.UNAVAILABLE),
        (400, b'{"error":"Request for unknown model: \'x\' is not found"}', ErrorKind.NOT_FOUND),
        (404, b'{"error":"Model with name x does not exist."}', ErrorKind.NOT_FOUND),
        (
            500,
            b'{"error":"ValueError : cannot reshape array of size 3 into shape (1,64)"}',
            ErrorKind.INVALID,
        ),
        (500, b'{"error":"ValueError : boom"}', ErrorKind.BACKEND),
        (500, b"Internal Server Error", ErrorKind.BACKEND),
        (501, b'{"error":"Model versioning not supported yet."}', ErrorKind.UNIMPLEMENTED),
        (503, b'{"error":"Exceeds maximum queue size"}', ErrorKind.OVERLOADED),
        (503, b"", ErrorKind.UNAVAILABLE),
        (502, b"", ErrorKind.UNAVAILABLE),
        (408, b"", ErrorKind.TIMEOUT),
        (401, b"", ErrorKind.BACKEND),
        (418, b"", ErrorKind.INVALID),
        (599, b"", ErrorKind.BACKEND),
    ],
)
def test_errors_are_understood_as_three_servers_say_them(status: int, body: bytes, kind: ErrorKind) -> None:
    error = V2.read_error(status, [], body)
    assert error.kind is kind
    assert error.message


def test_metadata_is_read_as_servers_write_it() -> None:
    body = b"""{"name":"digits","versions":["1","2"],"platform":"python",
        "inputs":[{"name":"input","datatype":"FP32","shape":[-1,64]}],
        "outputs":[{"name":"probabilities","datatype":"FP32","shape":["-1","10"]},
                   {"name":"label","datatype":"INT64","shape":[-1]}]}"""
    assert V2.read_metadata(body) == Metadata(DIGITS, ("1", "2"))
    for versions in (b"null", b"[]"):
        assert V2.read_metadata(body.replace(b'["1","2"]', versions)).versions == ()


def test_metadata_written_is_read_back() -> None:
    headers, body = V2.write_metadata("digits", ("1", "2"), DIGITS)
    assert headers == [(b"content-type", b"application/json")]
    assert V2.read_metadata(body) == Metadata(DIGITS, ("1", "2"))
    _, body = V2.write_metadata("m", (), Signature((TensorSpec("x", "BYTES", None),), ()))
    assert V2.read_metadata(body).signature.render() == "x: BYTES[-1] -> "


@pytest.mark.parametrize(
    "document",
    [
        1,
        {},
        {"inputs": [], "outputs": 1},
        {"inputs": [1], "outputs": []},
        {"inputs": [{"name": "x", "datatype": "BF16", "shape": []}], "outputs": []},
        {"inputs": [{"name": "x", "datatype": "FP32", "shape": ["a"]}], "outputs": []},
        {"inputs": [{"name": "x", "datatype": "FP32"}], "outputs": []},
        {"inputs": [], "outputs": [], "versions": 1},
        {"inputs": [], "outputs": [], "versions": [None]},
    ],
)
def test_metadata_that_is_none_is_refused(document: object) -> None:
    with pytest.raises(InvalidPrediction):
        V2.read_metadata(json.dumps(document).encode())


def test_the_metadata_request_and_the_health_paths() -> None:
    assert V2.metadata_request("digits", "2").path == b"/v2/models/digits/versions/2"
    assert V2.health_path("digits") == b"/v2/models/digits/ready"
    assert V2.health_path("") == b"/v2/health/ready"


@pytest.mark.parametrize(
    ("version", "states", "status"),
    [
        (None, [VersionState("1"), VersionState("2", "LOADING")], 200),
        ("1", [VersionState("1")], 200),
        ("2", [VersionState("1"), VersionState("2", "LOADING")], 400),
        (None, [], 404),
        ("9", [VersionState("1")], 404),
    ],
)
def test_a_model_is_ready_when_the_version_asked_for_is(
    version: str | None, states: list[VersionState], status: int
) -> None:
    answer = V2.write_status(Target(V2, Operation.READY, "digits", version), states)
    assert answer.status == status
    assert V2.read_ready(answer.status, answer.body) is (status == 200)


@pytest.mark.parametrize(
    ("operation", "ready", "status", "document"),
    [
        (Operation.LIVE, False, 200, {"live": True}),
        (Operation.SERVER_READY, True, 200, {"ready": True}),
        (Operation.SERVER_READY, False, 400, {"ready": False}),
        (Operation.SERVER_METADATA, True, 200, {"name": "headgate", "version": "1", "extensions": []}),
    ],
)
def test_the_server_answers_for_itself(
    operation: Operation, ready: bool, status: int, document: object
) -> None:
    answer = V2.write_server(Target(V2, operation), ready, "headgate", "1")
    assert (answer.status, orjson.loads(answer.body)) == (status, document)


@pytest.mark.parametrize(
    ("status", "body", "ready"),
    [
        (200, b"", True),
        (200, b'{"ready":true}', True),
        (200, b'{"name":"digits","ready":false}', False),
        (200, b"[]", True),
        (400, b"", False),
        (503, b'{"ready":true}', False),
    ],
)
def test_readiness_is_read_as_servers_write_it(status: int, body: bytes, ready: bool) -> None:
    assert V2.read_ready(status, body) is ready


# Whatever the bytes

SCALARS = st.none() | st.booleans() | st.integers(-3, 300) | st.floats(allow_nan=False) | st.text(max_size=3)
ANYTHING = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=6,
)
TENSORS = st.fixed_dictionaries(
    {"name": st.sampled_from(["a", "b"]) | ANYTHING},
    optional={
        "datatype": st.sampled_from(["FP32", "INT8", "BOOL", "BYTES", "UINT64"]) | ANYTHING,
        "shape": st.lists(st.integers(-1, 3), max_size=3) | ANYTHING,
        "data": st.lists(SCALARS, max_size=4) | ANYTHING,
        "parameters": st.fixed_dictionaries({}, optional={"binary_data_size": st.integers(-1, 9) | ANYTHING})
        | ANYTHING,
    },
)
DOCUMENTS = st.fixed_dictionaries(
    {},
    optional={
        "inputs": st.lists(TENSORS, max_size=3) | ANYTHING,
        "outputs": st.lists(TENSORS, max_size=3) | ANYTHING,
        "id": ANYTHING,
        "parameters": ANYTHING,
        "model_version": ANYTHING,
        "versions": ANYTHING,
    },
)


@given(DOCUMENTS, st.binary(max_size=12), st.booleans())
def test_any_json_is_read_or_refused(document: object, tail: bytes, binary: bool) -> None:
    body = json.dumps(document).encode()
    headers: Headers = [(JSON_LENGTH, b"%d" % len(body))] if binary else []
    whole = body + tail if binary else body
    for call in (
        lambda: V2.read_request(INFER, headers, whole, HALF),
        lambda: V2.read_response(headers, whole, HALF),
        lambda: V2.read_metadata(body),
    ):
        refusal = caught(call)
        if refusal is not None:
            V2.write_error(refusal.status, refusal.code, refusal.message, dict(refusal.details))


@given(st.binary(max_size=50), st.binary(max_size=4), st.integers(100, 599))
def test_any_bytes_are_read_or_refused(body: bytes, length: bytes, status: int) -> None:
    for headers in ([], [(JSON_LENGTH, length)]):
        caught(lambda: V2.read_request(INFER, headers, body, None))  # noqa: B023 (called at once)
        caught(lambda: V2.read_response(headers, body, None))  # noqa: B023
    caught(lambda: V2.read_metadata(body))
    assert V2.read_error(status, [], body).message
    V2.read_ready(status, body)


@given(
    st.binary(max_size=40).map(lambda tail: b"/v2/models/" + tail), st.sampled_from([b"GET", b"POST", b"PUT"])
)
def test_any_path_is_recognised_or_not(path: bytes, method: bytes) -> None:
    target = V2.recognise(method, path)
    if target is not None:
        assert V2.recognise(method, V2.path_for(target, target.model, target.version)) == target
