from __future__ import annotations

import pytest

from gateway.config.units import Duration
from gateway.filters.timeout import KIND, Timeout
from gateway.pipeline.errors import Refusal
from gateway.pipeline.filter import Filter, Rule
from tests.fakes.context import make_context, make_parts


def timeout(total: float, client: bool = True) -> Filter:
    (made,) = KIND.build([Rule(Timeout(Duration(total), client), "digits")], make_parts())
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
