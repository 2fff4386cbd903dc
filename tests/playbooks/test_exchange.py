"""Playbooks of one request: events in, and everything that happened, in order."""

from __future__ import annotations

import pytest

from gateway.http.message import Response
from gateway.pipeline.errors import (
    BadBody,
    Refusal,
    UpstreamClosedIdle,
    UpstreamConnectError,
    UpstreamReset,
    UpstreamTimeout,
)
from gateway.pipeline.filter import Filter
from gateway.pipeline.pool_verbs import Breaker, PoolSettings, Retry
from tests.playbooks.stage import Noting, Stage, make_pool

NO_RETRY = PoolSettings(retry=Retry(attempts=0))


def with_filters(*names: str, **told: object) -> Stage:
    """A stage with noting filters; keyword `b=…` gives filter b its verdict."""
    log: list[str] = []
    stage = Stage([Noting(log, name, told.get(name)) for name in names])  # type: ignore[arg-type]
    stage.log = log
    return stage


# Success


def test_a_request_passes_the_filters_forth_and_its_answer_back_in_reverse() -> None:
    stage = with_filters("a", "b")
    stage.start()
    stage.respond(200, b"hello")
    assert stage.log == [
        "a request",
        "b request",
        "send a",
        "b response 200",
        "a response 200",
        "reply 200",
        "b done",
        "a done",
        "done 200",
    ]
    assert stage.answer is not None
    assert stage.answer.body == b"hello"
    assert stage.answer.header(b"x-request-id") == stage.ctx.request_id
    stage.assert_all_released()


def test_an_answer_in_pieces_is_streamed_as_it_comes() -> None:
    stage = Stage()
    stage.start()
    stage.respond(200, None)
    stage.sink.on_chunk(b"one", False)
    stage.sink.on_chunk(b"two", True)
    assert stage.log == [
        "send a",
        "begin 200",
        "resume a",
        "data b'one'",
        "data b'two'",
        "end",
        "done 200",
    ]
    assert stage.ctx.body_sent == 6
    stage.assert_all_released()


def test_a_slow_client_pauses_the_instance_and_a_slow_instance_the_client() -> None:
    stage = Stage(replay_limit=0)
    exchange = stage.start(b"POST", body=None, length=500)
    stage.sink.on_ready()
    exchange.on_body(b"x" * 250, False)
    stage.sink.on_writable(False)
    stage.sink.on_writable(True)
    exchange.on_body(b"y", True)
    stage.respond(200, None)
    exchange.on_writable(False)
    exchange.on_writable(True)
    stage.sink.on_chunk(b"", True)
    assert [line for line in stage.log if "write" not in line] == [
        "send a",
        "proceed",
        "pause body",
        "resume body",
        "begin 200",
        "resume a",
        "pause a",
        "resume a",
        "end",
        "done 200",
    ]
    stage.assert_all_released()


def test_a_small_body_is_read_whole_first_so_that_it_can_be_sent_twice() -> None:
    stage = Stage()
    exchange = stage.start(b"POST", body=None, length=4)
    assert stage.log == ["proceed"]
    exchange.on_body(b"ab", False)
    exchange.on_body(b"cd", True)
    assert stage.log == ["proceed", "send a"]
    assert stage.sent[0].body == b"abcd"
    stage.respond()
    stage.assert_all_released()


def test_a_filter_that_needs_the_body_waits_for_it_and_those_before_it_do_not() -> None:
    log: list[str] = []
    stage = Stage([Noting(log, "a"), Noting(log, "b", needs_body=True)])
    stage.log = log
    exchange = stage.start(b"POST", body=None, length=None)
    assert log == ["a request", "proceed"]
    exchange.on_body(b"body", True)
    assert log == ["a request", "proceed", "b request", "send a"]
    stage.respond()
    stage.assert_all_released()


# Answers and refusals by filters


@pytest.mark.parametrize("position", [0, 1, 2])
def test_a_refusal_at_each_filter_stops_there_and_only_reached_filters_see_the_answer(position: int) -> None:
    names = ("a", "b", "c")
    stage = with_filters(*names, **{names[position]: Refusal(429, "rate_limited", "slow down", policy="p")})
    stage.start()
    reached = names[: position + 1]
    assert stage.log == [
        *(f"{name} request" for name in reached),
        *(f"{name} refusal rate_limited" for name in reversed(names)),
        *(f"{name} response 429" for name in reversed(reached)),
        "reply 429",
        *(f"{name} done" for name in reversed(reached)),
        "done 429",
    ]
    assert stage.answer is not None
    assert stage.answer.header(b"x-headgate-reason") == b"rate_limited"
    assert stage.answer.header(b"x-headgate-policy") == b"p"
    stage.assert_all_released()


