"""Throttles in tokens and compute: reserved by what is usual, settled by what it was."""

from __future__ import annotations

import pytest

from gateway.filters.throttle import KIND, Throttle
from gateway.filters.throttle_costs import CostThrottle
from gateway.pipeline.errors import Refusal
from gateway.pipeline.promise import Promise
from tests.fakes.traffic import Ledger, Traffic


def used(text: str) -> tuple[Traffic, Ledger, CostThrottle]:
    traffic = Traffic(counters=(ledger := Ledger()))
    (throttle,) = traffic.use(KIND, Throttle.from_text(text))
    assert isinstance(throttle, CostThrottle)
    return traffic, ledger, throttle


def spent(ledger: Ledger) -> float:
    return sum(ledger.balance().values())


def test_a_streams_tokens_are_settled_as_they_pass_and_exactly_at_its_end() -> None:
    traffic, ledger, throttle = used("1000 tokens/s burst 1000")
    ctx = traffic.context()
    assert throttle.on_request(ctx) is None
    assert spent(ledger) == 1
    ctx.attempts = 1
    throttle.on_response_chunk(ctx, b"data: {}\n\n" * 300, False)
    assert spent(ledger) == 300
    throttle.on_response_chunk(ctx, b'data: {"usage": {"total_tokens": 420}}\n\n', True)
    throttle.on_done(ctx)
    assert spent(ledger) == 420


def test_compute_is_the_time_that_instances_worked() -> None:
    traffic, ledger, throttle = used("500 compute/s burst 500")
    ctx = traffic.context()
    assert throttle.on_request(ctx) is None
    ctx.attempts, ctx.upstream_seconds = 1, 0.08
    throttle.on_done(ctx)
    assert spent(ledger) == pytest.approx(80)
    assert throttle.usual["compute"] > 1


def test_what_reached_no_instance_costs_nothing() -> None:
    traffic, ledger, throttle = used("500 compute/s burst 500")
    ctx = traffic.context()
    throttle.on_request(ctx)
    throttle.on_done(ctx)
    assert spent(ledger) == 0


def test_debt_is_waited_out() -> None:
    traffic = Traffic()
    (throttle,) = traffic.use(KIND, Throttle.from_text("100 tokens/s burst 100"))
    ctx = traffic.context()
    throttle.on_request(ctx)
    ctx.attempts = 1
    throttle.on_response_chunk(ctx, b'{"usage": {"total_tokens": 300}}', True)
    throttle.on_done(ctx)
    refusal = throttle.on_request(traffic.context())
    assert isinstance(refusal, Refusal)
    assert refusal.retry_after is not None
    assert refusal.retry_after >= 2.0


# Pacing


def paced() -> Throttle:
    read = Throttle.from_text("10/s burst 1")
    return Throttle(read.rate, burst=1.0, pace=0.25)


def test_who_comes_early_waits_for_its_turn_and_beyond_the_bound_is_refused() -> None:
    traffic = Traffic()
    (throttle,) = traffic.use(KIND, paced())
    verdicts = [throttle.on_request(traffic.context()) for _ in range(4)]
    assert verdicts[0] is None
    assert isinstance(verdicts[3], Refusal)
    came: list[float] = []
    for verdict in verdicts[1:3]:
        assert isinstance(verdict, Promise)
        verdict.then(lambda _: came.append(round(traffic.clock.now() - 1000.0, 3)), pytest.fail)
    for _ in range(30):
        traffic.clock.advance(0.01)
        traffic.timers.fire()
    assert came == [pytest.approx(0.1, abs=0.011), pytest.approx(0.2, abs=0.011)]


def test_a_turn_that_nobody_waits_for_any_more_goes_back() -> None:
    traffic = Traffic()
    (throttle,) = traffic.use(KIND, paced())
    assert throttle.on_request(traffic.context()) is None
    gone = traffic.context()
    assert isinstance(throttle.on_request(gone), Promise)
    throttle.on_done(gone)
    traffic.clock.advance(0.1)
    assert throttle.on_request(traffic.context()) is None


def test_a_limit_of_our_capacity_is_refused_with_503() -> None:
    traffic = Traffic()
    read = Throttle.from_text("10/s burst 1")
    (throttle,) = traffic.use(KIND, Throttle(read.rate, burst=1.0, capacity=True))
    throttle.on_request(traffic.context())
    refusal = throttle.on_request(traffic.context())
    assert isinstance(refusal, Refusal)
    assert (refusal.status, refusal.code) == (503, "rate_limited")
