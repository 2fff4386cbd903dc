from __future__ import annotations

import json
import math

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.dialects.catalogue import TENSORFLOW_SERVING as TFS
from gateway.dialects.errors import ErrorKind, InvalidPrediction
from gateway.dialects.metadata import Metadata, Signature, TensorSpec, check
from gateway.dialects.protocol import Operation, Target, VersionState
from gateway.dialects.tensors import InferRequest, Tensor
from gateway.http.message import Headers
from tests.dialects.models import DIGITS, HALF, PAIR, a_request, a_response, a_tensor, assert_same, caught

PREDICT = Target(TFS, Operation.INFER, "digits")


def read(document: object, signature: Signature | None) -> InferRequest:
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    return TFS.read_request(PREDICT, [], body, signature)


def written(answer: tuple[Headers, bytes]) -> object:
    headers, body = answer
    assert (b"content-type", b"application/json") in headers
    return json.loads(body)


# URLs


@pytest.mark.parametrize(
    ("method", "path", "operation", "model", "version", "label"),
    [
        (b"POST", b"/v1/models/digits:predict", Operation.INFER, "digits", None, None),
        (b"POST", b"/V1/Models/digits:PREDICT", Operation.INFER, "digits", None, None),
        (b"POST", b"/v1/models/digits/versions/2:predict", Operation.INFER, "digits", "2", None),
        (b"POST", b"/v1/models/digits/versions/002:predict", Operation.INFER, "digits", "2", None),
        (b"POST", b"/v1/models/digits/labels/stable:predict", Operation.INFER, "digits", None, "stable"),
        (b"POST", b"/v1/models/d%C3%A9%20x:predict", Operation.INFER, "dé x", None, None),
        (b"POST", b"/v1/models/digits:classify", Operation.CLASSIFY, "digits", None, None),
        (b"POST", b"/v1/models/digits:regress", Operation.REGRESS, "digits", None, None),
        (b"GET", b"/v1/models/digits", Operation.STATUS, "digits", None, None),
        (b"HEAD", b"/v1/models/digits", Operation.STATUS, "digits", None, None),
        (b"GET", b"/v1/models/digits/versions/1", Operation.STATUS, "digits", "1", None),
        (b"GET", b"/v1/models/digits/metadata", Operation.METADATA, "digits", None, None),
        (b"GET", b"/v1/models/digits/labels/canary/metadata", Operation.METADATA, "digits", None, "canary"),
    ],
)
def test_urls_are_recognised(
    method: bytes, path: bytes, operation: Operation, model: str, version: str | None, label: str | None
) -> None:
    assert TFS.recognise(method, path) == Target(TFS, operation, model, version, label)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        (b"GET", b"/v1/models/digits:predict"),
        (b"POST", b"/v1/models/digits"),
        (b"POST", b"/v1/models/digits/metadata"),
        (b"POST", b"/v1/models/digits/versions/v1:predict"),
        (b"POST", b"/v1/models/digits/versions/1/labels/x:predict"),
        (b"POST", b"/v1/models/a%2Fb:predict"),
        (b"POST", b"/v1/models/a%3Ab:predict"),
        (b"POST", b"/v1/models/%FF:predict"),
        (b"POST", b"/v1/models/a%0Ab:predict"),
        (b"GET", b"/v1/models/%2E%2E"),
        (b"GET", b"/v1/models/"),
        (b"GET", b"/v1/models/digits/"),
        (b"GET", b"/v2/models/digits"),
        (b"GET", b"/"),
    ],
)
def test_other_urls_are_not(method: bytes, path: bytes) -> None:
    assert TFS.recognise(method, path) is None


@pytest.mark.parametrize("path", [b"/v1/models/d:predict", b"/v1/models/d/metadata", b"/v1/models/d"])
def test_paths_are_rewritten_for_a_backend_with_its_own_names(path: bytes) -> None:
    target = TFS.recognise(b"POST" if b":" in path else b"GET", path)
    assert target is not None
    again = TFS.path_for(target, "other/model", "7")
    assert again.startswith(b"/v1/models/other%2Fmodel/versions/7")
    assert TFS.path_for(target, "d", None) == path