def test_a_filters_answer_goes_back_through_the_filters_before_it() -> None:
    stage = with_filters("a", "b", "c", b=Response(200, [], b"cached"))
    stage.start()
    assert stage.log == [
        "a request",
        "b request",
        "b response 200",
        "a response 200",
        "reply 200",
        "b done",
        "a done",
        "done 200",
    ]
    assert stage.ctx.answered_by == "b"
    stage.assert_all_released()


def test_a_filter_that_waits_is_resumed_with_its_answer() -> None:
    log: list[str] = []
    waiting = Noting(log, "a", later=True)
    stage = Stage([waiting, Noting(log, "b")])
    stage.log = log
    stage.start()
    assert log == ["a request"]
    assert waiting.later is not None
    waiting.later.resolve(None)
    assert log == ["a request", "b request", "send a"]
    stage.respond()
    stage.assert_all_released()


def test_waiting_ends_at_the_deadline_and_the_late_answer_is_ignored() -> None:
    log: list[str] = []
    waiting = Noting(log, "a", later=True)
    stage = Stage([waiting], timeout=2.0)
    stage.log = log
    stage.start()
    stage.clock.advance(2.0)
    stage.timers.fire()
    assert waiting.later is not None
    waiting.later.resolve(None)
    assert log == [
        "a request",
        "a error upstream_timeout",
        "a response 504",
        "reply 504",
        "a done",
        "done 504",
    ]
    stage.assert_all_released()


# Degraded refusals and errors


def test_a_refusal_may_be_softened_to_a_lesser_answer() -> None:
    log: list[str] = []
    lesser = Response(200, [], b"lesser")
    stage = Stage([Noting(log, "a", softer=lesser), Noting(log, "b", Refusal(503, "overloaded", "full"))])
    stage.log = log
    stage.start()
    assert log == [
        "a request",
        "b request",
        "b refusal overloaded",
        "a refusal overloaded",
        "b response 200",
        "a response 200",
        "reply 200",
        "b done",
        "a done",
        "done 200",
    ]
    stage.assert_all_released()


def test_a_failure_falls_back_to_another_pool_once_and_then_fails() -> None:
    log: list[str] = []
    degrade = Noting(log, "a")
    stage = Stage([degrade], settings=NO_RETRY)
    lite = make_pool("lite", ["l"], stage, NO_RETRY)
    stage.log = log
    degrade.softer = lite
    stage.start()
    stage.sink.on_error(UpstreamConnectError("refused"))
    assert log == ["a request", "send a", "a error upstream_connect", "send l"]
    stage.sink.on_error(UpstreamConnectError("refused"))
    assert log[4:] == [
        "a error upstream_connect",  # it offers the same pool again, which is not taken
        "a response 503",
        "reply 503",
        "a done",
        "done 503",
    ]
    assert lite.in_flight == 0
    stage.assert_all_released()


def test_when_the_other_pool_fails_too_a_further_step_may_answer() -> None:
    log: list[str] = []
    degrade = Noting(log, "a")
    stage = Stage([degrade], settings=NO_RETRY)
    lite = make_pool("lite", ["l"], stage, NO_RETRY)
    last = make_pool("last", ["z"], stage, NO_RETRY)
    stage.log = log
    degrade.softer = lite
    stage.start()
    stage.sink.on_error(UpstreamConnectError("refused"))
    degrade.softer = last
    stage.sink.on_error(UpstreamConnectError("refused"))
    degrade.softer = Response(200, [], b"lesser")
    stage.sink.on_error(UpstreamConnectError("refused"))
    assert [line for line in log if line.startswith(("send", "reply"))] == [
        "send a",
        "send l",
        "send z",
        "reply 200",
    ]
    assert (lite.in_flight, last.in_flight) == (0, 0)
    stage.assert_all_released()


def test_a_body_that_went_to_one_instance_in_part_goes_to_no_other_pool() -> None:
    log: list[str] = []
    degrade = Noting(log, "a")
    stage = Stage([degrade], replay_limit=0)
    degrade.softer = make_pool("lite", ["l"], stage)
    stage.log = log
    exchange = stage.start(b"PUT", body=None, length=500)
    stage.sink.on_ready()
    exchange.on_body(b"x", False)
    stage.sink.on_error(UpstreamReset("gone"))
    assert "send l" not in log
    assert log[-2:] == ["a done", "done 502"]
    stage.assert_all_released()


