from __future__ import annotations

import math

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.config.units import Duration, Size
from gateway.filters import degrade, throttle
from gateway.filters.cache import KIND, Cache
from gateway.http.message import Headers
from gateway.pipeline.answers import AnswerStore
from gateway.pipeline.errors import UpstreamReset
from gateway.pipeline.filter import Rule
from gateway.pipeline.ports import Principal
from gateway.stores.memory import MemoryBlobs
from tests.fakes.clock import ManualClock
from tests.fakes.traffic import V2, FakeCall, Sent, Traffic, inputs, instances


def by_rows(**how: object) -> Traffic:
    traffic = Traffic(**how)  # type: ignore[arg-type]
    traffic.use(KIND, Cache(Duration(30.0), scope="shared", rows=True))
    return traffic


def asked_for(call: FakeCall) -> list[list[float]]:
    """Rows that a call asks the model for, in whichever form."""
    body = orjson.loads(call.request.body or b"")
    if "instances" in body:
        return [list(row) for row in body["instances"]]
    if isinstance(body["inputs"], dict):
        return [list(row) for row in body["inputs"]["input"]]
    flat = body["inputs"][0]["data"]
    return [list(row) for row in np.reshape(flat, (-1, 2)).tolist()]


def answer(call: FakeCall, headers: Headers | None = None) -> None:
    """Answer as a model does that labels each row with the sum of its numbers."""
    labels = [int(sum(row)) for row in asked_for(call)]
    if b"/v2/" in call.request.path:
        output = {"name": "label", "datatype": "INT64", "shape": [len(labels)], "data": labels}
        call.answer(orjson.dumps({"model_name": "digits", "outputs": [output]}), headers=headers)
    else:
        call.answer(orjson.dumps({"predictions": labels}), headers=headers)


def ask(traffic: Traffic, *rows: list[float]) -> Sent:
    before = len(traffic.upstream.calls)
    sent = traffic.send(body=instances(list(rows)))
    for call in traffic.upstream.calls[before:]:
        answer(call)
    return sent


def labels(sent: Sent) -> object:
    body = orjson.loads(sent.down.body)
    return body["predictions"] if "predictions" in body else body["outputs"][0]["data"]


def status(sent: Sent) -> bytes | None:
    return sent.down.field(b"cache-status")


A, B, C = [1.0, 1.0], [2.0, 2.0], [3.0, 3.0]


@pytest.mark.parametrize("speaks", ["http", "tensorflow-serving", "kserve-v2"])
def test_only_the_missing_rows_go_upstream_and_the_answer_keeps_its_order(speaks: str) -> None:
    traffic = by_rows(speaks=speaks)
    first = ask(traffic, A, C)
    second = ask(traffic, C, B, A)
    assert (labels(first), labels(second)) == ([2, 6], [6, 4, 2])
    assert asked_for(traffic.upstream.calls[1]) == [B]
    assert (status(first), status(second)) == (
        b"headgate; fwd=miss; stored",
        b"headgate; fwd=partial; stored",
    )
    third = ask(traffic, B, A)
    assert (labels(third), status(third), len(traffic.upstream.calls)) == ([4, 2], b"headgate; hit", 2)


def test_a_row_that_stands_twice_is_asked_for_once() -> None:
    traffic = by_rows()
    sent = ask(traffic, A, B, A, A)
    assert (labels(sent), asked_for(traffic.upstream.calls[0])) == ([2, 4, 2, 2], [A, B])


def test_rows_are_shared_as_far_as_the_scope_says_and_within_their_endpoint() -> None:
    answers = AnswerStore(100_000)
    for endpoint in ("digits", "letters"):
        traffic = Traffic(answers=answers, endpoint=endpoint)
        traffic.use(KIND, Cache(Duration(30.0), scope="principal", rows=True))
        for name in ("alice", "bob"):
            traffic.who = Principal(name)
            assert status(ask(traffic, A)) == b"headgate; fwd=miss; stored"
            assert status(ask(traffic, A)) == b"headgate; hit"


def test_rows_that_are_too_large_are_given_but_not_kept() -> None:
    traffic = Traffic()
    traffic.use(KIND, Cache(Duration(30.0), scope="shared", rows=True, size=Size(8)))
    assert labels(ask(traffic, A, B)) == [2, 4]
    assert status(ask(traffic, A, B)) == b"headgate; fwd=miss"
    assert len(traffic.parts.answers) == 0


