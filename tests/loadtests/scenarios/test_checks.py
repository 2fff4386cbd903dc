"""Each assertion of the load test holds for a faultless play and fails for the fault that it is there for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from loadtests.scenarios import timetable as at
from loadtests.scenarios.checks import control_note, judge
from loadtests.scenarios.director import Play
from loadtests.users.record import Answer
from tests.loadtests.scenarios.plays import CLOSED, OPENED, UP, faultless


def failed(play: Play) -> set[str]:
    return {check.name for check in judge(play) if not check.ok}


def test_a_faultless_play_holds() -> None:
    assert failed(faultless()) == set()


# Faults: each changes the faultless play


def change(play: Play, which: Callable[[Answer], bool], **fields: object) -> None:
    play.answers = [replace(one, **fields) if which(one) else one for one in play.answers]  # type: ignore[arg-type]


def a_wrong_label(play: Play) -> None:
    change(play, lambda one: one is play.answers[500], problem="output 'label' is [3], expected [4]")


def an_uncounted_request(play: Play) -> None:
    play.counted[200] -= 1


def a_generous_free_plan(play: Play) -> None:
    refused = [one for one in play.answers if one.user == "free plan" and one.status == 429 and one.sent < 20]
    change(play, lambda one: one in refused[:20], status=200)


def a_stingy_free_plan(play: Play) -> None:
    granted = [one for one in play.answers if one.user == "free plan" and one.status == 200 and one.sent < 20]
    change(play, lambda one: one in granted[:20], status=429)


def a_forgetful_cache(play: Play) -> None:
    change(play, lambda one: one.user.startswith("repeated") and one.sent < 5, cache="headgate; fwd=miss")


def a_popular_canary(play: Play) -> None:
    change(play, lambda one: one.user.startswith("fresh") and int(one.sent * 60) % 7 == 0, version="2")


def a_slow_reload(play: Play) -> None:
    change(
        play, lambda one: one.user == "free plan" and one.sent < at.EDIT + 1.2, quotas='"free-tier";q=5;w=1'
    )


def a_forgotten_worker(play: Play) -> None:
    change(play, lambda one: one.user == "free plan" and 28 < one.sent < 28.2, quotas='"free-tier";q=5;w=1')


def a_request_lost_by_a_reload(play: Play) -> None:
    change(play, lambda one: 21.0 <= one.sent < 21.01, status=0, problem="no answer")


def a_mistake_that_acts(play: Play) -> None:
    change(play, lambda one: at.BREAK < one.sent < at.MEND, quotas='"free-tier";q=5;w=1')


def a_mistake_unreported(play: Play) -> None:
    play.spoilt = {"ok": True, "errors": []}


def an_error_after_the_kill(play: Play) -> None:
    change(play, lambda one: 30.0 <= one.sent < 30.01, status=502, problem="502 upstream_reset")


def a_dead_instance_up(play: Play) -> None:
    for sight in play.sights:
        for one in sight.instances:
            if one["id"] == "a" and sight.asked < at.KILL + 3:
                one["state"] = "up"


def a_shunned_newcomer(play: Play) -> None:
    change(play, lambda one: one.instance == "a2" and one.sent < UP + 3, instance="b")


def a_breaker_that_never_opens(play: Play) -> None:
    for sight in play.sights:
        for one in sight.instances:
            one["breaker"] = "closed"


def a_breaker_that_opens_at_once(play: Play) -> None:
    breakers(play, at.FREEZE + 0.2, CLOSED)


def a_breaker_that_closes_too_soon(play: Play) -> None:
    breakers(play, OPENED, OPENED + 1.0)


def a_breaker_that_stays_open(play: Play) -> None:
    breakers(play, OPENED, OPENED + 6.0)


def breakers(play: Play, opened: float, closed: float) -> None:
    for sight in play.sights:
        for one in sight.instances:
            if one["id"] == "v2":
                one["breaker"] = "open" if opened <= sight.asked < closed else "closed"


def a_broken_ladder(play: Play) -> None:
    change(play, lambda one: one.degraded != "", status=503, degraded="")


def a_hung_client(play: Play) -> None:
    change(play, lambda one: one.status == 503, took=5.0)


def an_unthrottled_surge(play: Play) -> None:
    change(play, lambda one: one.user == "surge", status=200, policy="")


FREE_5, FREE_15 = "free plan, 5/s: share of 429", "free plan, edited to 15/s: share of 429"
COUNTED = "/metrics counts what clients saw"
LADDER = "behind the open breaker: digits-lite"
NO_ERROR = "no client error, all answers right"


@pytest.mark.parametrize(
    ("fault", "names"),
    [
        (a_wrong_label, {NO_ERROR}),
        (an_uncounted_request, {COUNTED}),
        (a_generous_free_plan, {FREE_5, COUNTED}),
        (a_stingy_free_plan, {FREE_5, COUNTED}),
        (a_forgetful_cache, {"cache: misses of the repeated dozen"}),
        (a_popular_canary, {"canary: share of version 2"}),
        (a_slow_reload, {"an edited policy is live"}),
        (a_forgotten_worker, {"an edited policy is live"}),
        (a_request_lost_by_a_reload, {NO_ERROR, COUNTED, "three edits under load"}),
        (a_mistake_that_acts, {"an edited policy is live", "a mistake in a policy"}),
        (a_mistake_unreported, {"a mistake in a policy"}),
        (an_error_after_the_kill, {NO_ERROR, COUNTED, "kill -9 of one of two instances"}),
        (a_dead_instance_up, {"the killed instance is left alone"}),
        (a_shunned_newcomer, {"restarted, traffic returns"}),
        (a_breaker_that_opens_at_once, {"breaker opens after SIGSTOP", "breaker closes again", LADDER}),
        (a_breaker_that_closes_too_soon, {"breaker closes again"}),
        (a_breaker_that_stays_open, {"breaker closes again"}),
        (a_broken_ladder, {COUNTED, LADDER}),
        (a_hung_client, {"caught by the freeze: an answer in time"}),
        (an_unthrottled_surge, {COUNTED, "surge past the endpoint's 200/s"}),
    ],
    ids=lambda value: value.__name__.replace("_", " ") if callable(value) else "",
)
def test_a_fault_is_found_where_it_belongs(fault: Callable[[Play], None], names: set[str]) -> None:
    play = faultless()
    fault(play)
    assert names <= failed(play)
    assert failed(play) - names <= {FREE_5, FREE_15}  # a changed status may also change a share


def test_a_breaker_that_never_opens_is_found() -> None:
    play = faultless()
    a_breaker_that_never_opens(play)
    assert {"breaker opens after SIGSTOP", "breaker closes again"} <= failed(play)


def test_bounds_of_times_give_way_by_the_control_measurement() -> None:
    play = faultless()
    a_slow_reload(play)
    play.lateness.append((21.0, 0.5))
    assert "an edited policy is live" not in failed(play)
    assert "at most 500 ms" in control_note(play)
