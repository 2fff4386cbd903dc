"""From a No to its response: the same code in every dialect, and nothing of our inside."""

from __future__ import annotations

from math import inf

import orjson
import pytest

from gateway.dialects.catalogue import recognise
from gateway.http.message import Response
from gateway.pipeline import answer
from gateway.pipeline.chain import Chain
from gateway.pipeline.context import Context
from gateway.pipeline.errors import Overloaded, Refusal, UpstreamConnectError
from gateway.pipeline.snapshot import Endpoint, Found
from tests.fakes.context import make_context

PATHS = {
    "tensorflow-serving": b"/v1/models/digits:predict",
    "kserve-v2": b"/v2/models/digits/infer",
    "by path": b"/orders/7",
}


def context(path: bytes = PATHS["by path"]) -> Context:
    ctx = make_context(path=path)
    ctx.request_id = b"f" * 32
    ctx.target = recognise(b"POST", path)
    ctx.dialect = None if ctx.target is None else ctx.target.dialect
    return ctx


def text(response: Response) -> str:
    assert response.body is not None
    return response.body.decode()


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
def test_a_refusal_carries_its_code_policy_and_patience_in_every_dialect(path: bytes) -> None:
    refusal = Refusal(429, "throttled", "5/s is used up", retry_after=0.2, headers=[(b"x-more", b"1")])
    refusal.policy = "free-tier"
    response = answer.refused(context(path), refusal)
    fields = dict(response.headers)
    assert response.status == 429
    assert (fields[b"x-headgate-reason"], fields[b"x-headgate-policy"]) == (b"throttled", b"free-tier")
    assert (fields[b"retry-after"], fields[b"cache-control"], fields[b"x-more"]) == (b"1", b"no-store", b"1")
    assert "5/s is used up" in text(response)
    assert "throttled" in text(response)
    assert "f" * 32 in text(response)


def test_what_no_dialect_names_is_answered_as_problem_details() -> None:
    response = answer.refused(context(), Refusal(403, "not_allowed", "no"))
    told = orjson.loads(response.body or b"")
    assert response.header(b"content-type") == b"application/problem+json"
    assert (told["type"], told["title"], told["status"]) == ("urn:headgate:not_allowed", "Forbidden", 403)
    assert "policy" not in told
    assert response.header(b"x-headgate-policy") is None


@pytest.mark.parametrize(
    ("wait", "field"), [(0.0, b"1"), (0.2, b"1"), (1.0, b"1"), (1.2, b"2"), (inf, None), (None, None)]
)
def test_patience_is_asked_for_in_whole_seconds_or_not_at_all(
    wait: float | None, field: bytes | None
) -> None:
    response = answer.refused(context(), Refusal(429, "throttled", "no", retry_after=wait))
    assert response.header(b"retry-after") == field
    assert ("retry_after" in text(response)) == (field is not None)


def test_a_failure_tells_its_code_and_no_address() -> None:
    response = answer.failed(context(), UpstreamConnectError())
    assert response.status == UpstreamConnectError.status
    assert response.header(b"x-headgate-reason") == UpstreamConnectError.code.encode()
    assert text(response)


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
def test_a_bug_tells_nothing_but_the_request_id(path: bytes) -> None:
    response = answer.crashed(context(path))
    assert (response.status, response.header(b"x-headgate-reason")) == (500, b"internal")
    assert "f" * 32 in text(response)
    assert "Traceback" not in text(response)


def test_what_nobody_takes_is_told_apart() -> None:
    by_path, model = context(), context(PATHS["kserve-v2"])
    nobody = answer.without_endpoint(by_path, Found(None, None))
    unknown = answer.without_endpoint(model, Found(None, model.target))
    method = answer.without_endpoint(by_path, Found(None, None, ("GET", "PUT")))
    assert isinstance(nobody, Refusal)
    assert isinstance(unknown, Refusal)
    assert isinstance(method, Refusal)
    assert (nobody.status, nobody.code) == (404, "unknown_endpoint")
    assert (unknown.status, unknown.code) == (404, "unknown_model")
    assert (method.status, method.code, dict(method.headers)[b"allow"]) == (
        405,
        "method_not_allowed",
        b"GET, PUT",
    )


def test_a_full_pool_is_told_in_bytes_made_before_as_any_other_failure_would_be() -> None:
    for policy, seconds in (("", 0.2), ("api", 3.2), ("api", 1.0)):
        ctx = context()
        ctx.endpoint = None if not policy else Endpoint(policy, Chain(()), None)
        fast = answer.failed(ctx, Overloaded("pool 'a' is full", seconds))
        slow = answer._answer(ctx, 503, "overloaded", "pool 'a' is full", policy, seconds, {})
        assert orjson.loads(fast.body or b"") == orjson.loads(slow.body or b"")
        assert sorted(fast.headers) == sorted(slow.headers)
        assert fast.status == slow.status


def test_a_full_pool_without_a_time_to_come_back_says_none() -> None:
    assert answer.failed(context(), Overloaded("full", None)).header(b"retry-after") is None


def test_an_odd_policy_name_makes_no_odd_header() -> None:
    refusal = Refusal(403, "not_allowed", "no")
    refusal.policy = "räumlich ✓"
    assert answer.refused(context(), refusal).header(b"x-headgate-policy") == "räumlich ?".encode("latin-1")
