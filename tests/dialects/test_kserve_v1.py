"""KServe V1: as the SDK 0.21 answers, and what has no place in it."""

from __future__ import annotations

import numpy as np
import pytest

from gateway.dialects.catalogue import KSERVE_V1
from gateway.dialects.errors import ErrorKind, InvalidPrediction
from gateway.dialects.metadata import parse_signature
from gateway.dialects.protocol import Operation, Target, VersionState
from tests.dialects.models import DIGITS, a_request, a_tensor

DOUBLE = parse_signature("x: FP32[-1,2] -> y: FP32[-1,2]")
ASKED = Target(KSERVE_V1, Operation.INFER, "m")


@pytest.mark.parametrize(
    ("method", "path", "operation"),
    [
        (b"POST", b"/v1/models/m:predict", Operation.INFER),
        (b"POST", b"/v1/models/m:explain", Operation.EXPLAIN),
        (b"GET", b"/v1/models/m", Operation.READY),
        (b"GET", b"/v1/models", Operation.MODELS),
        (b"GET", b"/v1/models/m:predict", None),
        (b"POST", b"/v1/models/m/versions/1:predict", None),
        (b"POST", b"/V1/models/m:predict", None),
    ],
)
def test_urls(method: bytes, path: bytes, operation: Operation | None) -> None:
    target = KSERVE_V1.recognise(method, path)
    assert (target and target.operation) is operation


def test_rows_go_in_and_come_out() -> None:
    infer = KSERVE_V1.read_request(ASKED, [], b'{"instances": [[1, 2]]}', DOUBLE)
    assert infer.inputs[0].data.tolist() == [[1, 2]]  # type: ignore[union-attr]
    call = KSERVE_V1.write_request(infer, "inner", "3")
    assert (call.path, call.body) == (b"/v1/models/inner:predict", b'{"instances":[[1.0,2.0]]}')
    answer = KSERVE_V1.read_response([], b'{"predictions": [[2.0, 4.0]]}', DOUBLE)
    assert KSERVE_V1.write_response(answer, infer)[1] == b'{"predictions":[[2.0,4.0]]}'


@pytest.mark.parametrize(
    ("infer", "code"),
    [
        (a_request(a_tensor("x", "FP32", [np.nan])), "not_finite"),
        (a_request(a_tensor("x", "FP32", [1]), a_tensor("z", "FP32", [1, 2])), "wrong_shape"),
        (a_request(a_tensor("x", "FP32", [1]), signature="other"), "unsupported"),
    ],
    ids=["NaN", "no rows", "another signature"],
)
def test_what_has_no_place_is_refused(infer: object, code: str) -> None:
    with pytest.raises(InvalidPrediction) as refused:
        KSERVE_V1.write_request(infer, "m", None)  # type: ignore[arg-type]
    assert refused.value.code == code


def test_columns_are_not_its_form() -> None:
    with pytest.raises(InvalidPrediction) as refused:
        KSERVE_V1.read_request(ASKED, [], b'{"inputs": [[1, 2]]}', DOUBLE)
    assert refused.value.code == "malformed_request"


@pytest.mark.parametrize(
    ("status", "said", "kind"),
    [
        (500, b'{"error":"KeyError : \'instances\'"}', ErrorKind.INVALID),
        (500, b'{"error":"ValueError : cannot reshape array of size 3"}', ErrorKind.INVALID),
        (500, b'{"error":"ZeroDivisionError : division by zero"}', ErrorKind.BACKEND),
        (404, b'{"error":"Model with name x does not exist."}', ErrorKind.NOT_FOUND),
    ],
)
def test_a_500_may_be_the_client_s_mistake(status: int, said: bytes, kind: ErrorKind) -> None:
    assert KSERVE_V1.is_ambiguous(500)
    assert KSERVE_V1.read_error(status, [], said).kind is kind


def test_readiness_and_the_description_of_a_model() -> None:
    ready = KSERVE_V1.write_status(Target(KSERVE_V1, Operation.READY, "m"), [VersionState("1")])
    assert (ready.status, ready.body) == (200, b'{"name":"m","ready":true}')
    assert KSERVE_V1.read_ready(200, ready.body)
    assert not KSERVE_V1.read_ready(200, b'{"name":"m","ready":false}')
    assert KSERVE_V1.write_status(Target(KSERVE_V1, Operation.READY, "m"), []).status == 404
    _, body = KSERVE_V1.write_metadata("m", ["1"], DIGITS)
    assert KSERVE_V1.read_metadata(body).signature == DIGITS
    assert KSERVE_V1.metadata_request("m", None).path == b"/v2/models/m"