def test_a_label_is_never_passed_on() -> None:
    target = TFS.recognise(b"POST", b"/v1/models/digits/labels/stable:predict")
    assert target is not None
    assert TFS.path_for(target, "digits", "1") == b"/v1/models/digits/versions/1:predict"


# The request


@pytest.mark.parametrize(
    ("document", "style"),
    [
        ({"instances": [[1, 2.0], [3e0, -0.5]]}, "row"),
        ({"instances": [{"input": [1, 2]}, {"input": [3, -0.5]}]}, "row"),
        ({"inputs": [[1, 2], [3, -0.5]]}, "column"),
        ({"inputs": {"input": [[1, 2], [3, -0.5]]}}, "column"),
        ({"signature_name": "serving_default", "inputs": [[1, 2], [3, -0.5]]}, "column"),
        ({"signature_name": "", "instances": [[1, 2], [3, -0.5]], "other": 1}, "row"),
    ],
    ids=["rows", "named rows", "column", "named column", "signature", "more members"],
)
def test_every_form_of_one_input_reads_the_same(document: object, style: str) -> None:
    signature = Signature((TensorSpec("input", "FP32", (-1, 2)),), ())
    request = read(document, signature)
    assert (request.model, request.style, request.signature, request.outputs) == ("digits", style, "", None)
    (tensor,) = request.inputs
    assert_same(tensor, a_tensor("input", "FP32", [[1, 2], [3, -0.5]]))


@pytest.mark.parametrize(
    "document",
    [
        {"instances": [{"a": [1, 2], "words": "hi"}, {"words": {"b64": "/w=="}, "a": [3, 4]}]},
        {"inputs": {"words": [{"b64": "aGk="}, {"b64": "/w=="}], "a": [[1, 2], [3, 4]]}},
    ],
    ids=["row", "column"],
)
def test_several_inputs_and_bytes_are_read_in_both_forms(document: object) -> None:
    numbers, words = read(document, PAIR).inputs
    assert_same(numbers, a_tensor("a", "INT64", [[1, 2], [3, 4]]))
    assert_same(words, Tensor("words", "BYTES", (2,), [b"hi", b"\xff"]))


def test_single_values_are_rows_of_a_vector() -> None:
    (tensor,) = read({"instances": [1.0, 2.0, 5.0]}, HALF).inputs
    assert_same(tensor, a_tensor("x", "FP32", [1, 2, 5]))


def test_single_base64_objects_are_values_not_named_inputs() -> None:
    signature = Signature((TensorSpec("image", "BYTES", (-1,)),), ())
    for document in ({"instances": [{"b64": "aGk="}, "x"]}, {"inputs": [{"b64": "aGk="}, "x"]}):
        (tensor,) = read(document, signature).inputs
        assert_same(tensor, Tensor("image", "BYTES", (2,), [b"hi", b"x"]))
    (scalar,) = read({"inputs": {"b64": "aGk="}}, signature).inputs
    assert_same(scalar, Tensor("image", "BYTES", (), [b"hi"]))


def test_an_empty_batch_gets_its_inner_dimensions_from_the_signature() -> None:
    for document in ({"instances": []}, {"inputs": []}, {"inputs": {"input": []}}):
        (tensor,) = read(document, DIGITS).inputs
        assert tensor.shape == (0, 64)
        assert isinstance(tensor.data, np.ndarray)
        assert tensor.data.shape == (0, 64)


def test_nan_and_infinities_are_legal() -> None:
    (tensor,) = read(b'{"instances":[NaN,Infinity,-Infinity]}', HALF).inputs
    assert_same(tensor, a_tensor("x", "FP32", [math.nan, math.inf, -math.inf]))