def test_rows_kept_in_one_dialect_answer_another() -> None:
    traffic = by_rows(speaks="tensorflow-serving")
    ask(traffic, A, B)
    sent = traffic.send(V2, inputs([B, A], id="mine"))
    assert (orjson.loads(sent.down.body)["id"], labels(sent), status(sent)) == (
        "mine",
        [4, 2],
        b"headgate; hit",
    )


def test_a_row_of_another_age_is_asked_for_again() -> None:
    traffic = by_rows()
    ask(traffic, A)
    traffic.clock.advance(20)
    sent = ask(traffic, A, B)
    traffic.clock.advance(15)
    ask(traffic, A, B)
    assert asked_for(traffic.upstream.calls[-1]) == [A]
    assert labels(sent) == [2, 4]
    hit = ask(traffic, B)
    assert hit.down.field(b"age") == b"15"


def test_a_failure_upstream_is_the_answer_and_kept_rows_stay() -> None:
    traffic = by_rows()
    ask(traffic, A)
    sent = traffic.send(body=instances([A, B]))
    traffic.upstream.calls[-1].answer(b'{"error": "no"}', 400)
    assert (sent.down.status, sent.down.body) == (400, b'{"error": "no"}')
    broken = traffic.send(body=instances([A, B]))
    traffic.upstream.calls[-1].fail(UpstreamReset("gone"))
    assert broken.down.status == 502
    assert status(ask(traffic, A)) == b"headgate; hit"


def test_another_pool_gets_the_whole_batch() -> None:
    traffic = Traffic({"digits-v1": 1, "digits-lite": 1})
    traffic.use(degrade.KIND, degrade.Degrade((degrade.Step(pool="digits-lite"),)))
    traffic.use(KIND, Cache(Duration(30.0), scope="shared", rows=True))
    ask(traffic, A)
    sent = traffic.send(body=instances([A, B]))
    assert asked_for(traffic.upstream.calls[-1]) == [B]
    traffic.upstream.calls[-1].fail()
    lesser = traffic.upstream.calls[-1]
    assert asked_for(lesser) == [A, B]
    lesser.answer(b'{"predictions": [9, 9]}')
    assert labels(sent) == [9, 9]
    assert labels(ask(traffic, A)) == [2]


def test_an_answer_with_other_rows_than_asked_is_refused_once_and_the_model_left_alone() -> None:
    traffic = by_rows()
    ask(traffic, A)
    sent = traffic.send(body=instances([A, B]))
    traffic.upstream.calls[-1].answer(b'{"predictions": [1, 2, 3]}')
    assert sent.down.status == 502
    traffic.send(body=instances([A, B]))
    assert asked_for(traffic.upstream.calls[-1]) == [A, B]


def test_a_whole_miss_passes_the_instances_bytes_on() -> None:
    traffic = by_rows()
    sent = traffic.send(body=instances([A, B]))
    traffic.upstream.calls[0].answer(b'{ "predictions": [2,  4] }')
    assert sent.down.body == b'{ "predictions": [2,  4] }'
    assert traffic.upstream.calls[0].request.body == instances([A, B])


def test_batches_that_want_the_same_rows_at_once_ask_once() -> None:
    traffic = by_rows()
    one = traffic.send(body=instances([A, B]))
    others = [traffic.send(body=instances([B, A])) for _ in range(5)]
    assert len(traffic.upstream.calls) == 1
    answer(traffic.upstream.calls[0])
    assert labels(one) == [2, 4]
    assert {tuple(labels(each)) for each in others} == {(4, 2)}  # type: ignore[call-overload]
    assert {status(each) for each in others} == {b"headgate; fwd=miss; collapsed"}


def test_who_waits_goes_on_when_the_leader_leaves() -> None:
    traffic = by_rows()
    leader = traffic.send(body=instances([A, B]))
    joiner = traffic.send(body=instances([B, A]))
    leader.exchange.on_client_gone()
    assert len(traffic.upstream.calls) == 2
    answer(traffic.upstream.calls[1])
    assert labels(joiner) == [4, 2]


