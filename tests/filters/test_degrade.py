from __future__ import annotations

from typing import Any, cast

import orjson
import pytest

from gateway.config.resolve import Who
from gateway.config.units import Duration, Rate
from gateway.dialects.metadata import Signature, TensorSpec
from gateway.filters import importance, slo, throttle
from gateway.filters.catalog import place_of
from gateway.filters.degrade import KIND, Degrade, DegradeFilter, Respond, Step
from gateway.http.message import Response
from gateway.pipeline.chain import Chosen, Rehearsed
from gateway.pipeline.context import Stale
from gateway.pipeline.errors import BreakerOpen, GatewayError, NoInstance, Refusal, UpstreamTimeout
from gateway.pipeline.filter import Filter, Rule
from gateway.pipeline.pool import Pool
from gateway.pipeline.pool_queue import PoolQueue
from gateway.pipeline.ports import Principal
from gateway.pipeline.promise import Promise
from tests.fakes.traffic import V1, V2, Sent, Told, Traffic, inputs, instances

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


# Seen beforehand


def burning(traffic: Traffic) -> None:
    """An objective that burns as hard as it can."""
    for _ in range(20):
        traffic.parts.pressure.objectives["digits"].record(False, traffic.clock.now())


def with_slo(*steps: Step, calm: float = 10.0) -> Traffic:
    traffic = digits()
    traffic.use(slo.KIND, slo.Slo(Duration(0.3)))
    traffic.use(
        KIND,
        Degrade(steps, ("timeout", "unavailable", "slo_burn"), calm=Duration(calm), patience=Duration(2.0)),
    )
    return traffic


def step_of(sent: Sent) -> tuple[str, str]:
    return sent.ctx.degraded, sent.ctx.degraded_by


def test_while_the_objective_burns_requests_begin_with_the_lesser_pool() -> None:
    traffic = with_slo(LITE, SORRY)
    traffic.send()
    assert traffic.upstream.calls[0].instance.id == "digits-v1-0"
    traffic.clock.advance(1.0)
    burning(traffic)
    sent = traffic.send()
    assert traffic.upstream.calls[1].instance.id == "digits-lite-0"
    assert step_of(sent) == ("pool:digits-lite", "slo_burn")
    traffic.upstream.calls[1].answer(b"lite")
    assert sent.down.field(b"x-degraded") == b"pool:digits-lite"


def test_a_lesser_pool_that_requests_began_with_fails_over_to_the_next_step_only() -> None:
    traffic = with_slo(LITE, SORRY)
    burning(traffic)
    traffic.clock.advance(1.0)
    sent = traffic.send()
    traffic.upstream.calls[0].fail()
    assert len(traffic.upstream.calls) == 1
    assert sent.down.field(b"x-degraded") == b"respond"


def test_what_does_not_help_leads_a_step_further_and_calm_leads_back() -> None:
    traffic = with_slo(LITE, SORRY)
    levels = []
    for _ in range(4):
        burning(traffic)
        traffic.clock.advance(1.0)
        levels.append(traffic.send().ctx.degraded)
    assert levels == ["pool:digits-lite", "pool:digits-lite", "respond", "respond"]
    back = []
    for _ in range(10):
        traffic.clock.advance(8.0)
        back.append(traffic.send().ctx.degraded)
    assert [step for step, before in zip(back, ["", *back], strict=False) if step != before] == [
        "respond",
        "pool:digits-lite",
        "",
    ]


def test_an_honest_error_where_nothing_was_tried_has_a_code_of_its_own() -> None:
    traffic = with_slo(SORRY)
    burning(traffic)
    traffic.clock.advance(1.0)
    down = traffic.send().down
    assert (down.status, down.field(b"x-headgate-reason")) == (503, b"degraded")
    assert traffic.upstream.calls == []


def test_lesser_answers_do_not_count_for_the_objective() -> None:
    traffic = with_slo(SORRY)
    burning(traffic)
    traffic.clock.advance(1.0)
    before = repr(traffic.parts.pressure.objectives["digits"])
    assert traffic.send().down.status == 503
    assert repr(traffic.parts.pressure.objectives["digits"]) == before