def test_a_version_and_a_label_come_from_the_url() -> None:
    target = TFS.recognise(b"POST", b"/v1/models/half/labels/canary:predict")
    assert target is not None
    request = TFS.read_request(target, [], b'{"inputs":[1]}', HALF)
    assert (request.model, request.version, request.label) == ("half", None, "canary")


@pytest.mark.parametrize(
    ("document", "signature", "code"),
    [
        (b"{", DIGITS, "malformed_json"),
        (b"", DIGITS, "malformed_json"),
        (b'{"inputs":[1],"inputs":[2]}', HALF, "duplicate_key"),
        ([], DIGITS, "malformed_request"),
        ({}, DIGITS, "malformed_request"),
        ({"instances": [1], "inputs": [1]}, HALF, "malformed_request"),
        ({"instances": 1}, HALF, "malformed_request"),
        ({"instances": {"x": 1}}, HALF, "malformed_request"),
        ({"signature_name": 1, "inputs": [1]}, HALF, "malformed_request"),
        ({"signature_name": "x", "inputs": [1]}, HALF, "unknown_signature"),
        ({"inputs": {"nope": [1]}}, HALF, "wrong_name"),
        ({"instances": [{"x": 1}, {"y": 1}]}, HALF, "wrong_name"),
        ({"instances": [{"x": 1}, 1]}, HALF, "wrong_name"),
        ({"instances": [1, {"x": 1}]}, HALF, "wrong_dtype"),
        ({"instances": [1, 2]}, PAIR, "wrong_name"),
        ({"inputs": 1}, PAIR, "wrong_name"),
        ({"instances": [[1], [1, 2]]}, HALF, "wrong_shape"),
        ({"instances": ["1"]}, HALF, "wrong_dtype"),
        ({"instances": [None]}, HALF, "wrong_dtype"),
        ({"inputs": {"words": [{"b64": "*"}]}}, PAIR, "wrong_dtype"),
        ({"inputs": {"words": [{"b64": "é"}]}}, PAIR, "wrong_dtype"),
        ({"inputs": {"words": [1]}}, PAIR, "wrong_dtype"),
        ({"inputs": {"words": ["a", ["b"]]}}, PAIR, "wrong_shape"),
    ],
)
def test_wrong_requests_are_refused_with_a_code(document: object, signature: Signature, code: str) -> None:
    with pytest.raises(InvalidPrediction) as refused:
        read(document, signature)
    assert refused.value.code == code
    if code in ("wrong_name", "wrong_dtype", "wrong_shape"):
        assert refused.value.details["expected"] == signature.render()
        assert signature.render() in refused.value.message


def test_json_without_datatypes_needs_the_signature() -> None:
    with pytest.raises(InvalidPrediction) as refused:
        read({"instances": [[1]]}, None)
    assert (refused.value.code, refused.value.status) == ("signature_unknown", 503)


@pytest.mark.parametrize(("body", "found"), [(b"{}", "neither"), (b'{"instances":[],"inputs":[]}', "both")])
def test_what_is_wrong_under_any_signature_is_said_without_one(body: bytes, found: str) -> None:
    with pytest.raises(InvalidPrediction, match=found) as refused:
        read(body, None)
    assert refused.value.status == 400


def test_a_compressed_body_is_refused_not_called_bad_json() -> None:
    with pytest.raises(InvalidPrediction, match="compressed") as refused:
        TFS.read_request(PREDICT, [(b"content-encoding", b"gzip")], b"\x1f\x8b", DIGITS)
    assert refused.value.code == "unsupported"
    assert TFS.read_request(PREDICT, [(b"content-encoding", b"Identity")], b'{"inputs":[]}', DIGITS).inputs


def test_another_signature_of_the_model_is_used_when_named() -> None:
    other = Signature((TensorSpec("z", "INT64", (-1,)),), (), "other")
    both = Signature(HALF.inputs, HALF.outputs, others=(other,))
    request = read({"signature_name": "other", "inputs": [1]}, both)
    assert request.signature == "other"
    assert_same(request.inputs[0], a_tensor("z", "INT64", [1]))
    check(request, both)
    call = TFS.write_request(request, "m", None)
    assert orjson.loads(call.body) == {"signature_name": "other", "inputs": {"z": [1]}}