def test_who_waits_goes_on_when_the_answer_may_not_be_kept() -> None:
    traffic = by_rows()
    traffic.send(body=instances([A, B]))
    joiner = traffic.send(body=instances([B, A]))
    traffic.upstream.calls[0].answer(b'{"predictions": [2, 4]}', headers=[(b"cache-control", b"no-store")])
    answer(traffic.upstream.calls[1])
    assert labels(joiner) == [4, 2]


def test_all_who_wait_ask_at_once_when_the_answer_may_not_be_kept() -> None:
    traffic = by_rows()
    ask(traffic, C)
    traffic.send(body=instances([A, B, C]))
    for _ in range(3):
        traffic.send(body=instances([B, A]))
    traffic.upstream.calls[1].answer(b'{"predictions": [2, 4]}', headers=[(b"cache-control", b"no-store")])
    assert len(traffic.upstream.calls) == 2 + 3


def test_who_can_ask_only_once_asks_for_all_that_is_not_here() -> None:
    traffic = by_rows()
    alone = Traffic(answers=traffic.parts.answers)
    alone.parts.errands = None  # as little as a graph can it be asked a second time
    alone.use(KIND, Cache(Duration(30.0), scope="shared", rows=True))
    traffic.send(body=instances([A, B]))
    alone.send(body=instances([B, C]))
    assert asked_for(alone.upstream.calls[0]) == [B, C]


def test_every_waiter_is_served_or_led_whatever_happens() -> None:
    traffic = by_rows()
    first = traffic.send(body=instances([A]))
    second = traffic.send(body=instances([B]))
    both = traffic.send(body=instances([A, B]))  # waits for both
    first.exchange.on_client_gone()  # `both` leads A now, and still waits for B
    answer(traffic.upstream.calls[1])
    assert labels(second) == [4]
    assert asked_for(traffic.upstream.calls[2]) == [A]
    answer(traffic.upstream.calls[2])
    assert labels(both) == [2, 4]
    assert "0 under way" in repr(traffic.parts.answers)


def test_overlapping_batches_ask_for_each_row_once() -> None:
    traffic = by_rows()
    one = traffic.send(body=instances([A, B]))
    other = traffic.send(body=instances([B, C, A]))
    first, second = traffic.upstream.calls
    assert (asked_for(first), asked_for(second)) == ([A, B], [C])
    answer(second)
    assert not other.down.answered, "two of its rows are on their way to another"
    answer(first)
    assert (labels(one), labels(other)) == ([2, 4], [4, 6, 2])
    assert status(other) == b"headgate; fwd=partial; collapsed; stored"
    assert len(traffic.upstream.calls) == 2


def test_what_is_handed_over_while_its_own_call_is_under_way_is_asked_for_after_that() -> None:
    traffic = by_rows()
    leader = traffic.send(body=instances([A, B]))
    other = traffic.send(body=instances([B, C, A]))
    leader.exchange.on_client_gone()
    assert len(traffic.upstream.calls) == 2
    answer(traffic.upstream.calls[1])
    assert asked_for(traffic.upstream.calls[2]) == [B, A], "in one call"
    answer(traffic.upstream.calls[2])
    assert labels(other) == [4, 6, 2]
    assert "0 under way" in repr(traffic.parts.answers)


def test_what_is_handed_over_after_its_own_call_is_asked_for_at_once() -> None:
    traffic = by_rows()
    traffic.send(body=instances([A]))
    other = traffic.send(body=instances([A, B]))
    answer(traffic.upstream.calls[1])
    traffic.upstream.calls[0].fail(UpstreamReset("gone"))
    assert asked_for(traffic.upstream.calls[2]) == [A]
    answer(traffic.upstream.calls[2])
    assert labels(other) == [2, 4]
    assert traffic.observer.errands == [("digits", "digits-v1", "answered")]
    assert other.exchange.ctx.attempts == 2


