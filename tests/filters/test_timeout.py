from __future__ import annotations

import pytest

from gateway.config.units import Duration
from gateway.filters.timeout import KIND, Timeout
from gateway.pipeline.errors import Refusal
from gateway.pipeline.filter import Filter, Rule
from tests.fakes.context import make_context, make_parts


def timeout(total: float, client: bool = True, tell: bool = True) -> Filter:
    (made,) = KIND.build([Rule(Timeout(Duration(total), client, tell), "digits")], make_parts())
    return made


def test_the_deadline_counts_from_the_requests_head() -> None:
    ctx = make_context(now=1000.0)
    ctx.now = 1000.7
    assert timeout(2.0).on_request(ctx) is None
    assert ctx.deadline == 1002.0


@pytest.mark.parametrize(("wished", "deadline"), [(b"500", 1000.5), (b"2000", 1002.0), (b"60000", 1002.0)])
def test_a_client_may_shorten_it_and_never_lengthen_it(wished: bytes, deadline: float) -> None:
    ctx = make_context((b"x-request-timeout-ms", wished))
    assert timeout(2.0).on_request(ctx) is None
    assert ctx.deadline == deadline


@pytest.mark.parametrize("wished", [b"", b"0", b"000", b"-5", b"1.5", b"2s", b" 5", b"1" * 10, "٣".encode()])
def test_a_wish_that_cannot_be_read_is_refused(wished: bytes) -> None:
    verdict = timeout(2.0).on_request(make_context((b"x-request-timeout-ms", wished)))
    assert isinstance(verdict, Refusal)
    assert (verdict.status, verdict.code, verdict.policy) == (400, "bad_timeout", "digits")


def test_the_policy_may_ignore_clients() -> None:
    ctx = make_context((b"x-request-timeout-ms", b"1"))
    assert timeout(2.0, client=False).on_request(ctx) is None
    assert ctx.deadline == 1002.0


@pytest.mark.parametrize(
    ("fields", "deadline"),
    [
        ([(b"grpc-timeout", b"250m")], 1000.25),
        ([(b"grpc-timeout", b"1H")], 1002.0),
        ([(b"grpc-timeout", b"1S"), (b"x-request-timeout-ms", b"300")], 1000.3),
        ([(b"grpc-timeout", b"100m"), (b"x-request-timeout-ms", b"300")], 1000.1),
    ],
    ids=["shorter", "longer", "both, ours shorter", "both, theirs shorter"],
)
def test_grpc_timeouts_count_as_well_and_the_shorter_wins(
    fields: list[tuple[bytes, bytes]], deadline: float
) -> None:
    ctx = make_context(*fields)
    assert timeout(2.0).on_request(ctx) is None
    assert ctx.deadline == deadline
    assert ctx.hurried is (deadline < 1002.0)


@pytest.mark.parametrize("wished", [b"", b"5", b"m", b"123456789m", b"-1S", b"1.5S", b"1s"])
def test_a_grpc_timeout_that_cannot_be_read_is_refused(wished: bytes) -> None:
    verdict = timeout(2.0).on_request(make_context((b"grpc-timeout", wished)))
    assert isinstance(verdict, Refusal)
    assert (verdict.status, verdict.code) == (400, "bad_timeout")


def test_instances_are_told_unless_the_policy_says_no() -> None:
    ctx = make_context()
    timeout(2.0).on_request(ctx)
    assert ctx.tell_time == b"x-request-timeout-ms"
    ctx = make_context((b"content-type", b"application/grpc+proto"))
    timeout(2.0).on_request(ctx)
    assert ctx.tell_time == b"grpc-timeout"
    ctx = make_context()
    timeout(2.0, tell=False).on_request(ctx)
    assert ctx.tell_time == b""