def test_requests_are_written_in_column_form() -> None:
    request = a_request(a_tensor("a", "INT64", [[1, 2]]), Tensor("words", "BYTES", (1,), [b"\xff"]))
    call = TFS.write_request(request, "pair", "3")
    assert (call.method, call.path) == (b"POST", b"/v1/models/pair/versions/3:predict")
    assert call.headers == [(b"content-type", b"application/json")]
    assert orjson.loads(call.body) == {"inputs": {"a": [[1, 2]], "words": [{"b64": "/w=="}]}}


def test_non_finite_requests_and_scalars_are_written_with_tokens() -> None:
    request = a_request(a_tensor("x", "FP32", [math.nan, -math.inf, 0.1]), a_tensor("t", "FP32", 2.0))
    body = TFS.write_request(request, "half", None).body
    assert body.startswith(b'{"inputs":{"x":[NaN,-Infinity,0.1')
    assert body.endswith(b'"t":2.0}}')


# The response

ROW = a_request(a_tensor("x", "FP32", [0]), style="row")
COLUMN = a_request(a_tensor("x", "FP32", [0]), style="column")


@pytest.mark.parametrize(
    ("request_", "outputs", "document"),
    [
        (ROW, [a_tensor("y", "FP32", [2.5, 3.0])], {"predictions": [2.5, 3.0]}),
        (COLUMN, [a_tensor("y", "FP32", [2.5, 3.0])], {"outputs": [2.5, 3.0]}),
        (COLUMN, [a_tensor("y", "FP32", 2.5)], {"outputs": 2.5}),
        (
            ROW,
            [a_tensor("p", "FP32", [[0.5, 0.25], [0.0, 1.0]]), a_tensor("label", "INT64", [0, 1])],
            {"predictions": [{"p": [0.5, 0.25], "label": 0}, {"p": [0.0, 1.0], "label": 1}]},
        ),
        (
            COLUMN,
            [a_tensor("p", "FP32", [[0.5, 0.25]]), a_tensor("label", "INT64", [0])],
            {"outputs": {"p": [[0.5, 0.25]], "label": [0]}},
        ),
        (ROW, [a_tensor("p", "FP16", np.zeros((0, 2))), a_tensor("b", "BOOL", [])], {"predictions": []}),
        (
            ROW,
            [Tensor("raw_bytes", "BYTES", (1,), [b"hi"]), Tensor("text", "BYTES", (1,), [b"hi"])],
            {"predictions": [{"raw_bytes": {"b64": "aGk="}, "text": "hi"}]},
        ),
        (ROW, [Tensor("text", "BYTES", (2,), [b"\xff", b"a"])], {"predictions": [{"b64": "/w=="}, "a"]}),
    ],
    ids=["row", "column", "scalar", "rows of objects", "columns", "empty", "names ending _bytes", "not text"],
)
def test_answers_take_the_form_of_the_question(
    request_: InferRequest, outputs: list[Tensor], document: object
) -> None:
    assert written(TFS.write_response(a_response(*outputs), request_)) == document


def test_non_finite_answers_are_written_with_tokens() -> None:
    outputs = a_response(a_tensor("y", "FP32", [math.nan, math.inf]), a_tensor("l", "INT64", [1, 2]))
    _, body = TFS.write_response(outputs, ROW)
    assert body == b'{"predictions":[{"y":NaN,"l":1},{"y":Infinity,"l":2}]}'


