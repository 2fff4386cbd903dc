"""Batches of many clients' predictions: when they go, who is in them, what one bad row costs."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from gateway.config.units import Duration
from gateway.filters.batch import KIND, Batch, BatchFilter
from gateway.pipeline.errors import UpstreamReset
from gateway.pipeline.ports import Principal
from tests.fakes.traffic import V2, FakeCall, Sent, Traffic, inputs


class Batched(Traffic):
    """Traffic to one pool of so many instances, gathered."""

    def __init__(self, instances: int = 1, **verb: Any) -> None:
        super().__init__({"digits-v1": instances}, speaks="kserve-v2")
        (made,) = self.use(KIND, Batch(**verb))
        assert isinstance(made, BatchFilter)
        self.filter = made

    def ask(self, *values: float, who: str = "", **options: Any) -> Sent:
        """Ask one row for each value."""
        return self.send(V2, inputs([[value, 0] for value in values]), principal=Principal(who), **options)

    def rows(self, call: int) -> list[float]:
        """The values of a call's rows."""
        body = self.upstream.calls[call].request.body
        assert body is not None
        (tensor,) = orjson.loads(body)["inputs"]
        return list(tensor["data"][::2])

    def answer(self, call: int) -> None:
        """Answer each row with ten times its value."""
        labels = [int(value * 10) for value in self.rows(call)]
        self.upstream.calls[call].answer(answer_of(labels))

    def assert_nothing_held(self) -> None:
        assert all(pool.in_flight == 0 for pool in self.pools.values())
        for one in self.filter._gatherings.values():
            assert (one.under_way, one.former.waiting) == (0, 0)


def answer_of(labels: list[int]) -> bytes:
    tensor = {"name": "label", "datatype": "INT64", "shape": [len(labels)], "data": labels}
    return orjson.dumps({"model_name": "digits", "outputs": [tensor]})


def label(sent: Sent) -> list[int]:
    assert sent.down.status == 200, sent.down.body
    return list(orjson.loads(sent.down.body)["outputs"][0]["data"])


def test_a_prediction_that_finds_the_pool_idle_goes_at_once() -> None:
    traffic = Batched()
    sent = traffic.ask(1)
    traffic.answer(0)
    assert label(sent) == [10]
    assert (sent.ctx.attempts, sent.ctx.instance is not None) == (1, True)
    traffic.assert_nothing_held()


def test_those_that_come_meanwhile_go_together_and_get_their_own_answers() -> None:
    traffic = Batched()
    first = traffic.ask(1)
    later = [traffic.ask(2), traffic.ask(3, 4), traffic.ask(5)]
    assert len(traffic.upstream.calls) == 1
    traffic.answer(0)
    assert traffic.rows(1) == [2, 3, 4, 5]
    traffic.answer(1)
    assert [label(sent) for sent in (first, *later)] == [[10], [20], [30, 40], [50]]
    assert len(traffic.upstream.calls) == 2
    traffic.assert_nothing_held()


def test_every_client_gets_its_own_id_back() -> None:
    traffic = Batched()
    traffic.ask(1)
    sent = [traffic.send(V2, inputs([[2, 0]], id=id)) for id in ("one", "two")]
    traffic.answer(0)
    traffic.answer(1)
    assert [orjson.loads(one.down.body)["id"] for one in sent] == ["one", "two"]


def test_a_batch_has_no_more_rows_than_it_may() -> None:
    traffic = Batched(rows=4)
    traffic.ask(1)
    for value in range(10):
        traffic.ask(value)
    traffic.answer(0)
    assert len(traffic.rows(1)) == 4


def test_a_prediction_of_many_rows_goes_by_itself() -> None:
    traffic = Batched(rows=2)
    traffic.ask(1)
    traffic.ask(2, 3)
    assert len(traffic.upstream.calls) == 2


def test_as_many_batches_are_under_way_as_the_pool_has_instances() -> None:
    traffic = Batched(instances=3)
    for value in range(5):
        traffic.ask(value)
    assert len(traffic.upstream.calls) == 3


def test_with_a_wait_the_first_one_waits_for_company() -> None:
    traffic = Batched(wait=Duration(0.002), rows=3)
    traffic.ask(1)
    traffic.ask(2)
    assert not traffic.upstream.calls
    traffic.clock.advance(0.002)
    traffic.timers.fire()
    assert traffic.rows(0) == [1, 2]


def test_a_full_batch_waits_for_nobody() -> None:
    traffic = Batched(wait=Duration(0.002), rows=2)
    traffic.ask(1)
    traffic.ask(2)
    assert traffic.rows(0) == [1, 2]


def test_one_caller_s_thousand_does_not_keep_another_s_one_waiting() -> None:
    traffic = Batched(rows=4)
    traffic.ask(0, who="greedy")
    for value in range(100):
        traffic.ask(value, who="greedy")
    traffic.ask(777, who="modest")
    traffic.answer(0)
    assert 777 in traffic.rows(1)


