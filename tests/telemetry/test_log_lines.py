"""Lines by hand say what lines the general way say."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.pipeline.context import Context
from gateway.pipeline.errors import Refusal
from gateway.pipeline.ports import Principal
from gateway.telemetry import log_lines
from gateway.telemetry.log_lines import KEPT, Lines, line, record
from tests.fakes.context import make_context
from tests.fakes.traffic import Traffic, instances

EPOCH = 1_790_000_000.0

texts = st.text(max_size=20)
seconds = st.floats(0.0, 100.0)


@st.composite
def requests(draw: st.DrawFn) -> Context:
    principal = st.none() | st.builds(Principal, texts, plan=texts, tenant=texts)
    ctx = make_context(path=b"/" + draw(st.binary(max_size=20)), principal=draw(principal))
    ctx.request_id, ctx.status = b"f" * 32, draw(st.integers(200, 599))
    ctx.client = draw(texts)
    ctx.started = draw(seconds)
    ctx.finished = ctx.started + draw(seconds)
    ctx.upstream_seconds = draw(seconds)
    ctx.attempts = draw(st.integers(0, 1))
    ctx.body_received, ctx.body_sent = draw(st.integers(0, 2**40)), draw(st.integers(0, 2**40))
    ctx.version, ctx.arm, ctx.answered_by = draw(texts), draw(texts), draw(texts)
    ctx.cache_status = draw(st.binary(max_size=10))
    return ctx


def assert_the_same(ctx: Context, lines: Lines) -> None:
    by_hand = lines.of(ctx, EPOCH)
    assert by_hand.endswith(b"}\n")
    assert by_hand.count(b"\n") == 1
    told, meant = json.loads(by_hand), json.loads(line(record(ctx, EPOCH)))
    assert list(told) == list(meant)  # in the same order, too
    for name in ("time", "ms", "upstream_ms"):
        assert told.pop(name, 0.0) == pytest.approx(meant.pop(name, 0.0), rel=0, abs=0.0011)
    assert told == meant


@given(st.lists(requests(), min_size=1, max_size=3))
def test_a_line_by_hand_says_what_the_general_way_says(asked: list[Context]) -> None:
    lines = Lines()
    for ctx in asked * 2:  # the second time from what is remembered
        assert_the_same(ctx, lines)


def test_what_went_through_the_pipeline_is_told_alike() -> None:
    traffic = Traffic(versions={"1": "digits-v1"})
    traffic.who = Principal("alice", plan="free", tenant="acme")
    traffic.send(body=instances([[1, 2]]))
    traffic.clock.advance(0.25)
    traffic.upstream.calls[0].answer(b'{"predictions": []}')
    (ctx,) = traffic.observer.done
    assert b'"upstream_ms":250.000' in Lines().of(ctx, EPOCH)
    assert_the_same(ctx, Lines())


def test_what_is_to_be_explained_goes_the_general_way() -> None:
    ctx = make_context(principal=Principal("torn \ud800 name"))
    ctx.refusal = Refusal(429, "throttled", "5/s per principal is used up")
    assert Lines().of(ctx, EPOCH) == line(record(ctx, EPOCH))


def test_half_a_surrogate_pair_is_escaped_by_hand_too() -> None:
    ctx = make_context(principal=Principal("torn \ud800 name"))
    ctx.finished = ctx.started
    assert_the_same(ctx, Lines())


@pytest.mark.parametrize(
    ("instant", "written"),
    [(1.0004, b"1.000"), (1.0006, b"1.001"), (1.9996, b"2.000"), (59.25, b"59.250")],
    ids=["down", "up", "into the next second", "exact"],
)
def test_time_is_rounded_to_the_millisecond(instant: float, written: bytes) -> None:
    ctx = make_context()
    ctx.finished = instant
    assert Lines().of(ctx, 0.0).startswith(b'{"time":' + written + b",")


def test_texts_that_clients_make_up_are_remembered_within_bounds() -> None:
    lines = Lines()
    for number in range(KEPT + 10):
        lines.of(make_context(path=b"/%d" % number), EPOCH)
    lines.of(make_context(path=b"/" + bytes(log_lines.LONGEST_KEPT)), EPOCH)
    assert len(lines._raw) < KEPT
    assert not any(len(path) > log_lines.LONGEST_KEPT for path in lines._raw)