def test_the_fallback_pool_answers() -> None:
    log: list[str] = []
    degrade = Noting(log, "a")
    stage = Stage([degrade], instances=[])
    degrade.softer = make_pool("lite", ["l"], stage)
    stage.log = log
    stage.start()
    stage.respond(200, b"from lite")
    assert log == [
        "a request",
        "a error unavailable",
        "send l",
        "a response 200",
        "reply 200",
        "a done",
        "done 200",
    ]
    stage.assert_all_released()


# Upstream failures before and after the first byte


def test_a_connect_failure_is_retried_on_another_instance_also_for_post() -> None:
    stage = Stage()
    stage.start(b"POST", body=b"{}")
    stage.sink.on_error(UpstreamConnectError("refused"))
    stage.respond(200)
    assert stage.log == ["send a", "send b", "reply 200", "done 200"]
    assert stage.ctx.attempts == 2
    stage.assert_all_released()


@pytest.mark.parametrize(
    ("method", "safe", "expected"),
    [
        (b"GET", False, ["send a", "send b"]),
        (b"POST", False, ["send a", "reply 502", "done 502"]),
        (b"POST", True, ["send a", "send b"]),
    ],
    ids=["idempotent", "post", "post-declared-safe"],
)
@pytest.mark.parametrize("error", [UpstreamReset, UpstreamClosedIdle])
def test_a_reset_is_retried_only_where_the_request_may_be_repeated(
    method: bytes, safe: bool, expected: list[str], error: type[UpstreamReset]
) -> None:
    class Safe(Filter):
        def on_request(self, ctx):  # type: ignore[no-untyped-def]
            ctx.safe_to_retry = safe

    stage = Stage([Safe()])
    stage.start(method, body=b"{}")
    stage.sink.on_error(error("gone"))
    assert stage.log == expected


def test_a_bad_status_is_retried_and_the_last_one_is_passed_on() -> None:
    stage = Stage()
    stage.start()
    stage.respond(503, b"busy")
    stage.respond(503, b"busy too")
    assert stage.log == ["send a", "cancel a", "send b", "reply 503", "done 503"]
    assert stage.answer is not None
    assert stage.answer.body == b"busy too"
    stage.assert_all_released()


def test_an_error_after_the_first_byte_breaks_the_connection_and_is_never_retried() -> None:
    stage = Stage()
    stage.start()
    stage.respond(200, None)
    stage.sink.on_chunk(b"half", False)
    stage.sink.on_error(UpstreamReset("gone"))
    assert stage.log == ["send a", "begin 200", "resume a", "data b'half'", "abort", "done 200"]
    stage.assert_all_released()


def test_no_try_is_made_when_the_time_is_used_up() -> None:
    stage = Stage(timeout=1.0)
    stage.start()
    stage.clock.advance(1.5)
    stage.sink.on_error(UpstreamTimeout("slow"))
    assert stage.log == ["send a", "reply 504", "done 504"]
    stage.assert_all_released()


def test_a_streamed_body_is_not_sent_twice() -> None:
    stage = Stage(replay_limit=0)
    exchange = stage.start(b"PUT", body=None, length=500)
    stage.sink.on_ready()
    exchange.on_body(b"x", False)
    stage.sink.on_error(UpstreamReset("gone"))
    assert stage.log == ["send a", "proceed", "write a b'x'", "reply 502", "done 502"]
    stage.assert_all_released()


def test_open_breakers_are_an_error_of_their_own_with_a_time_to_come_back() -> None:
    settings = PoolSettings(breaker=Breaker(min_calls=1), retry=Retry(attempts=0))
    stage = Stage(settings=settings, instances=["a"])
    stage.start()
    stage.sink.on_error(UpstreamReset("gone"))
    stage.log.clear()
    stage.start()
    assert stage.log == ["reply 503", "done 503"]
    assert stage.answer is not None
    assert stage.answer.header(b"x-headgate-reason") == b"breaker_open"
    assert stage.answer.header(b"retry-after") is not None


# The client leaves


def test_the_client_leaves_while_a_filter_waits() -> None:
    log: list[str] = []
    waiting = Noting(log, "a", later=True)
    stage = Stage([waiting])
    stage.log = log
    exchange = stage.start()
    exchange.on_client_gone()
    assert waiting.later is not None
    waiting.later.resolve(None)
    assert log == ["a request", "a done", "done 499"]
    stage.assert_all_released()


def test_the_client_leaves_while_its_body_comes_in() -> None:
    stage = Stage()
    exchange = stage.start(b"POST", body=None, length=4)
    exchange.on_body(b"ab", False)
    exchange.on_client_gone()
    assert stage.log == ["proceed", "done 499"]
    stage.assert_all_released()