def test_who_is_thinned_in_gets_the_full_answer_and_no_mark() -> None:
    traffic = with_slo(Step(throttle=Rate(10, 1)), SORRY)
    burning(traffic)
    traffic.clock.advance(1.0)
    marks = [traffic.send().ctx.degraded for _ in range(4)]
    assert marks == ["", "respond", "respond", "respond"]


@pytest.mark.parametrize(("plan", "mark"), [("gold", ""), ("free", "pool:digits-lite")])
def test_who_would_rather_fail_opts_out_by_plan(plan: str, mark: str) -> None:
    traffic = digits()
    traffic.use(slo.KIND, slo.Slo())
    never = Rule(Degrade.from_text("never"), "plans.gold", who=Who(plans=frozenset({"gold"})))
    ladder = Rule(Degrade((LITE,), ("unavailable", "slo_burn")), "endpoints.digits")
    by_place: dict[int, list[tuple[Rule[Any], Filter]]] = {}
    for rule in (never, ladder):
        for filter in KIND.build((rule,), traffic.parts):
            by_place.setdefault(place_of(filter), []).append((rule, filter))
    traffic.add(*(Chosen(candidates, traffic.clock) for candidates in by_place.values()))
    principal = Principal("alice", plan=plan)
    failing = traffic.send(principal=principal)
    traffic.upstream.calls[0].fail()
    assert failing.ctx.degraded == mark
    burning(traffic)
    traffic.clock.advance(1.0)
    assert traffic.send(principal=principal).ctx.degraded == mark


class Waiting:
    """A pool's queue whose first one has waited for a second."""

    def age(self, now: float) -> float:
        return 1.0


def test_an_old_queue_sends_new_requests_to_the_lesser_pool() -> None:
    traffic = digits()
    traffic.use(KIND, Degrade((LITE,), ("queue_age",), queue_age=Duration(0.5)))
    traffic.clock.advance(1.0)
    assert step_of(traffic.send()) == ("", "")
    traffic.pools["digits-v1"].queue = cast("PoolQueue", Waiting())
    traffic.clock.advance(1.0)
    assert step_of(traffic.send()) == ("pool:digits-lite", "queue_age")
    assert [ladder.level for ladder in traffic.parts.pressure.ladders.values()] == [1]


def test_what_left_the_policies_is_shown_no_more() -> None:
    traffic = with_slo(LITE)
    for filter in traffic.filters:
        filter.close()
    assert (traffic.parts.pressure.ladders, traffic.parts.pressure.objectives) == ({}, {})


# Thinned out by importance


def test_the_sheddable_are_thinned_out_first() -> None:
    traffic = digits()
    (degrade,) = traffic.use(KIND, Degrade((Step(throttle=Rate(10, 1)), SORRY)))
    went_on = {0: 0, 2: 0}
    for _ in range(100):
        for level in (2, 0):
            ctx = traffic.context()
            ctx.importance = level
            went_on[level] += isinstance(degrade.on_error(ctx, UpstreamTimeout("late")), Pool)
        traffic.clock.advance(0.1)
    assert went_on[0] == 100
    assert went_on[2] <= 2


# Constant predictions


SIGNATURE = Signature(
    (TensorSpec("input", "FP32", (-1, 2)),),
    (TensorSpec("label", "INT64", (-1,)), TensorSpec("probabilities", "FP32", (-1, 2))),
)
CONSTANT = Step(predict={"label": ("7",), "probabilities": ("0.25", "0.75")})


@pytest.mark.parametrize(
    ("path", "body", "expected"),
    [
        (
            V1,
            instances([[1, 2], [3, 4]]),
            {"predictions": [{"label": 7, "probabilities": [0.25, 0.75]}] * 2},
        ),
        (
            V2,
            inputs([[1, 2], [3, 4]], id="x"),
            {
                "id": "x",
                "model_name": "digits",
                "outputs": [
                    {"name": "label", "datatype": "INT64", "shape": [2], "data": [7, 7]},
                    {
                        "name": "probabilities",
                        "datatype": "FP32",
                        "shape": [2, 2],
                        "data": [0.25, 0.75, 0.25, 0.75],
                    },
                ],
            },
        ),
    ],
    ids=["tensorflow-serving", "kserve-v2"],
)
def test_a_constant_prediction_has_the_declared_tensors_in_the_clients_dialect(
    path: bytes, body: bytes, expected: dict[str, object]
) -> None:
    traffic = Traffic({"digits-v1": 1}, speaks="kserve-v2")
    traffic.parts.signatures = Told(SIGNATURE)
    traffic.use(KIND, Degrade((CONSTANT, SORRY)))
    traffic.kill("digits-v1")
    down = traffic.send(path, body).down
    assert (down.status, down.field(b"x-degraded")) == (200, b"predict")
    answer = orjson.loads(down.body)
    assert {key: answer[key] for key in expected} == expected