@pytest.mark.parametrize(
    "outputs",
    [
        [a_tensor("y", "FP32", 2.5)],
        [a_tensor("y", "FP32", [1.0]), a_tensor("z", "FP32", [1.0, 2.0])],
        [a_tensor("y", "FP32", [1.0]), a_tensor("z", "FP32", 1.0)],
    ],
    ids=["a scalar", "different lengths", "a scalar among them"],
)
def test_outputs_that_have_no_rows_cannot_be_rows(outputs: list[Tensor]) -> None:
    with pytest.raises(InvalidPrediction, match="column form"):
        TFS.write_response(a_response(*outputs), ROW)


@pytest.mark.parametrize(
    "document",
    [
        {"predictions": [{"probabilities": [0.5] * 10, "label": 2}]},
        {"outputs": {"label": [2], "probabilities": [[0.5] * 10]}},
    ],
    ids=["row", "column"],
)
def test_answers_are_read_in_both_forms(document: object) -> None:
    response = TFS.read_response([], json.dumps(document).encode(), DIGITS)
    probabilities, label = response.outputs
    assert_same(probabilities, a_tensor("probabilities", "FP32", [[0.5] * 10]))
    assert_same(label, a_tensor("label", "INT64", [2]))


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "malformed_json"),
        (b"[]", "malformed_request"),
        (b"{}", "malformed_request"),
        (b'{"predictions":{}}', "malformed_request"),
        (b'{"predictions":["x"]}', "wrong_dtype"),
        (b'{"outputs":{"z":[1]}}', "wrong_name"),
    ],
)
def test_answers_that_are_none_are_refused(body: bytes, code: str) -> None:
    with pytest.raises(InvalidPrediction) as refused:
        TFS.read_response([], body, HALF)
    assert refused.value.code == code


def test_answers_without_a_signature_cannot_be_read() -> None:
    with pytest.raises(InvalidPrediction, match="signature"):
        TFS.read_response([], b'{"predictions":[1]}', None)


# Errors, metadata, status


def test_errors_have_the_servers_form_and_our_code() -> None:
    document = written(
        TFS.write_error(422, "wrong_shape", "no", {"expected": "x: FP32[-1]", "error": "lost"})
    )
    assert document == {"error": "no", "code": "wrong_shape", "expected": "x: FP32[-1]"}
    assert written(TFS.write_error(404, "not_found", "no")) == {"error": "no", "code": "not_found"}


@pytest.mark.parametrize(
    ("status", "message", "kind"),
    [
        (400, "JSON Parse error: The document is empty", ErrorKind.INVALID),
        (400, "Missing 'inputs' or 'instances' key", ErrorKind.INVALID),
        (400, "Unrecognized servable version label: x", ErrorKind.NOT_FOUND),
        (404, "Servable not found for request: Latest(half)", ErrorKind.NOT_FOUND),
        (429, "quota", ErrorKind.OVERLOADED),
        (503, "The batch scheduling queue to which this task was submitted is full", ErrorKind.OVERLOADED),
        (503, "unavailable", ErrorKind.UNAVAILABLE),
        (504, "Deadline exceeded", ErrorKind.TIMEOUT),
        (501, "Unimplemented", ErrorKind.UNIMPLEMENTED),
        (500, "Internal", ErrorKind.BACKEND),
        (500, "KeyError : 'instances'", ErrorKind.INVALID),
    ],
)
def test_errors_are_understood(status: int, message: str, kind: ErrorKind) -> None:
    error = TFS.read_error(status, [], json.dumps({"error": message}).encode())
    assert (error.kind, error.message) == (kind, message)


def test_metadata_written_is_read_back() -> None:
    headers, body = TFS.write_metadata("digits", ["1", "2"], DIGITS)
    assert headers == [(b"content-type", b"application/json")]
    assert TFS.read_metadata(body) == Metadata(DIGITS, ("2",))


def test_the_metadata_request_and_the_health_path_name_the_model() -> None:
    assert TFS.metadata_request("digits", "2").path == b"/v1/models/digits/versions/2/metadata"
    assert TFS.metadata_request("digits", None)[:2] == (b"GET", b"/v1/models/digits/metadata")
    assert TFS.health_path("digits") == b"/v1/models/digits"