def test_others_inputs_or_parameters_are_another_batch() -> None:
    traffic = Batched()
    traffic.ask(1)
    traffic.ask(2)
    other = orjson.loads(inputs([[3, 0]]))
    other["parameters"] = {"temperature": 1}
    traffic.send(V2, orjson.dumps(other))
    assert len(traffic.upstream.calls) == 2  # it did not wait
    traffic.answer(0)
    assert traffic.rows(2) == [2]


# When something is wrong


def test_one_bad_row_is_its_own_sender_s_alone() -> None:
    traffic = Batched()
    traffic.ask(1)
    good, bad = traffic.ask(2), traffic.ask(666)
    traffic.answer(0)
    traffic.upstream.calls[1].answer(b'{"error": "unexpected shape for input"}', status=400)
    assert [traffic.rows(2), traffic.rows(3)] == [[2], [666]]
    traffic.upstream.calls[3].answer(b'{"error": "unexpected shape for input"}', status=400)
    traffic.answer(2)
    assert label(good) == [20]
    assert bad.down.status == 422
    traffic.assert_nothing_held()


def test_an_answer_with_other_rows_than_were_asked_is_nobody_s() -> None:
    traffic = Batched()
    traffic.ask(1)
    sent = [traffic.ask(2), traffic.ask(3)]
    traffic.answer(0)
    traffic.upstream.calls[1].answer(answer_of([20, 30, 40]))
    traffic.answer(2)
    traffic.answer(3)
    assert [label(one) for one in sent] == [[20], [30]]


def test_a_pool_that_fails_fails_all_of_them_alike() -> None:
    traffic = Batched()
    traffic.ask(1)
    sent = [traffic.ask(2), traffic.ask(3)]
    traffic.answer(0)
    traffic.upstream.calls[1].fail(UpstreamReset("gone"))
    assert [one.down.status for one in sent] == [502, 502]
    assert [one.down.field(b"x-headgate-reason") for one in sent] == [b"upstream_reset"] * 2
    traffic.assert_nothing_held()


def test_a_client_that_left_is_not_asked_for() -> None:
    traffic = Batched()
    traffic.ask(1)
    gone, stays = traffic.ask(2), traffic.ask(3)
    gone.exchange.on_client_gone()
    traffic.answer(0)
    assert traffic.rows(1) == [3]
    traffic.answer(1)
    assert label(stays) == [30]
    traffic.assert_nothing_held()


def test_a_client_that_leaves_a_batch_under_way_costs_the_others_nothing() -> None:
    traffic = Batched()
    traffic.ask(1)
    gone, stays = traffic.ask(2), traffic.ask(3)
    traffic.answer(0)
    gone.exchange.on_client_gone()
    traffic.answer(1)
    assert label(stays) == [30]
    assert not gone.down.answered
    traffic.assert_nothing_held()


def test_who_can_t_be_answered_in_time_is_left_out_of_the_batch() -> None:
    traffic = Batched()
    traffic.ask(1)
    late, patient = traffic.ask(2, timeout=1.2), traffic.ask(3)
    traffic.clock.advance(1.0)  # so long a batch takes here
    traffic.answer(0)
    assert traffic.rows(1) == [3]
    traffic.clock.advance(0.3)
    traffic.timers.fire()
    assert late.down.status == 504
    traffic.answer(1)
    assert label(patient) == [30]
    traffic.assert_nothing_held()


def test_explain_says_that_it_would_and_sends_nothing() -> None:
    traffic = Batched()
    sent = traffic.send(V2, inputs([[1, 0]]), dry=True)
    assert not any(isinstance(call, FakeCall) and call.request.body for call in traffic.upstream.calls)
    assert sent.down.answered


@pytest.mark.parametrize("seed", range(20))
def test_whatever_happens_nothing_stays_behind_and_nobody_gets_another_s_answer(seed: int) -> None:
    import random

    rng = random.Random(seed)
    traffic = Batched(instances=rng.randint(1, 3), rows=rng.randint(2, 6))
    asked: list[tuple[Sent, list[float]]] = []
    done = 0
    while len(asked) < 60 or done < len(traffic.upstream.calls):
        if len(asked) < 60 and rng.random() < 0.6:
            values = [float(rng.randrange(1000)) for _ in range(rng.randint(1, 3))]
            asked.append((traffic.ask(*values, who=str(rng.randrange(3))), values))
        elif rng.random() < 0.1 and asked:
            rng.choice(asked)[0].exchange.on_client_gone()
        elif done < len(traffic.upstream.calls):
            call, done = done, done + 1
            if rng.random() < 0.1:
                traffic.upstream.calls[call].fail(UpstreamReset("gone"))
            elif rng.random() < 0.1:
                traffic.upstream.calls[call].answer(b'{"error": "json parse error"}', status=400)
            else:
                traffic.answer(call)
    for sent, values in asked:
        assert sent.exchange.phase.name == "DONE"
        if sent.down.answered and sent.down.status == 200:
            assert label(sent) == [int(value * 10) for value in values]
    traffic.assert_nothing_held()
