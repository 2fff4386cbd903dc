from __future__ import annotations

import pytest

from gateway.config.units import Duration, Rate
from gateway.filters import importance, throttle
from gateway.filters.degrade import KIND, Degrade, DegradeFilter, Respond, Step
from gateway.http.message import Response
from gateway.pipeline.context import Stale
from gateway.pipeline.errors import BreakerOpen, GatewayError, NoInstance, Refusal, UpstreamTimeout
from gateway.pipeline.pool import Pool
from tests.fakes.traffic import V2, Traffic

LITE = Step(pool="digits-lite")
SORRY = Step(respond=Respond(503, retry_after=Duration(5.0)))


def digits(**changes: int) -> Traffic:
    return Traffic({"digits-v1": 1, "digits-lite": 1, **changes})


def test_a_dead_pool_is_replaced_by_the_lesser_one_and_the_answer_says_so() -> None:
    traffic = digits()
    traffic.use(KIND, Degrade((LITE, SORRY)))
    traffic.kill("digits-v1")
    sent = traffic.send()
    traffic.upstream.calls[0].answer(b"lite")
    assert (sent.down.status, sent.down.body) == (200, b"lite")
    assert sent.down.field(b"x-degraded") == b"pool:digits-lite"


def test_when_the_lesser_pool_fails_at_once_the_next_step_answers() -> None:
    traffic = digits()
    (degrade,) = traffic.use(KIND, Degrade((LITE, SORRY)))
    sent = traffic.send()
    traffic.upstream.calls[0].fail()
    assert len(traffic.upstream.calls) == 2
    traffic.upstream.calls[1].fail()
    assert len(traffic.upstream.calls) == 2
    assert sent.down.field(b"x-degraded") == b"respond"
    assert isinstance(degrade, DegradeFilter)
    assert degrade.served == {"pool:digits-lite": 1, "respond": 1}


def test_each_step_serves_a_request_at_most_once() -> None:
    traffic = digits()
    (degrade,) = traffic.use(KIND, Degrade((LITE, LITE)))
    sent = traffic.send()
    traffic.upstream.calls[0].fail()
    traffic.upstream.calls[1].fail()
    assert len(traffic.upstream.calls) == 2
    assert sent.down.field(b"x-headgate-reason") == b"upstream_connect"
    assert isinstance(degrade, DegradeFilter)
    assert degrade.served == {"pool:digits-lite": 1}


def test_the_first_step_that_can_serve_wins() -> None:
    traffic = digits()
    traffic.use(KIND, Degrade((LITE, Step(stale=Duration(600.0)), SORRY)))
    traffic.kill("digits-v1")
    traffic.kill("digits-lite")
    down = traffic.send().down
    assert (down.status, down.field(b"x-degraded"), down.field(b"retry-after")) == (503, b"respond", b"5")


@pytest.mark.parametrize(
    ("error", "when"),
    [
        (BreakerOpen("open"), "breaker_open"),
        (UpstreamTimeout("late"), "timeout"),
        (NoInstance("nobody"), "unavailable"),
    ],
)
def test_only_what_is_named_is_softened(error: GatewayError, when: str) -> None:
    traffic = digits()
    (named,) = traffic.use(KIND, Degrade((LITE,), when=(when,)))  # type: ignore[arg-type]
    (others,) = traffic.use(KIND, Degrade((LITE,), when=("quota",)))
    assert named.on_error(traffic.context(), error) is traffic.pools["digits-lite"]
    assert others.on_error(traffic.context(), error) is None


@pytest.mark.parametrize(
    ("status", "code"), [(401, "unauthenticated"), (403, "forbidden"), (404, "unknown_version")]
)
def test_a_no_that_is_about_the_caller_stays_a_no(status: int, code: str) -> None:
    traffic = digits()
    (degrade,) = traffic.use(
        KIND, Degrade((LITE,), when=("breaker_open", "overloaded", "timeout", "unavailable", "quota"))
    )
    ctx = traffic.context()
    assert degrade.on_refusal(ctx, Refusal(status, code, "no")) is None
    assert ctx.degraded == ""


def test_an_overloaded_gateway_answers_from_the_lesser_pool() -> None:
    traffic = digits()
    traffic.use(importance.KIND, importance.Importance("sheddable"))
    traffic.use(KIND, Degrade((LITE,)))
    traffic.parts.pressure.level = 1.0
    sent = traffic.send()
    traffic.upstream.calls[0].answer(b"lite")
    assert sent.down.field(b"x-degraded") == b"pool:digits-lite"


@pytest.mark.parametrize("asked", [True, False])
def test_a_quota_is_softened_only_when_asked_for(asked: bool) -> None:
    traffic = digits()
    traffic.use(throttle.KIND, throttle.Throttle.from_text("1/h"))
    traffic.use(KIND, Degrade((LITE,), when=("quota",)) if asked else Degrade((LITE,)))
    traffic.send()
    sent = traffic.send()
    assert sent.down.answered is not asked
    assert len(traffic.upstream.calls) == (2 if asked else 1)