STATES = [VersionState("1"), VersionState("2", "LOADING"), VersionState("3", "END", "out of memory")]


def test_status_tells_the_states_of_the_versions() -> None:
    answer = TFS.write_status(Target(TFS, Operation.STATUS, "digits"), STATES)
    assert answer.status == 200
    assert orjson.loads(answer.body) == {
        "model_version_status": [
            {"version": "1", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}},
            {"version": "2", "state": "LOADING", "status": {"error_code": "OK", "error_message": ""}},
            {
                "version": "3",
                "state": "END",
                "status": {"error_code": "UNKNOWN", "error_message": "out of memory"},
            },
        ]
    }
    one = TFS.write_status(Target(TFS, Operation.STATUS, "digits", "2"), STATES)
    assert [each["version"] for each in orjson.loads(one.body)["model_version_status"]] == ["2"]
    assert TFS.write_status(Target(TFS, Operation.STATUS, "digits", "9"), STATES).status == 404


@pytest.mark.parametrize(
    ("status", "body", "ready"),
    [
        (200, b'{"model_version_status":[{"version":"1","state":"LOADING"},{"state":"AVAILABLE"}]}', True),
        (200, b'{"model_version_status":[{"version":"1","state":"LOADING"}]}', False),
        (200, b'{"model_version_status":[1]}', False),
        (200, b'{"name":"digits","ready":true}', True),
        (200, b'{"name":"digits","ready":false}', False),
        (200, b"", False),
        (200, b"[]", False),
        (404, b'{"model_version_status":[{"version":"1","state":"AVAILABLE"}]}', False),
    ],
)
def test_readiness_is_an_available_version(status: int, body: bytes, ready: bool) -> None:
    assert TFS.read_ready(status, body) is ready


def test_there_are_no_server_operations() -> None:
    answer = TFS.write_server(Target(TFS, Operation.LIVE), True, "headgate", "1")
    assert answer.status == 404
    assert b'"code":"not_found"' in answer.body


# Whatever the bytes


@given(
    st.fixed_dictionaries(
        {},
        optional={
            key: st.recursive(
                st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
                lambda inner: (
                    st.lists(inner, max_size=3)
                    | st.dictionaries(st.sampled_from(["b64", "a", "words", "x", "y"]), inner, max_size=3)
                ),
                max_leaves=8,
            )
            for key in ("instances", "inputs", "signature_name", "predictions", "outputs", "metadata")
        },
    ),
    st.sampled_from([DIGITS, HALF, PAIR, Signature((), ()), None]),
)
def test_any_json_is_read_or_refused(document: dict[str, object], signature: Signature | None) -> None:
    body = json.dumps(document).encode()
    for call in (
        lambda: TFS.read_request(PREDICT, [], body, signature),
        lambda: TFS.read_response([], body, signature),
        lambda: TFS.read_metadata(body),
    ):
        refusal = caught(call)
        if refusal is not None:
            assert 400 <= refusal.status < 504
            TFS.write_error(refusal.status, refusal.code, refusal.message, dict(refusal.details))


@given(st.binary(max_size=50), st.integers(100, 599))
def test_any_bytes_are_read_or_refused(body: bytes, status: int) -> None:
    caught(lambda: TFS.read_request(PREDICT, [], body, HALF))
    caught(lambda: TFS.read_response([], body, HALF))
    caught(lambda: TFS.read_metadata(body))
    assert TFS.read_error(status, [], body).message
    TFS.read_ready(status, body)


@given(
    st.binary(max_size=40).map(lambda tail: b"/v1/models/" + tail), st.sampled_from([b"GET", b"POST", b"PUT"])
)
def test_any_path_is_recognised_or_not(path: bytes, method: bytes) -> None:
    target = TFS.recognise(method, path)
    if target is not None:
        again = TFS.recognise(method, TFS.path_for(target, target.model, target.version))
        assert again == Target(TFS, target.operation, target.model, target.version)
