"""TorchServe and MMS: URLs, what handlers take and return, and what their errors mean."""

from __future__ import annotations

import pytest

from gateway.dialects.catalogue import MULTI_MODEL_SERVER, TORCHSERVE
from gateway.dialects.errors import ErrorKind, InvalidPrediction
from gateway.dialects.metadata import Signature, TensorSpec, parse_signature
from gateway.dialects.protocol import Dialect, Operation, Target, VersionState
from gateway.http.message import Headers
from tests.dialects.models import a_request, a_response, a_tensor

JSON: Headers = [(b"content-type", b"application/json")]
DOUBLE = parse_signature("x: FP32[-1,2] -> y: FP32[-1,2], n: INT64[-1]")
PICTURE = Signature((TensorSpec("data", "BYTES", (-1,)),), (TensorSpec("label", "BYTES", (-1,)),))
ASKED = Target(TORCHSERVE, Operation.INFER, "m")


@pytest.mark.parametrize(
    ("dialect", "method", "path", "meant"),
    [
        (TORCHSERVE, b"POST", b"/predictions/m", ("infer", "m", None)),
        (TORCHSERVE, b"POST", b"/predictions/m/1.0", ("infer", "m", "1.0")),
        (TORCHSERVE, b"GET", b"/models/m/all", ("status", "m", None)),
        (TORCHSERVE, b"GET", b"/ping", ("live", "", None)),
        (TORCHSERVE, b"DELETE", b"/models/m", None),
        (MULTI_MODEL_SERVER, b"POST", b"/models/m/invoke", ("infer", "m", None)),
        (MULTI_MODEL_SERVER, b"POST", b"/invocations", ("infer", "", None)),
        (MULTI_MODEL_SERVER, b"POST", b"/predictions/a%2Fb", None),
        (MULTI_MODEL_SERVER, b"POST", b"/predictions/m/1.0", None),
    ],
)
def test_urls(dialect: Dialect, method: bytes, path: bytes, meant: object) -> None:
    found = dialect.recognise(method, path)
    assert (found and (found.operation.value, found.model, found.version)) == meant


@pytest.mark.parametrize(
    ("body", "style"),
    [
        (b'{"instances": [[1, 2]]}', "row"),
        (b'{"instances": [{"x": [1, 2]}]}', "row"),
        (b"[[1, 2]]", "row"),
        (b'{"inputs": [[1, 2]]}', "column"),
        (b'{"x": [[1, 2]]}', "column"),
    ],
)
def test_bodies_by_the_convention(body: bytes, style: str) -> None:
    infer = TORCHSERVE.read_request(ASKED, JSON, body, DOUBLE)
    assert (infer.inputs[0].data.tolist(), infer.style) == ([[1, 2]], style)  # type: ignore[union-attr]


def test_any_other_body_is_a_model_s_only_byte_string() -> None:
    (tensor,) = TORCHSERVE.read_request(ASKED, [(b"content-type", b"image/png")], b"\x89PNG", PICTURE).inputs
    assert (tensor.shape, tensor.data) == ((1,), [b"\x89PNG"])


@pytest.mark.parametrize(
    ("headers", "body", "signature", "code"),
    [
        (JSON, b"\x89PNG", PICTURE, "malformed_json"),
        ([], b"\x89PNG", DOUBLE, "malformed_json"),
        ([(b"content-type", b"multipart/form-data; boundary=x")], b"--x", DOUBLE, "unsupported"),
        (JSON, b'{"z": 1}', DOUBLE, "wrong_name"),
        (JSON, b"3", DOUBLE, "malformed_request"),
        (JSON, b"{}", None, "signature_unknown"),
    ],
)
def test_what_is_refused(headers: Headers, body: bytes, signature: Signature | None, code: str) -> None:
    with pytest.raises(InvalidPrediction) as refused:
        TORCHSERVE.read_request(ASKED, headers, body, signature)
    assert refused.value.code == code


