"""What several workers say of one instance, as one."""

from __future__ import annotations

from gateway.admin.views import View
from gateway.runtime.joining import joined_instances


def view(**fields: object) -> View:
    return {
        "id": "a",
        "pool": "p",
        "state": "up",
        "in_flight": 0,
        "successes": 0,
        "failures": 0,
        "latency_ms": 0.0,
        "doubted_for": 0.0,
        "share": 1.0,
        "ejected_for": 0.0,
        "breaker": "closed",
        "breaker_retry_after": 0.0,
        **fields,
    }


def test_counts_add_up_and_a_latency_is_weighted_by_the_calls_it_was_taken_from() -> None:
    (joined,) = joined_instances(
        [view()],
        [
            [view(in_flight=1, successes=10, failures=1, latency_ms=10.0)],
            [view(in_flight=2, successes=30, failures=2, latency_ms=20.0)],
        ],
    )
    assert (joined["in_flight"], joined["successes"], joined["failures"]) == (3, 40, 3)
    assert joined["latency_ms"] == 17.5


def test_the_worst_that_a_worker_sees_is_shown() -> None:
    (joined,) = joined_instances(
        [view()],
        [
            [view()],
            [view(state="breaker_open", breaker="open", breaker_retry_after=4.0, ejected_for=2.0)],
        ],
    )
    assert (joined["state"], joined["breaker"]) == ("breaker_open", "open")
    assert (joined["breaker_retry_after"], joined["ejected_for"]) == (4.0, 2.0)


def test_who_gets_less_from_one_worker_is_shown_so_unless_another_sees_worse() -> None:
    shunned = view(state="down_weighted", share=0.02)
    (joined,) = joined_instances([view()], [[view()], [shunned]])
    assert (joined["state"], joined["share"]) == ("down_weighted", 0.02)
    (joined,) = joined_instances([view()], [[shunned], [view(state="ejected")], [view(state="doubted")]])
    assert joined["state"] == "ejected"
    (joined,) = joined_instances([view(state="unhealthy")], [[shunned]])
    assert joined["state"] == "unhealthy"


def test_who_is_there_is_the_supervisors_to_say() -> None:
    own = [view(), view(id="new")]
    joined = joined_instances(own, [[view(successes=1), view(id="gone")], None, "nonsense"])
    assert [one["id"] for one in joined] == ["a", "new"]
    assert joined[1] == own[1]


def test_an_instance_without_a_breaker_has_none() -> None:
    (joined,) = joined_instances([view(breaker=None)], [[view(breaker=None, breaker_retry_after=None)]])
    assert (joined["breaker"], joined["breaker_retry_after"]) == (None, None)