@pytest.mark.parametrize(
    ("step", "body"),
    [
        (Step(predict={"label": ("seven",)}), inputs([[1, 2]])),
        (Step(predict={"probabilities": ("0.1", "0.2", "0.7")}), inputs([[1, 2]])),
        (CONSTANT, b"not a prediction"),
    ],
    ids=["wrong type", "wrong shape", "unreadable request"],
)
def test_what_can_not_be_a_prediction_is_left_to_the_next_step(step: Step, body: bytes) -> None:
    traffic = Traffic({"digits-v1": 1}, speaks="kserve-v2")
    traffic.parts.signatures = Told(SIGNATURE)
    traffic.use(KIND, Degrade((step, SORRY)))
    traffic.kill("digits-v1")
    assert traffic.send(V2, body).ctx.degraded == "respond"


def test_without_a_signature_the_values_suggest_the_types() -> None:
    traffic = Traffic({"digits-v1": 1}, speaks="kserve-v2")
    traffic.parts.signatures = Told(None)
    outputs = {"n": ("1",), "p": ("1", "0.5"), "ok": ("true",), "word": ("seven",)}
    traffic.use(KIND, Degrade((Step(predict=outputs),)))
    traffic.kill("digits-v1")
    answer = orjson.loads(traffic.send(V2, inputs([[1, 2]])).down.body)
    told = {one["name"]: (one["datatype"], one["shape"], one["data"]) for one in answer["outputs"]}
    assert told == {
        "n": ("INT64", [1], [1]),
        "p": ("FP32", [1, 2], [1.0, 0.5]),
        "ok": ("BOOL", [1], [True]),
        "word": ("BYTES", [1], ["seven"]),
    }


def test_a_constant_prediction_waits_for_nobody_who_is_asked_for_the_signature() -> None:
    traffic = Traffic({"digits-v1": 1}, speaks="kserve-v2")
    traffic.parts.signatures = Told(Promise())
    traffic.use(KIND, Degrade((CONSTANT, SORRY)))
    traffic.kill("digits-v1")
    down = traffic.send(V2, inputs([[1, 2]])).down
    assert (down.status, down.field(b"x-degraded")) == (200, b"predict")


def test_once_the_first_byte_is_out_there_is_no_lesser_answer() -> None:
    traffic = digits()
    traffic.use(KIND, Degrade((LITE, SORRY)))
    sent = traffic.send()
    sink = traffic.upstream.calls[0].sink
    sink.on_response(Response(200, [], None))
    sink.on_chunk(b"first", False)
    traffic.upstream.calls[0].fail()
    assert (sent.down.status, sent.down.body, sent.down.aborted) == (200, b"first", True)
    assert (sent.ctx.degraded, len(traffic.upstream.calls)) == ("", 1)


@pytest.mark.parametrize("enforce", [True, False])
def test_a_ladder_that_only_rehearses_shows_its_level_and_changes_nothing(enforce: bool) -> None:
    traffic = digits()
    traffic.use(slo.KIND, slo.Slo())
    rule = Rule(Degrade((LITE,), ("slo_burn",)), "endpoints.digits", enforce=enforce)
    made = list(KIND.build((rule,), traffic.parts))
    traffic.add(*(made if enforce else [Rehearsed(filter, rule, traffic.clock) for filter in made]))
    burning(traffic)
    traffic.clock.advance(1.0)
    assert traffic.send().ctx.degraded == ("pool:digits-lite" if enforce else "")
    assert [ladder.level for ladder in traffic.parts.pressure.ladders.values()] == [1]
