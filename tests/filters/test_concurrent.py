"""Requests under way at once: places are taken, and given back whichever way a request ends."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.filters.concurrent import KIND, Concurrent
from gateway.pipeline.errors import Refusal, UpstreamConnectError
from gateway.pipeline.ports import Principal
from tests.fakes.traffic import Traffic

ALICE = Principal("alice", plan="free", tenant="acme")
BOB = Principal("bob", plan="free", tenant="acme")


@pytest.mark.parametrize(
    ("text", "expected"),
    [("10", Concurrent(10)), ("3 per principal", Concurrent(3, "principal"))],
)
def test_the_short_form_says_it_all(text: str, expected: Concurrent) -> None:
    assert Concurrent.from_text(text) == expected


@pytest.mark.parametrize("text", ["", "ten", "10/s", "10 per nobody"])
def test_what_is_no_number_of_places_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        Concurrent.from_text(text)


def test_one_too_many_is_refused_and_a_place_that_is_free_again_is_taken() -> None:
    traffic = Traffic()
    (places,) = traffic.use(KIND, Concurrent(2, "principal"), policy="free-tier")
    first, second, third = (traffic.context(principal=ALICE) for _ in range(3))
    assert [places.on_request(ctx) for ctx in (first, second)] == [None, None]
    refusal = places.on_request(third)
    assert isinstance(refusal, Refusal)
    assert (refusal.status, refusal.code, refusal.policy) == (429, "too_many_concurrent", "free-tier")
    assert places.on_request(traffic.context(principal=BOB)) is None
    places.on_done(third)
    places.on_done(first)
    assert places.on_request(traffic.context(principal=ALICE)) is None


def test_too_many_of_everybody_is_our_capacity_and_no_quota() -> None:
    traffic = Traffic()
    (places,) = traffic.use(KIND, Concurrent(1))
    assert places.on_request(traffic.context()) is None
    refusal = places.on_request(traffic.context())
    assert isinstance(refusal, Refusal)
    assert refusal.status == 503


def test_several_gateways_have_their_shares() -> None:
    traffic = Traffic(gateways=2)
    (places,) = traffic.use(KIND, Concurrent(4))
    verdicts = [places.on_request(traffic.context()) for _ in range(3)]
    assert [type(verdict) for verdict in verdicts] == [type(None), type(None), Refusal]


@given(
    st.lists(st.tuples(st.sampled_from(["send", "answer", "fail", "leave"]), st.integers(0, 5)), max_size=30)
)
def test_every_place_is_given_back_whichever_way_requests_end(steps: list[tuple[str, int]]) -> None:
    traffic = Traffic()
    (places,) = traffic.use(KIND, Concurrent(3))
    sent = []
    ended: set[int] = set()
    for step, which in steps:
        if step == "send":
            sent.append(traffic.send(principal=ALICE))
        elif step == "leave" and which < len(sent) and not sent[which].ctx.finished:
            sent[which].exchange.on_client_gone()
        elif step in ("answer", "fail") and which < len(traffic.upstream.calls):
            call = traffic.upstream.calls[which]
            if which not in ended and not call.cancelled:
                ended.add(which)
                if step == "answer":
                    call.answer()
                else:
                    call.fail(UpstreamConnectError("gone"))
        under_way = sum(not s.ctx.finished for s in sent)
        assert sum(places.under_way.values()) == under_way <= 3
    for one in sent:
        if not one.ctx.finished:
            one.exchange.on_client_gone()
    assert places.under_way == {}