@pytest.mark.parametrize("says", [b'{"error": "no"}', None, b'{"predictions": [1, 2]}'], ids=str)
def test_a_second_call_that_fails_is_the_answer_and_leaves_nobody_waiting(says: bytes | None) -> None:
    traffic = by_rows()
    traffic.send(body=instances([A]))
    other = traffic.send(body=instances([A, B]))
    third = traffic.send(body=instances([A]))
    answer(traffic.upstream.calls[1])
    traffic.upstream.calls[0].fail(UpstreamReset("gone"))
    if says is None:
        traffic.upstream.calls[2].fail(UpstreamReset("gone"))
    else:
        traffic.upstream.calls[2].answer(says, 400 if b"error" in says else 200)
    assert other.down.status == (422 if says and b"error" in says else 502)
    answer(traffic.upstream.calls[3])
    assert labels(third) == [2]
    assert "0 under way" in repr(traffic.parts.answers)


def test_a_second_call_is_called_off_when_its_client_leaves() -> None:
    traffic = by_rows()
    traffic.send(body=instances([A]))
    other = traffic.send(body=instances([A, B]))
    answer(traffic.upstream.calls[1])
    traffic.upstream.calls[0].fail(UpstreamReset("gone"))
    other.exchange.on_client_gone()
    assert traffic.observer.errands == [("digits", "digits-v1", "dropped")]
    assert "0 under way" in repr(traffic.parts.answers)


def test_what_a_second_call_forbids_to_keep_is_not_kept() -> None:
    traffic = by_rows()
    traffic.send(body=instances([A]))
    other = traffic.send(body=instances([A, B]))
    answer(traffic.upstream.calls[1])
    traffic.upstream.calls[0].fail(UpstreamReset("gone"))
    traffic.upstream.calls[2].answer(b'{"predictions": [2]}', headers=[(b"cache-control", b"no-store")])
    assert labels(other) == [2, 4]
    assert status(ask(traffic, B)) == b"headgate; hit"
    assert status(ask(traffic, A)) == b"headgate; fwd=miss; stored"


def test_rows_of_two_versions_make_no_answer_the_batch_is_asked_for_again() -> None:
    traffic = by_rows(speaks="kserve-v2")
    traffic.send(V2, inputs([A]))
    answer(traffic.upstream.calls[0])
    mixed = traffic.send(V2, inputs([A, B]))
    for call, rows in ((1, [4]), (2, [2, 4])):
        output = {"name": "label", "datatype": "INT64", "shape": [len(rows)], "data": rows}
        told = {"model_name": "digits", "model_version": "2", "outputs": [output]}
        traffic.upstream.calls[call].answer(orjson.dumps(told))
    assert asked_for(traffic.upstream.calls[2]) == [A, B]
    assert (mixed.down.status, labels(mixed)) == (200, [2, 4])
    again = traffic.send(V2, inputs([B, A]))
    assert (labels(again), status(again)) == ([4, 2], b"headgate; hit"), "the newer version's are kept"


ROWS = [[float(number), 0.0] for number in range(5)]
EVENTS = st.tuples(
    st.sampled_from(["ask"] * 4 + ["answer"] * 4 + ["leave", "fail", "refuse"]),
    st.integers(0, 30),
    st.lists(st.sampled_from(ROWS), min_size=1, max_size=4),
)


@settings(max_examples=300)
@given(st.lists(EVENTS, max_size=40), st.booleans())
def test_whatever_happens_every_batch_is_answered_and_no_row_asked_for_twice(
    events: list[tuple[str, int, list[list[float]]]], faultless: bool
) -> None:
    traffic = by_rows()
    batches: list[tuple[Sent, list[list[float]]]] = []

    def open_calls() -> list[FakeCall]:
        return [call for call in traffic.upstream.calls if not call.ended]

    for event, number, rows in events:
        calls = open_calls()
        if event == "ask":
            batches.append((traffic.send(body=instances(rows)), rows))
        elif event == "leave" and batches and not faultless:
            batches[number % len(batches)][0].exchange.on_client_gone()
        elif calls:
            call = calls[number % len(calls)]
            if event == "fail" and not faultless:
                call.fail(UpstreamReset("gone"))
            elif event == "refuse" and not faultless:
                answer(call, [(b"cache-control", b"no-store")])
            else:
                answer(call)
    while calls := open_calls():
        answer(calls[0])
    for sent, rows in batches:
        assert sent.exchange.ctx.finished
        if sent.down.answered and sent.down.status == 200:
            assert labels(sent) == [sum(row) for row in rows]
        else:
            assert not faultless
    assert "0 under way, 0 waiting" in repr(traffic.parts.answers)
    asked = [row for call in traffic.upstream.calls for row in asked_for(call)]
    assert not faultless or len(asked) == len({tuple(row) for row in asked})


