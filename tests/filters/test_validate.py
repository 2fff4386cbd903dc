from __future__ import annotations

from typing import Any

import orjson
import pytest

from gateway.dialects.catalogue import recognise
from gateway.dialects.metadata import Signature, TensorSpec
from gateway.filters.validate import KIND, Validate
from gateway.http.message import Response
from gateway.pipeline.chain import Chain
from gateway.pipeline.context import Context
from gateway.pipeline.errors import Refusal
from gateway.pipeline.filter import Filter, Rule
from gateway.pipeline.pool import Pool
from gateway.pipeline.pool_verbs import PoolSettings
from gateway.pipeline.promise import Eventual, Promise
from tests.fakes.context import make_context, make_parts
from tests.playbooks.stage import CountingIds

DIGITS = Signature((TensorSpec("input", "FP32", (-1, 4)),), (TensorSpec("label", "INT64", (-1,)),))
EXPECTED = DIGITS.render()
V1 = b"/v1/models/digits:predict"
V2 = b"/v2/models/digits/infer"


class FakeSignatures:
    """Implements prediction.Signatures: tells `known` at once, or on `arrive`."""

    def __init__(self, known: Signature | None, late: bool = False) -> None:
        self.known, self.late = known, late
        self.promises: list[Promise[Signature | None]] = []

    def signature(self, pool: Pool, model: str, version: str) -> Eventual[Signature | None]:
        if not self.late:
            return self.known
        promise: Promise[Signature | None] = Promise()
        self.promises.append(promise)
        return promise

    def arrive(self) -> None:
        while self.promises:
            self.promises.pop(0).resolve(self.known)


def validate(signatures: FakeSignatures, **config: Any) -> Filter:
    (made,) = KIND.build([Rule(Validate(**config), "tidy")], make_parts(signatures=signatures))
    return made


def prediction(path: bytes, body: object, method: bytes = b"POST") -> Context:
    raw = body if isinstance(body, bytes) else orjson.dumps(body)
    ctx = make_context((b"content-type", b"application/json"), method=method, path=path, body=raw)
    ctx.target = recognise(method, path)
    assert ctx.target is not None
    ctx.dialect = ctx.target.dialect
    ctx.pool = Pool("digits", PoolSettings(), CountingIds())
    return ctx


def judge(ctx: Context, signature: Signature | None = DIGITS, **config: Any) -> Response | Refusal | None:
    verdict = validate(FakeSignatures(signature), **config).on_request(ctx)
    assert not isinstance(verdict, Promise)
    return verdict


def v2(data: list[float], shape: list[int], name: str = "input", datatype: str = "FP32") -> dict[str, object]:
    return {"inputs": [{"name": name, "shape": shape, "datatype": datatype, "data": data}]}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        pytest.param(V1, {"instances": [[1, 2, 3, 4]]}, id="TensorFlow rows"),
        pytest.param(V1, {"inputs": {"input": [[1, 2, 3, 4]]}}, id="TensorFlow columns"),
        pytest.param(V2, v2([1, 2, 3, 4], [1, 4]), id="KServe"),
    ],
)
def test_what_the_model_takes_passes_and_is_kept_for_others(path: bytes, body: object) -> None:
    ctx = prediction(path, body)
    assert judge(ctx) is None
    assert ctx.parsed is not None
    assert ctx.parsed.inputs[0].shape == (1, 4)


@pytest.mark.parametrize(
    ("path", "body", "code"),
    [
        pytest.param(V1, {"instances": [[1, 2, 3]]}, "wrong_shape", id="TensorFlow: shape"),
        pytest.param(V1, {"instances": [{"image": [1, 2, 3, 4]}]}, "wrong_name", id="TensorFlow: name"),
        pytest.param(V1, {"instances": [["a", "b", "c", "d"]]}, "wrong_dtype", id="TensorFlow: text"),
        pytest.param(V2, v2([1, 2, 3], [1, 3]), "wrong_shape", id="KServe: shape"),
        pytest.param(V2, v2([1, 2, 3, 4], [1, 4], name="image"), "wrong_name", id="KServe: name"),
        pytest.param(V2, v2([1, 2, 3, 4], [1, 4], datatype="INT64"), "wrong_dtype", id="KServe: datatype"),
    ],
)
def test_the_wrong_tensors_get_422_and_the_expected_signature(path: bytes, body: object, code: str) -> None:
    verdict = judge(prediction(path, body))

    assert isinstance(verdict, Refusal)
    assert (verdict.status, verdict.code, verdict.policy) == (422, code, "tidy")
    assert verdict.details["expected"] == EXPECTED
    assert EXPECTED in verdict.message


@pytest.mark.parametrize("path", [V1, V2])
@pytest.mark.parametrize(
    "body", [b"", b"{", b"[1,", b'{"a":1,"a":2}', b"\xff"], ids=["empty", "cut", "list", "twice", "bytes"]
)
def test_what_cannot_be_read_gets_400(path: bytes, body: bytes) -> None:
    verdict = judge(prediction(path, body))
    assert isinstance(verdict, Refusal)
    assert (verdict.status, verdict.policy) == (400, "tidy")


def test_more_rows_than_allowed_are_refused() -> None:
    rows = {"instances": [[1, 2, 3, 4]] * 3}
    assert judge(prediction(V1, rows), rows=3) is None

    verdict = judge(prediction(V1, rows), rows=2)
    assert isinstance(verdict, Refusal)
    assert (verdict.status, verdict.code) == (422, "too_many_rows")
    assert verdict.details == {"rows": 3, "limit": 2}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        pytest.param(V1, {"instances": [[1, 2, 3]]}, id="unreadable without it"),
        pytest.param(V2, v2([1, 2, 3], [1, 3]), id="unjudged without it"),
    ],
)
def test_while_no_instance_has_told_the_signature_requests_pass(path: bytes, body: object) -> None:
    assert judge(prediction(path, body), signature=None) is None


@pytest.mark.parametrize("path", [V1, V2])
def test_a_request_waits_for_the_signature(path: bytes) -> None:
    signatures = FakeSignatures(DIGITS, late=True)
    body = {"instances": [[1, 2, 3]]} if path == V1 else v2([1, 2, 3], [1, 3])
    verdict = validate(signatures).on_request(prediction(path, body))
    assert isinstance(verdict, Promise)
    box: list[object] = []
    verdict.then(box.append, pytest.fail)
    assert box == []

    signatures.arrive()

    (refusal,) = box
    assert isinstance(refusal, Refusal)
    assert refusal.code == "wrong_shape"


def test_other_requests_pass_unread() -> None:
    assert judge(prediction(b"/v1/models/digits/metadata", b"", b"GET")) is None
    plain = make_context(path=b"/orders", body=b"{")
    assert validate(FakeSignatures(DIGITS)).on_request(plain) is None


def test_switched_off_it_reads_nothing() -> None:
    filter = validate(FakeSignatures(DIGITS), on=False)
    assert Chain([filter]).on_request == ()
    assert filter.needs_body is False


def test_a_bound_of_rows_needs_the_check() -> None:
    with pytest.raises(ValueError, match="rows"):
        Validate(on=False, rows=3)