@pytest.mark.parametrize(("age", "served"), [(599.0, True), (601.0, False)])
def test_a_stale_answer_is_given_up_to_its_age(age: float, served: bool) -> None:
    traffic = digits()
    (degrade,) = traffic.use(KIND, Degrade((Step(stale=Duration(600.0)),)))
    ctx = traffic.context()
    ctx.stale = Stale(Response(200, [], b"old"), age)
    lesser = degrade.on_error(ctx, NoInstance("nobody"))
    assert (lesser is ctx.stale.response) is served
    assert ctx.degraded == ("stale:10m" if served else "")


def test_a_throttle_lets_so_many_go_on_and_the_others_to_the_next_step() -> None:
    traffic = digits()
    traffic.use(importance.KIND, importance.Importance("sheddable"))
    traffic.use(KIND, Degrade((Step(throttle=Rate(2, 1)), SORRY)))
    traffic.parts.pressure.level = 1.0
    answered = []
    for _ in range(40):
        answered.append(traffic.send().down.answered)
        traffic.clock.advance(0.1)
    assert 8 <= answered.count(False) <= 9  # 2/s for 4 s, and the first


def test_a_throttle_step_sends_nobody_to_a_dead_pool() -> None:
    traffic = digits()
    (degrade,) = traffic.use(KIND, Degrade((Step(throttle=Rate(100, 1)), SORRY)))
    traffic.kill("digits-v1")
    assert isinstance(degrade.on_error(traffic.context(), NoInstance("nobody")), Response)


@pytest.mark.parametrize(
    ("respond", "kind"),
    [
        (Respond(200, '{"label": 0}'), b"application/json"),
        (Respond(503, "come back later"), b"text/plain; charset=utf-8"),
        (Respond(200, "<p>", headers={"Content-Type": "text/html"}), b"text/html"),
    ],
)
def test_a_fixed_answer_is_what_was_written(respond: Respond, kind: bytes) -> None:
    traffic = digits()
    (degrade,) = traffic.use(KIND, Degrade((Step(respond=respond),)))
    answer = degrade.on_error(traffic.context(), NoInstance("nobody"))
    assert isinstance(answer, Response)
    assert (answer.status, answer.body, answer.header(b"content-type")) == (
        respond.status,
        respond.body.encode(),
        kind,
    )


def test_a_fixed_error_without_a_body_is_in_the_clients_dialect() -> None:
    traffic = digits()
    (degrade,) = traffic.use(KIND, Degrade((SORRY,)), policy="ladder")
    answer = degrade.on_error(traffic.context(V2), BreakerOpen("open"))
    assert isinstance(answer, Response)
    assert answer.body is not None
    assert b"breaker_open" in answer.body
    assert answer.header(b"x-headgate-policy") == b"ladder"


def test_by_order_everything_goes_to_the_lesser_pool() -> None:
    traffic = digits()
    traffic.use(KIND, Degrade.from_text("digits-lite"))
    sent = traffic.send()
    assert sent.ctx.pool is traffic.pools["digits-lite"]
    traffic.upstream.calls[0].answer()
    assert sent.down.field(b"x-degraded") == b"pool:digits-lite"


def test_by_order_nothing_goes_to_a_pool_that_is_dead() -> None:
    traffic = digits()
    traffic.kill("digits-lite")
    traffic.use(KIND, Degrade.from_text("digits-lite"))
    sent = traffic.send()
    assert sent.ctx.pool is traffic.pools["digits-v1"]
    assert sent.ctx.degraded == ""


def test_the_lesser_pool_is_not_tried_when_the_time_is_used_up() -> None:
    traffic = digits()
    (degrade,) = traffic.use(KIND, Degrade((LITE, SORRY)))
    ctx = traffic.context()
    ctx.now = ctx.deadline
    assert isinstance(degrade.on_error(ctx, UpstreamTimeout("late")), Response)


def test_a_pool_is_not_its_own_lesser_one() -> None:
    traffic = digits()
    (degrade,) = traffic.use(KIND, Degrade((Step(pool="digits-v1"),)))
    assert isinstance(degrade.on_error(traffic.context(), UpstreamTimeout("late")), Pool) is False


def test_the_pools_it_speaks_of_are_fallbacks() -> None:
    degrade = Degrade((LITE, SORRY), to="digits-tiny")
    assert [(one.kind, one.name, one.fallback) for one in degrade.names()] == [
        ("pool", "digits-lite", True),
        ("pool", "digits-tiny", True),
    ]


@pytest.mark.parametrize("fields", [{}, {"pool": "a", "stale": Duration(1.0)}])
def test_a_step_is_exactly_one_thing(fields: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="exactly one of"):
        Step(**fields)  # type: ignore[arg-type]


def test_an_empty_ladder_is_refused_and_nothing_may_come_after_a_fixed_answer() -> None:
    with pytest.raises(ValueError, match="expected `steps"):
        Degrade()
    assert list(Degrade((SORRY, LITE)).check())
    assert list(Degrade((LITE, SORRY)).check()) == []