def test_rows_that_no_instance_computed_are_given_back() -> None:
    traffic = Traffic()
    traffic.use(throttle.KIND, throttle.Throttle.from_text("4 rows/h burst 4"))
    traffic.use(KIND, Cache(Duration(30.0), scope="shared", rows=True))
    assert ask(traffic, A, B).down.status == 200
    assert ask(traffic, B, A).down.status == 200  # costs nothing
    assert ask(traffic, A, C).down.status == 200  # costs one
    assert ask(traffic, [7.0, 7.0]).down.status == 200  # the fourth
    assert ask(traffic, [8.0, 8.0]).down.status == 429


def test_rows_of_a_second_call_are_charged() -> None:
    traffic = Traffic()
    traffic.use(throttle.KIND, throttle.Throttle.from_text("4 rows/h burst 4"))
    traffic.use(KIND, Cache(Duration(30.0), scope="shared", rows=True))
    leader = traffic.send(body=instances([A]))
    traffic.send(body=instances([A, B]))
    leader.exchange.on_client_gone()  # its row is paid for: an instance has it
    answer(traffic.upstream.calls[1])
    answer(traffic.upstream.calls[2])  # A and B: with the leader's, three
    assert ask(traffic, C).down.status == 200
    assert ask(traffic, [7.0, 7.0]).down.status == 429


def test_another_gateway_behind_the_same_store_has_the_rows_too() -> None:
    blobs = MemoryBlobs(100_000, ManualClock())
    ask(by_rows(blobs=blobs), A, B)
    other = by_rows(blobs=blobs)
    assert labels(ask(other, B, C)) == [4, 6]
    assert asked_for(other.upstream.calls[0]) == [C]


def test_the_clients_wish_is_respected() -> None:
    traffic = by_rows()
    ask(traffic, A)
    for wish in (b"no-store", b"no-cache"):
        traffic.send(body=instances([A]), headers=[(b"cache-control", wish)])
        answer(traffic.upstream.calls[-1])
    assert len(traffic.upstream.calls) == 3
    traffic.clock.advance(10)
    for age, calls in ((b"max-age=20", 3), (b"max-age=5", 4)):
        traffic.send(body=instances([A]), headers=[(b"cache-control", age)])
        assert len(traffic.upstream.calls) == calls


def test_a_dry_run_keeps_and_joins_nothing() -> None:
    traffic = by_rows()
    assert traffic.send(body=instances([A]), dry=True).down.answered
    assert (len(traffic.parts.answers), "0 under way" in repr(traffic.parts.answers)) == (0, True)


def test_what_json_cannot_carry_goes_whole() -> None:
    traffic = by_rows()
    ask(traffic, A)
    raw = np.array([A, [math.nan, 1.0]], "<f4").tobytes()
    head = orjson.dumps(
        {
            "inputs": [
                {
                    "name": "input",
                    "datatype": "FP32",
                    "shape": [2, 2],
                    "parameters": {"binary_data_size": len(raw)},
                }
            ]
        }
    )
    length = [(b"inference-header-content-length", b"%d" % len(head))]
    sent = traffic.send(V2, head + raw, headers=length)
    assert traffic.upstream.calls[-1].request.body == head + raw
    output = {"name": "label", "datatype": "INT64", "shape": [2], "data": [2, 0]}
    traffic.upstream.calls[-1].answer(orjson.dumps({"model_name": "digits", "outputs": [output]}))
    assert labels(sent) == [2, 0]
    again = traffic.send(V2, head + raw, headers=length)
    assert (status(again), labels(again)) == (b"headgate; hit", [2, 0])


def test_a_policy_that_only_rehearses_keeps_nothing() -> None:
    traffic = Traffic()
    traffic.use_rules(KIND, Rule(Cache(Duration(30.0), rows=True), "p", enforce=False))
    ask(traffic, A)
    ask(traffic, A)
    assert len(traffic.upstream.calls) == 2
