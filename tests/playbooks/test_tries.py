"""Playbooks of several attempts: pauses, hedges in every order, deadlines, and what is told of them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from gateway.config.units import Duration
from gateway.http.message import Headers, Response
from gateway.pipeline.context import Context
from gateway.pipeline.errors import (
    GatewayError,
    Overloaded,
    UpstreamConnectError,
    UpstreamRefused,
    UpstreamReset,
    UpstreamTimeout,
)
from gateway.pipeline.filter import Filter
from gateway.pipeline.pool_verbs import Breaker, Concurrency, Eject, Hedge, PerTryTimeout, PoolSettings, Retry
from tests.playbooks.stage import Stage

HEDGED = PoolSettings(hedge=Hedge(at="50ms"))


def hedged(**options: object) -> Stage:
    """A stage whose pool asks a second instance after 50 ms."""
    return Stage(settings=HEDGED, **options)  # type: ignore[arg-type]


def wait(stage: Stage, seconds: float) -> None:
    stage.clock.advance(seconds)
    stage.timers.fire()


def ended(stage: Stage) -> list[tuple[str, str, str]]:
    return [(one.instance, one.kind, one.ended) for one in stage.ctx.tries or ()]


# Hedges: who wins, in every order


def test_an_answer_before_its_time_needs_no_second_one() -> None:
    stage = hedged()
    stage.start()
    wait(stage, 0.049)
    stage.respond(200)
    assert stage.log == ["send a", "reply 200", "done 200"]
    assert stage.ctx.tries is None
    stage.assert_all_released()


def test_the_hedge_answers_first_and_the_first_try_is_cut_off() -> None:
    stage = hedged()
    stage.start()
    wait(stage, 0.05)
    assert stage.log == ["send a", "send b"]
    stage.calls[1].sink.on_response(Response(200, [], b"from b"))
    assert stage.log == ["send a", "send b", "cancel a", "reply 200", "done 200"]
    assert ended(stage) == [("a", "first", "slower"), ("b", "hedge", "answered")]
    assert stage.ctx.instance is not None
    assert stage.ctx.instance.id == "b"
    stage.calls[0].sink.on_response(Response(200, [], b"late"))
    assert len(stage.log) == 5
    stage.assert_all_released()


def test_the_first_try_answers_after_all_and_the_hedge_is_cut_off() -> None:
    stage = hedged()
    stage.start()
    wait(stage, 0.05)
    stage.calls[0].sink.on_response(Response(200, [], b"from a"))
    assert stage.log == ["send a", "send b", "cancel b", "reply 200", "done 200"]
    assert ended(stage) == [("b", "hedge", "slower"), ("a", "first", "answered")]
    assert stage.ctx.instance is not None
    assert stage.ctx.instance.id == "a"
    stage.assert_all_released()


def test_the_loser_is_nobodys_failure_and_nobodys_success() -> None:
    stage = Stage(settings=PoolSettings(hedge=Hedge(at="50ms"), breaker=Breaker(min_calls=1)))
    stage.start()
    wait(stage, 0.05)
    stage.calls[1].sink.on_response(Response(200, [], b"ok"))
    a, b = stage.pool.members.instances
    assert (a.successes, a.failures, b.successes, b.failures) == (0, 0, 1, 0)
    assert a.usable(stage.clock.now())


def test_the_winners_body_streams_and_the_losers_bytes_go_nowhere() -> None:
    stage = hedged()
    exchange = stage.start()
    wait(stage, 0.05)
    stage.calls[1].sink.on_response(Response(200, [], None))
    stage.calls[0].sink.on_chunk(b"wrong", False)
    stage.calls[1].sink.on_chunk(b"right", False)
    exchange.on_writable(False)
    stage.calls[1].sink.on_chunk(b"", True)
    assert stage.log[2:] == [
        "cancel a",
        "begin 200",
        "resume b",
        "data b'right'",
        "pause b",
        "end",
        "done 200",
    ]
    stage.assert_all_released()


@pytest.mark.parametrize("first_to_fail", [0, 1], ids=["first try", "hedge"])
@pytest.mark.parametrize("error", [UpstreamReset("x"), UpstreamTimeout("x"), UpstreamConnectError("x")])
def test_when_one_of_two_fails_the_other_decides(first_to_fail: int, error: GatewayError) -> None:
    stage = hedged()
    stage.start()
    wait(stage, 0.05)
    stage.calls[first_to_fail].sink.on_error(error)
    assert stage.log == ["send a", "send b"]
    stage.calls[1 - first_to_fail].sink.on_response(Response(200, [], b"ok"))
    assert stage.log[2:] == ["reply 200", "done 200"]
    stage.assert_all_released()


@pytest.mark.parametrize("first", [0, 1])
def test_a_failing_answer_loses_to_one_that_is_still_under_way(first: int) -> None:
    stage = hedged()
    stage.start()
    wait(stage, 0.05)
    stage.calls[first].sink.on_response(Response(500, [], b"bad"))
    stage.calls[1 - first].sink.on_response(Response(200, [], b"good"))
    assert stage.log == ["send a", "send b", f"cancel {'ab'[first]}", "reply 200", "done 200"]
    assert stage.pool.members.instances[first].failures == 1
    stage.assert_all_released()


def test_when_both_fail_the_last_failure_may_be_retried() -> None:
    stage = Stage(settings=HEDGED, instances=("a", "b", "c"))
    stage.start()
    wait(stage, 0.05)
    stage.calls[0].sink.on_error(UpstreamReset("x"))
    stage.calls[1].sink.on_error(UpstreamReset("x"))
    stage.respond(200)
    assert stage.log == ["send a", "send b", "send c", "reply 200", "done 200"]
    assert ended(stage) == [("a", "first", "reset"), ("b", "hedge", "reset"), ("c", "retry", "answered")]
    stage.assert_all_released()


def test_when_both_fail_and_nobody_is_left_the_request_fails() -> None:
    stage = hedged()
    stage.start()
    wait(stage, 0.05)
    stage.calls[1].sink.on_error(UpstreamReset("x"))
    stage.calls[0].sink.on_error(UpstreamReset("x"))
    assert stage.log[2:] == ["reply 502", "done 502"]
    stage.assert_all_released()


def test_a_first_try_that_fails_before_its_time_is_retried_and_not_hedged() -> None:
    stage = Stage(settings=HEDGED, instances=("a", "b", "c"))
    stage.start()
    stage.sink.on_error(UpstreamReset("x"))
    wait(stage, 1.0)
    assert stage.log == ["send a", "send b"]
    stage.respond(200)
    stage.assert_all_released()


@pytest.mark.parametrize("headed", [False, True], ids=["before a head", "while one streams"])
def test_the_client_leaves_while_two_are_under_way(headed: bool) -> None:
    stage = hedged()
    exchange = stage.start()
    wait(stage, 0.05)
    if headed:
        stage.calls[1].sink.on_response(Response(200, [], None))
    exchange.on_client_gone()
    assert sorted(line for line in stage.log if line.startswith("cancel")) == ["cancel a", "cancel b"]
    assert all(one.failures == one.successes == 0 for one in stage.pool.members.instances)
    stage.assert_all_released()


def test_the_client_leaves_before_the_hedge() -> None:
    stage = hedged()
    exchange = stage.start()
    exchange.on_client_gone()
    wait(stage, 1.0)
    assert stage.log == ["send a", "cancel a", "done 499"]
    stage.assert_all_released()


# Hedges: when there is none


class Safe(Filter):
    def on_request(self, ctx: Context) -> None:
        ctx.safe_to_retry = True


@pytest.mark.parametrize(
    ("filters", "start", "sends"),
    [
        ([], {"method": b"GET"}, 2),
        ([], {"method": b"POST", "body": b"{}"}, 1),
        ([Safe()], {"method": b"POST", "body": b"{}"}, 2),
        ([], {"method": b"PUT", "body": None, "length": 500}, 1),
    ],
    ids=["get", "post", "post declared safe", "a body that is not kept"],
)
def test_only_what_may_be_sent_twice_is_hedged(
    filters: list[Filter], start: dict[str, object], sends: int
) -> None:
    stage = Stage(filters, settings=HEDGED)
    stage.start(**start)  # type: ignore[arg-type]
    wait(stage, 0.05)
    assert len(stage.calls) == sends
    assert stage.exchange is not None
    stage.exchange.on_client_gone()
    stage.assert_all_released()


def no_budget(stage: Stage) -> None:
    while stage.pool.retry_budget.spend(stage.clock.now()):
        pass


def under_pressure(stage: Stage) -> None:
    stage.gateway.pressure.level = 0.1


def full(stage: Stage) -> None:
    stage.pool.in_flight = 9


def alone(stage: Stage) -> None:
    stage.pool.members.instances[1].healthy = False


@pytest.mark.parametrize("hinder", [no_budget, under_pressure, full, alone])
def test_no_hedge_without_budget_room_or_a_second_instance(hinder: Callable[[Stage], None]) -> None:
    settings = PoolSettings(hedge=Hedge(at="50ms"), retry=Retry(floor=0.9), concurrency=Concurrency(limit=10))
    stage = Stage(settings=settings)
    stage.start()
    hinder(stage)
    wait(stage, 0.05)
    assert stage.log == ["send a"]


def test_no_hedge_until_enough_answers_were_measured() -> None:
    stage = Stage(settings=PoolSettings(hedge=Hedge(at="p90", warm_up=10, at_least=Duration(0.001))))
    for _ in range(10):
        stage.start()
        assert stage.timers.live == 0
        stage.clock.advance(0.010)
        stage.respond(200)
    stage.log.clear()
    stage.start()
    (timer,) = [timer for timer in stage.timers.timers if timer.live]
    assert timer.deadline - stage.clock.now() == pytest.approx(0.010, rel=0.15)
    wait(stage, 0.012)
    assert stage.log == ["send a", "send b"]


def test_a_first_try_that_was_cut_off_counts_as_long_as_it_was_waited_for() -> None:
    stage = Stage(settings=PoolSettings(hedge=Hedge(at="p90", warm_up=10), retry=Retry(floor=1000.0)))
    hedging = stage.pool.hedging
    assert hedging is not None
    for _ in range(10):
        hedging.observe(0.010, stage.clock.now())
    for _ in range(200):
        stage.start()
        wait(stage, (hedging.delay() or 0.0) + 1e-6)
        stage.clock.advance(0.001)
        stage.sink.on_response(Response(200, [], b"from the hedge, within a millisecond"))
    assert stage.log.count("cancel a") == 200
    delay = hedging.delay()
    assert delay is not None
    assert delay > 0.009  # of the winners' times alone the quantile would be a millisecond


def test_hedges_and_retries_spend_one_budget() -> None:
    stage = Stage(settings=PoolSettings(hedge=Hedge(at="50ms"), retry=Retry(floor=1.0)))
    stage.start()
    wait(stage, 0.05)
    assert stage.log == ["send a", "send b"]
    assert stage.pool.retry_budget.spent == 1
    stage.calls[0].sink.on_error(UpstreamReset("x"))
    stage.calls[1].sink.on_error(UpstreamReset("x"))
    assert stage.log[2:] == ["reply 502", "done 502"]


# Retries by cause


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (UpstreamConnectError("x"), "connect"),
        (UpstreamRefused("x"), "refused"),
        (UpstreamReset("x"), "reset"),
        (UpstreamTimeout("x"), "timeout"),
    ],
)
@pytest.mark.parametrize("listed", [True, False])
def test_each_cause_is_retried_where_the_policy_lists_it(
    error: GatewayError, cause: str, listed: bool
) -> None:
    causes = (cause,) if listed else ("502",)
    stage = Stage(settings=PoolSettings(retry=Retry(on=causes)))  # type: ignore[arg-type]
    stage.start()
    stage.sink.on_error(error)
    assert (stage.log == ["send a", "send b"]) is listed
    assert ended(stage) == [("a", "first", cause)]


def test_a_refused_stream_is_retried_whatever_the_method() -> None:
    stage = Stage()
    stage.start(b"POST", body=b"{}")
    stage.sink.on_error(UpstreamRefused("goaway"))
    stage.respond(200)
    assert stage.log == ["send a", "send b", "reply 200", "done 200"]


def test_a_body_of_which_nothing_was_asked_for_goes_to_another_instance() -> None:
    stage = Stage(replay_limit=0)
    exchange = stage.start(b"POST", body=None, length=500)
    stage.sink.on_error(UpstreamConnectError("refused"))
    stage.sink.on_ready()
    exchange.on_body(b"x" * 500, True)
    stage.respond(200)
    assert stage.log[:3] == ["send a", "send b", "proceed"]
    assert stage.log[-1] == "done 200"
    stage.assert_all_released()


def test_every_further_try_says_which_it_is() -> None:
    stage = Stage()
    stage.start(headers=[(b"x-headgate-attempt", b"9")])
    stage.sink.on_error(UpstreamReset("x"))
    numbers = [[v for k, v in request.headers if k == b"x-headgate-attempt"] for request in stage.sent]
    assert numbers == [[], [b"2"]]


def test_the_only_instance_is_tried_again_after_a_pause_by_chance() -> None:
    stage = Stage(instances=["a"])
    stage.ids.fixed = 0.5
    stage.start()
    stage.sink.on_error(UpstreamReset("x"))
    assert stage.log == ["send a"]
    wait(stage, 0.012)
    assert stage.log == ["send a"]
    wait(stage, 0.001)  # half of 25 ms
    assert stage.log == ["send a", "send a"]
    stage.sink.on_error(UpstreamReset("x"))
    wait(stage, 0.024)
    assert len(stage.log) == 2
    wait(stage, 0.002)  # half of twice that
    stage.respond(200)
    assert stage.log == ["send a", "send a", "send a", "reply 200", "done 200"]
    stage.assert_all_released()


def test_the_client_leaves_during_a_pause() -> None:
    stage = Stage(instances=["a"])
    exchange = stage.start()
    stage.sink.on_error(UpstreamReset("x"))
    exchange.on_client_gone()
    wait(stage, 1.0)
    assert stage.log == ["send a", "done 499"]
    stage.assert_all_released()


def test_no_pause_reaches_beyond_the_deadline() -> None:
    stage = Stage(instances=["a"], timeout=0.01)
    stage.start()
    stage.sink.on_error(UpstreamReset("x"))
    assert stage.log == ["send a", "reply 502", "done 502"]
    stage.assert_all_released()


@pytest.mark.parametrize(
    ("status", "asked", "log"),
    [
        (503, None, ["send a", "cancel a", "send b"]),
        (503, b"1", ["send a", "cancel a"]),  # a pause first
        (503, b"11", ["send a", "reply 503", "done 503"]),  # later than the deadline
        (503, b"99999999999", ["send a", "reply 503", "done 503"]),
        (503, b"soon", ["send a", "cancel a"]),
        (502, b"1", ["send a", "cancel a", "send b"]),
        (500, None, ["send a", "cancel a", "send b"]),
        (429, None, ["send a", "reply 429", "done 429"]),
    ],
)
def test_what_an_instance_asks_for_is_heard(status: int, asked: bytes | None, log: list[str]) -> None:
    stage = Stage(timeout=10.0)
    stage.start()
    headers: Headers = [] if asked is None else [(b"retry-after", asked)]
    stage.sink.on_response(Response(status, headers, b""))
    assert stage.log == log


def test_a_date_to_come_back_at_is_understood() -> None:
    stage = Stage(timeout=10.0)
    stage.clock.time = 1_790_000_000.0 - 1_789_999_000.0
    stage.start()
    stage.sink.on_response(Response(503, [(b"retry-after", b"Fri, 31 Dec 2100 23:59:59 GMT")], b""))
    assert stage.log == ["send a", "reply 503", "done 503"]


def test_a_dead_instance_costs_no_budget_and_a_total_outage_does() -> None:
    settings = PoolSettings(eject=Eject(max_share=Duration(0.5)), retry=Retry(floor=0.0))  # type: ignore[arg-type]
    stage = Stage(settings=settings, instances=("a", "b", "c"))
    attempts = 0
    for _ in range(100):
        stage.start()
        while not stage.log[-1].startswith("done"):
            attempts += 1
            stage.sink.on_error(UpstreamConnectError("refused"))
            stage.timers.fire()
    assert attempts <= 101  # one free try, when the first of three was taken out


# Deadlines


class Deadline(Filter):
    """What `timeout` does: a wish of the client, and instances are told."""

    def __init__(self, seconds: float, hurried: bool = False, tell: bytes = b"") -> None:
        self.seconds, self.hurried, self.tell = seconds, hurried, tell

    def on_request(self, ctx: Context) -> None:
        ctx.deadline = ctx.started + self.seconds
        ctx.hurried = self.hurried
        ctx.tell_time = self.tell


def test_each_try_is_told_the_time_it_has() -> None:
    settings = PoolSettings(per_try_timeout=PerTryTimeout(Duration(0.8)))
    stage = Stage([Deadline(1.0, tell=b"x-request-timeout-ms")], settings=settings)
    stage.start(headers=[(b"x-request-timeout-ms", b"5000")])
    stage.clock.advance(0.75)
    stage.sink.on_error(UpstreamReset("x"))
    told = [[v for k, v in request.headers if k == b"x-request-timeout-ms"] for request in stage.sent]
    assert told == [[b"800"], [b"250"]]


@pytest.mark.parametrize(
    ("hurried", "given", "usual", "failures"),
    [
        (False, 0.02, 0.1, 1),  # the policy's own time: it must do with that
        (True, 0.02, 0.1, 0),  # a fifth of what it needs
        (True, 0.5, 0.1, 1),  # five times what it needs
        (True, 0.02, 0.0, 0),  # nobody knows what it needs
    ],
)
def test_a_hurried_clients_timeout_is_held_against_nobody(
    hurried: bool, given: float, usual: float, failures: int
) -> None:
    stage = Stage([Deadline(given, hurried)], instances=["a"])
    (a,) = stage.pool.members.instances
    a.last_good = usual
    stage.start()
    stage.clock.advance(given)
    stage.sink.on_error(UpstreamTimeout("late"))
    assert stage.log == ["send a", "reply 504", "done 504"]
    assert stage.answer is not None
    assert stage.answer.header(b"x-headgate-reason") == b"upstream_timeout"
    assert a.failures == failures


@pytest.mark.parametrize("error", [UpstreamConnectError("slow"), Overloaded("full")])
def test_waiting_for_a_connection_until_the_deadline_is_a_timeout(error: GatewayError) -> None:
    stage = Stage(timeout=1.0)
    stage.start()
    stage.clock.advance(1.0)
    stage.sink.on_error(error)
    assert stage.log == ["send a", "reply 504", "done 504"]
    assert stage.answer is not None
    assert stage.answer.header(b"x-headgate-reason") == b"upstream_timeout"
    stage.assert_all_released()


def test_nothing_is_sent_after_a_filter_waited_too_long() -> None:
    from gateway.pipeline.promise import Promise

    class Waiting(Filter):
        promise: Promise[None] = Promise()

        def on_request(self, ctx):  # type: ignore[no-untyped-def]
            return self.promise

    waiting = Waiting()
    stage = Stage([waiting], timeout=1.0)
    stage.start()
    stage.clock.advance(1.5)  # the timer that guards the wait is swept late
    waiting.promise.resolve(None)
    assert stage.log == ["reply 504", "done 504"]
    stage.assert_all_released()


def test_nothing_is_sent_after_the_body_took_too_long() -> None:
    stage = Stage(timeout=1.0)
    exchange = stage.start(b"POST", body=None, length=4)
    stage.clock.advance(1.5)
    exchange.on_body(b"late", True)
    assert stage.log == ["proceed", "reply 504", "done 504"]
    stage.assert_all_released()


def test_nothing_is_sent_when_the_deadline_passed_during_a_pause() -> None:
    stage = Stage(instances=["a"], timeout=1.0)
    stage.start()
    stage.sink.on_error(UpstreamReset("x"))
    wait(stage, 1.5)  # the loop was busy
    assert stage.log == ["send a", "reply 504", "done 504"]
    stage.assert_all_released()


def test_no_hedge_is_sent_after_the_deadline() -> None:
    stage = hedged(timeout=0.06)
    stage.start()
    wait(stage, 0.07)
    assert stage.log == ["send a"]


def test_a_bug_in_a_hedge_or_after_a_pause_is_a_500() -> None:
    stage = hedged()
    stage.start()

    def broken(*_: object) -> None:
        raise ZeroDivisionError

    stage.send = broken  # type: ignore[method-assign, assignment]
    wait(stage, 0.05)
    assert stage.log == ["send a", "cancel a", "reply 500", "done 500"]
    stage.assert_all_released()