@pytest.mark.parametrize(
    "body",
    [
        b'{"y": [[2, 4]], "n": [1]}',
        b'{"predictions": [{"y": [2, 4], "n": 1}]}',
        b'[{"y": [2, 4], "n": 1}]',
        b'{"outputs": {"y": [[2, 4]], "n": [1]}}',
        b'{\n  "y": [\n [2.0, 4.0]\n ],\n  "n": [1]\n}',
    ],
)
def test_answers_by_the_convention(body: bytes) -> None:
    y, n = TORCHSERVE.read_response([], body, DOUBLE).outputs
    assert (y.data.tolist(), n.data.tolist()) == ([[2, 4]], [1])  # type: ignore[union-attr]


def test_a_request_is_written_by_rows_and_an_answer_by_names() -> None:
    a, words = a_tensor("a", "INT64", [[1, 2]]), a_tensor("n", "INT64", [3])
    call = TORCHSERVE.write_request(a_request(a, words), "m", "1.0")
    assert (call.path, call.body) == (b"/predictions/m/1.0", b'{"instances":[{"a":[1,2],"n":3}]}')
    assert MULTI_MODEL_SERVER.write_request(a_request(a), "m", "1.0").path == b"/predictions/m"
    assert TORCHSERVE.write_response(a_response(a), a_request())[1] == b'{"a":[[1,2]]}'
    with pytest.raises(InvalidPrediction) as refused:
        TORCHSERVE.write_request(a_request(a, signature="other"), "m", None)
    assert refused.value.code == "unsupported"


@pytest.mark.parametrize(
    ("status", "kind", "message", "meant"),
    [
        (503, "InternalServerException", "Prediction failed", ErrorKind.INVALID),
        (500, "InternalServerException", "Worker died.", ErrorKind.BACKEND),
        (503, "ServiceUnavailableException", 'Model "m" has no worker to serve', ErrorKind.UNAVAILABLE),
        (404, "ModelVersionNotFoundException", "Model version: 9 not found", ErrorKind.NOT_FOUND),
        (400, "BadRequestException", "Parameter model_name is required.", ErrorKind.INVALID),
    ],
)
def test_errors_mean_what_their_type_says(status: int, kind: str, message: str, meant: ErrorKind) -> None:
    body = f'{{"code": {status}, "type": "{kind}", "message": "{message.replace(chr(34), "")}"}}'.encode()
    assert TORCHSERVE.read_error(status, [], body).kind is meant
    assert meant.blames_instance is (meant in (ErrorKind.BACKEND, ErrorKind.UNAVAILABLE))


@pytest.mark.parametrize(
    ("body", "ready"),
    [
        (b'[{"modelName": "m", "workers": [{"status": "UNLOADING"}, {"status": "READY"}]}]', True),
        (b'[{"modelName": "m", "workers": []}]', False),
        (b'{"modelName": "m", "workers": [{"status": "READY"}]}', True),
        (b'{"status": "Healthy"}', True),
        (b'{"status": "Unhealthy"}', False),
        (b"no", False),
    ],
)
def test_a_model_is_ready_while_a_worker_is(body: bytes, ready: bool) -> None:
    assert TORCHSERVE.read_ready(200, body) is ready
    assert not TORCHSERVE.read_ready(500, body)


def test_status_tells_a_worker_per_version() -> None:
    target = Target(TORCHSERVE, Operation.STATUS, "m")
    answer = TORCHSERVE.write_status(target, [VersionState("1.0"), VersionState("2.0", "LOADING")])
    assert TORCHSERVE.read_ready(answer.status, answer.body)
    assert TORCHSERVE.write_status(target, []).status == 404


def test_neither_server_tells_a_signature() -> None:
    with pytest.raises(InvalidPrediction):
        TORCHSERVE.read_metadata(b'[{"modelName": "m"}]')