def test_the_client_leaves_during_an_attempt_and_the_instance_is_not_blamed() -> None:
    stage = Stage(settings=PoolSettings(breaker=Breaker(min_calls=1)))
    exchange = stage.start()
    exchange.on_client_gone()
    exchange.on_client_gone()
    assert stage.log == ["send a", "cancel a", "done 499"]
    assert all(instance.failures == 0 for instance in stage.pool.members.instances)
    assert all(instance.usable(stage.clock.now()) for instance in stage.pool.members.instances)
    stage.assert_all_released()


def test_the_client_leaves_in_the_middle_of_its_answer() -> None:
    stage = Stage()
    exchange = stage.start()
    stage.respond(200, None)
    stage.sink.on_chunk(b"half", False)
    exchange.on_client_gone()
    stage.sink.on_chunk(b"more", True)
    assert stage.log == ["send a", "begin 200", "resume a", "data b'half'", "cancel a", "done 200"]
    stage.assert_all_released()


# What is too large, malformed or a bug


def test_a_body_announced_too_large_is_refused_before_it_is_read() -> None:
    log: list[str] = []
    stage = Stage([Noting(log, "a", needs_body=True)], body_limit=10)
    stage.log = log
    stage.start(b"POST", body=None, length=11)
    assert log == ["a error body_too_large", "reply 413", "done 413"]
    stage.assert_all_released()


def test_a_body_that_grows_too_large_is_refused() -> None:
    stage = Stage([Noting([], "a", needs_body=True)], body_limit=10)
    exchange = stage.start(b"POST", body=None, length=None)
    exchange.on_body(b"x" * 11, False)
    assert stage.log == ["proceed", "reply 413", "done 413"]
    stage.assert_all_released()


def test_a_malformed_body_ends_the_attempt_and_blames_nobody() -> None:
    stage = Stage(replay_limit=0)
    exchange = stage.start(b"POST", body=None, length=None)
    stage.sink.on_ready()
    exchange.on_body_error(BadBody("bad chunk size"))
    assert stage.log == ["send a", "proceed", "cancel a", "reply 400", "done 400"]
    assert all(instance.failures == 0 for instance in stage.pool.members.instances)
    stage.assert_all_released()


def test_a_bug_is_a_500_with_a_request_id_and_everything_is_released() -> None:
    class Buggy(Filter):
        def on_response(self, ctx, response):  # type: ignore[no-untyped-def]
            raise ZeroDivisionError("secret detail")

    stage = Stage([Buggy()])
    stage.start()
    stage.respond(200)
    assert stage.log == ["send a", "reply 500", "done 500"]
    assert stage.answer is not None
    assert stage.answer.body is not None
    assert b"secret detail" not in stage.answer.body
    assert [type(bug) for bug in stage.bugs] == [ZeroDivisionError]
    stage.assert_all_released()


def test_a_bug_after_a_wait_is_a_500_too() -> None:
    log: list[str] = []
    waiting = Noting(log, "a", later=True)

    class Buggy(Filter):
        def on_request(self, ctx):  # type: ignore[no-untyped-def]
            raise ZeroDivisionError

    stage = Stage([waiting, Buggy()])
    stage.start()
    assert waiting.later is not None
    waiting.later.resolve(None)
    assert stage.log == ["reply 500", "done 500"]
    stage.assert_all_released()


# Nowhere to go


def test_no_endpoint_is_a_404_in_problem_json() -> None:
    stage = Stage()
    stage.found = type(stage.found)(None, None)
    stage.start()
    assert stage.log == ["reply 404", "done 404"]
    assert stage.answer is not None
    assert stage.answer.header(b"content-type") == b"application/problem+json"
    stage.assert_all_released()


def test_another_method_is_a_405_that_names_the_right_ones() -> None:
    stage = Stage()
    stage.found = type(stage.found)(None, None, ("GET", "PUT"))
    stage.start(b"POST")
    assert stage.answer is not None
    assert (stage.answer.status, stage.answer.header(b"allow")) == (405, b"GET, PUT")


def test_what_the_client_claims_to_be_ours_does_not_go_upstream() -> None:
    stage = Stage()
    headers = [
        (b"x-headgate-principal", b"root"),
        (b"connection", b"x-hop"),
        (b"x-hop", b"1"),
        (b"x-keep", b"1"),
    ]
    stage.start(headers=headers)
    names = [name for name, _ in stage.sent[0].headers]
    assert b"x-keep" in names
    assert not {b"x-headgate-principal", b"x-hop", b"connection"} & set(names)
    assert b"traceparent" in names
    stage.respond()
