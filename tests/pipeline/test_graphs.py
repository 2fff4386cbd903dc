"""Graphs of pools, through the real exchange: who is asked what, what comes back, what a failure costs."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from gateway.config.graphs import Cascade, Case, Graph
from gateway.config.units import Duration, Ratio
from gateway.http.message import Headers
from gateway.pipeline.errors import UpstreamReset
from gateway.pipeline.graphs import GraphPool
from gateway.pipeline.pool_verbs import PoolSettings
from gateway.pipeline.ports import Principal
from tests.fakes.traffic import V1, V2, FakeCall, Sent, Traffic, inputs, instances


class Graphed(Traffic):
    """Traffic to a pool `graph` that asks pools `a`, `b`, `c` of one instance each."""

    def __init__(self, speaks: str = "kserve-v2", **form: Any) -> None:
        super().__init__({"graph": 0, "a": 1, "b": 1, "c": 1}, speaks=speaks)
        self.graph = GraphPool("graph", PoolSettings(), self.ids)
        self.pools["graph"] = self.graph
        self.graph.join(Graph(**form), self.pools)

    def asked(self, **options: Any) -> Sent:
        return self.send(V2, inputs([[1, 2]]), **options)

    def at(self, pool: str) -> list[FakeCall]:
        """The calls to a pool that nobody answered yet, in order."""
        return [
            call
            for call in self.upstream.calls
            if call.instance in self.pools[pool].members.instances and not getattr(call, "over", False)
        ]

    def answer(self, pool: str, **outputs: list[Any]) -> None:
        """Answer the oldest call to a pool with outputs of so many rows, FP32 or text or integers."""
        call = self.at(pool)[0]
        call.over = True  # type: ignore[attr-defined]
        call.answer(answered(**outputs))

    def fail(self, pool: str) -> None:
        call = self.at(pool)[0]
        call.over = True  # type: ignore[attr-defined]
        call.fail(UpstreamReset("gone"))

    def assert_nothing_held(self) -> None:
        assert all(pool.in_flight == 0 for pool in self.pools.values())


def answered(**outputs: list[Any]) -> bytes:
    """A model server's answer in KServe V2."""
    tensors = []
    for name, values in outputs.items():
        width = len(values[0]) if isinstance(values[0], list) else 0
        flat = [item for row in values for item in row] if width else values
        kind = {float: "FP32", int: "INT64", str: "BYTES"}[type(flat[0])]
        shape = [len(values), width] if width else [len(values)]
        tensors.append({"name": name, "datatype": kind, "shape": shape, "data": flat})
    return orjson.dumps({"model_name": "m", "outputs": tensors})


def outputs_of(sent: Sent) -> dict[str, Any]:
    assert sent.down.status == 200, sent.down.body
    return {one["name"]: one["data"] for one in orjson.loads(sent.down.body)["outputs"]}


def body_of(call: FakeCall) -> Any:
    assert call.request.body is not None
    return orjson.loads(call.request.body)


# In a row


def test_each_member_of_a_sequence_gets_what_the_one_before_answered() -> None:
    traffic = Graphed(sequence=("a", "b"))
    sent = traffic.asked()
    assert not traffic.at("b")
    traffic.answer("a", scaled=[[0.5, 0.25]])
    (call,) = traffic.at("b")
    (tensor,) = body_of(call)["inputs"]
    assert (tensor["name"], tensor["shape"], tensor["data"]) == ("input", [1, 2], [0.5, 0.25])
    traffic.answer("b", label=[7])
    assert outputs_of(sent) == {"label": [7]}
    assert sent.ctx.attempts == 2
    traffic.assert_nothing_held()


def test_what_a_member_says_of_bad_input_is_the_answer_and_nobody_else_is_asked() -> None:
    traffic = Graphed(sequence=("a", "b"))
    sent = traffic.asked()
    traffic.at("a")[0].answer(b'{"error": "unexpected shape for input"}', status=400)
    assert sent.down.status == 422
    assert not traffic.at("b")
    traffic.assert_nothing_held()


def test_a_member_that_fails_is_the_graph_s_failure() -> None:
    traffic = Graphed(sequence=("a", "b"))
    sent = traffic.asked()
    traffic.answer("a", scaled=[[0.5, 0.25]])
    traffic.fail("b")
    assert sent.down.status == 502
    traffic.assert_nothing_held()


def test_a_client_of_another_protocol_than_the_members_is_answered_in_its_own() -> None:
    traffic = Graphed(sequence=("a",))
    sent = traffic.send(V1, instances([[1, 2]]))
    traffic.answer("a", label=[7])
    assert orjson.loads(sent.down.body) == {"predictions": [7]}


# All at once


def test_an_ensemble_asks_all_at_once_and_averages() -> None:
    traffic = Graphed(ensemble=("a", "b"), weights={"b": 3.0})
    sent = traffic.asked()
    assert len(traffic.at("a")) == len(traffic.at("b")) == 1
    traffic.answer("b", scores=[[0.0, 1.0]], name=["two"])
    traffic.answer("a", scores=[[1.0, 0.0]], name=["one"])
    assert outputs_of(sent) == {"scores": [0.25, 0.75], "name": ["two"]}


def test_a_vote_is_won_by_the_class_with_most_weight_behind_it() -> None:
    traffic = Graphed(ensemble=("a", "b", "c"), by="vote")
    sent = traffic.asked()
    traffic.answer("a", scores=[[0.6, 0.4]])
    traffic.answer("b", scores=[[0.1, 0.9]])
    traffic.answer("c", scores=[[0.3, 0.7]])
    assert outputs_of(sent)["scores"] == pytest.approx([0.2, 0.8])


def test_all_outputs_side_by_side_say_whose_they_are() -> None:
    traffic = Graphed(ensemble=("a", "b"), by="all")
    sent = traffic.asked()
    traffic.answer("a", label=[1])
    traffic.answer("b", score=[[0.5, 0.5]])
    assert outputs_of(sent) == {"a.label": [1], "b.score": [0.5, 0.5]}


def test_a_member_that_fails_is_left_out_where_the_others_are_enough_and_the_answer_says_so() -> None:
    traffic = Graphed(ensemble=("a", "b", "c"), need=2)
    sent = traffic.asked()
    traffic.answer("a", scores=[[1.0, 0.0]])
    traffic.fail("b")
    assert not sent.down.answered
    traffic.answer("c", scores=[[0.0, 1.0]])
    assert outputs_of(sent)["scores"] == [0.5, 0.5]
    assert sent.down.field(b"x-degraded") == b"ensemble 2 of 3"


def test_too_few_members_are_a_failure_at_once_and_the_rest_is_called_off() -> None:
    traffic = Graphed(ensemble=("a", "b", "c"), need=2)
    sent = traffic.asked()
    traffic.fail("b")
    traffic.fail("a")
    assert sent.down.status == 502
    (left,) = traffic.at("c")
    assert left.cancelled
    traffic.assert_nothing_held()


def test_a_straggler_is_waited_for_until_patience_is_over_and_then_called_off() -> None:
    traffic = Graphed(ensemble=("a", "b", "c"), need=2, patience=Duration(0.05))
    sent = traffic.asked()
    traffic.answer("a", scores=[[1.0, 0.0]])
    traffic.answer("c", scores=[[0.0, 1.0]])
    traffic.clock.advance(0.04)
    traffic.timers.fire()
    assert not sent.down.answered
    traffic.clock.advance(0.02)
    (late,) = traffic.at("b")
    traffic.timers.fire()
    assert outputs_of(sent)["scores"] == [0.5, 0.5]
    assert sent.down.field(b"x-degraded") == b"ensemble 2 of 3"
    assert late.cancelled
    traffic.assert_nothing_held()


def test_when_patience_is_over_too_early_the_next_answer_that_is_enough_is() -> None:
    traffic = Graphed(ensemble=("a", "b", "c"), need=2, patience=Duration(0.05))
    sent = traffic.asked()
    traffic.answer("a", scores=[[1.0, 0.0]])
    traffic.clock.advance(0.06)
    traffic.timers.fire()
    assert not sent.down.answered
    traffic.answer("b", scores=[[0.0, 1.0]])
    assert sent.down.field(b"x-degraded") == b"ensemble 2 of 3"


def test_patience_without_need_is_no_graph() -> None:
    with pytest.raises(ValueError, match="expected need"):
        Graph(ensemble=("a", "b"), patience=Duration(0.05))


def test_members_that_answer_in_different_forms_are_no_ensemble() -> None:
    traffic = Graphed(ensemble=("a", "b"))
    sent = traffic.asked()
    traffic.answer("a", scores=[[1.0, 0.0]])
    traffic.answer("b", scores=[[1.0, 0.0, 0.0]])
    assert (sent.down.status, sent.down.field(b"x-headgate-reason")) == (502, b"upstream_unreadable")


# One of several


@pytest.mark.parametrize(
    ("rows", "headers", "plan", "asked"),
    [
        (5, [], "", "a"),
        (4, [(b"x-tier", b"gold")], "", "b"),
        (4, [], "silver", "b"),
        (4, [(b"x-tier", b"tin")], "", "c"),
    ],
)
def test_a_switch_asks_where_the_first_case_holds(rows: int, headers: Headers, plan: str, asked: str) -> None:
    cases = (
        Case("a", rows_over=4),
        Case("b", headers={"X-Tier": "gold"}),
        Case("b", plans=("silver",)),
        Case("c"),
    )
    traffic = Graphed(switch=cases)
    who = Principal("somebody", plan=plan)
    sent = traffic.send(V2, inputs([[1, 2]] * rows), headers=headers, principal=who)
    traffic.answer(asked, label=[1] * rows)
    assert outputs_of(sent) == {"label": [1] * rows}


def test_a_switch_that_has_no_case_refuses() -> None:
    sent = Graphed(switch=(Case("a", rows_over=4),)).asked()
    assert (sent.down.status, sent.down.field(b"x-headgate-reason")) == (422, b"no_case")


def test_a_splitter_asks_by_chance() -> None:
    traffic = Graphed(split={"a": Ratio(0.8), "b": Ratio(0.2)})
    for _ in range(500):
        traffic.asked()
    assert 370 < len(traffic.at("a")) < 430
    assert len(traffic.at("a")) + len(traffic.at("b")) == 500


# Better answers for some rows


def test_a_cascade_asks_the_better_model_about_the_doubtful_rows_only() -> None:
    traffic = Graphed(cascade=Cascade("a", "b", Ratio(0.9)))
    sent = traffic.send(V2, inputs([[1, 2], [3, 4], [5, 6]]))
    traffic.answer("a", scores=[[0.95, 0.05], [0.6, 0.4], [0.5, 0.5]], label=["x", "y", "z"])
    (call,) = traffic.at("b")
    assert body_of(call)["inputs"][0]["data"] == [3, 4, 5, 6]
    traffic.answer("b", scores=[[0.0, 1.0], [1.0, 0.0]], label=["Y", "Z"])
    assert outputs_of(sent) == {"scores": pytest.approx([0.95, 0.05, 0, 1, 1, 0]), "label": ["x", "Y", "Z"]}


def test_a_sure_answer_asks_nobody_else() -> None:
    traffic = Graphed(cascade=Cascade("a", "b", Ratio(0.9)))
    sent = traffic.asked()
    traffic.answer("a", scores=[[0.95, 0.05]])
    assert outputs_of(sent)
    assert not traffic.at("b")


def test_when_the_better_model_fails_the_first_one_s_answer_stands_and_says_so() -> None:
    traffic = Graphed(cascade=Cascade("a", "b", Ratio(0.9)))
    sent = traffic.asked()
    traffic.answer("a", scores=[[0.5, 0.5]])
    traffic.fail("b")
    assert outputs_of(sent) == {"scores": [0.5, 0.5]}
    assert sent.down.field(b"x-degraded") == b"cascade"


# Parts


def test_a_large_batch_is_scattered_in_nearly_equal_parts_and_gathered_in_order() -> None:
    traffic = Graphed(scatter="a", rows=4)
    sent = traffic.send(V2, inputs([[row, 0] for row in range(9)]))
    parts = [body_of(call)["inputs"][0]["data"][::2] for call in traffic.at("a")]
    assert parts == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
    for call, part in reversed(list(zip(traffic.at("a"), parts, strict=True))):
        call.answer(answered(label=[int(row) * 10 for row in part]))
    assert outputs_of(sent) == {"label": [row * 10 for row in range(9)]}


def test_one_part_that_fails_fails_the_batch_and_calls_the_others_off() -> None:
    traffic = Graphed(scatter="a", rows=4)
    sent = traffic.send(V2, inputs([[row, 0] for row in range(9)]))
    first, *others = traffic.at("a")
    first.fail(UpstreamReset("gone"))
    assert sent.down.status == 502
    assert all(call.cancelled for call in others)
    traffic.assert_nothing_held()


def test_a_batch_of_very_many_parts_has_only_some_under_way() -> None:
    traffic = Graphed(scatter="a", rows=1)
    sent = traffic.send(V2, inputs([[row, 0] for row in range(40)]))
    assert len(traffic.at("a")) == 16
    answers = 0
    while traffic.at("a"):
        traffic.answer("a", label=[answers])
        answers += 1
    assert answers == 40
    assert len(outputs_of(sent)["label"]) == 40


# Time, clients, and graphs of graphs


def test_a_client_that_leaves_calls_everything_off() -> None:
    traffic = Graphed(ensemble=("a", "b"))
    sent = traffic.asked()
    sent.exchange.on_client_gone()
    assert all(call.cancelled for call in traffic.upstream.calls)
    traffic.assert_nothing_held()
    assert sent.ctx.attempts == 2


def test_the_request_s_time_bounds_all_steps_together() -> None:
    traffic = Graphed(sequence=("a", "b"))
    sent = traffic.asked(timeout=1.0)
    traffic.clock.advance(0.6)
    traffic.answer("a", scaled=[[0.5, 0.25]])
    traffic.clock.advance(0.5)
    traffic.timers.fire()
    assert sent.down.status == 504
    assert traffic.at("b")[0].cancelled
    traffic.assert_nothing_held()


def test_a_member_may_be_a_graph() -> None:
    traffic = Graphed(ensemble=("a", "b"))
    outer = GraphPool("outer", PoolSettings(), traffic.ids)
    traffic.pools = {"outer": outer, **traffic.pools}
    outer.join(Graph(sequence=("graph", "c")), traffic.pools)
    sent = traffic.asked()
    traffic.answer("a", scores=[[1.0, 0.0]])
    traffic.answer("b", scores=[[0.0, 1.0]])
    assert body_of(traffic.at("c")[0])["inputs"][0]["data"] == [0.5, 0.5]
    traffic.answer("c", label=[3])
    assert outputs_of(sent) == {"label": [3]}


def test_explain_asks_nobody_and_says_whom_it_would() -> None:
    traffic = Graphed(ensemble=("a", "b"))
    sent = traffic.asked(dry=True)
    assert not traffic.upstream.calls
    assert orjson.loads(sent.down.body) == {"would_ask": {"pool": "graph", "members": ["a", "b"]}}


@pytest.mark.parametrize(
    ("form", "down", "usable"),
    [
        ({"sequence": ("a", "b")}, ("b",), False),
        ({"ensemble": ("a", "b", "c"), "need": 2}, ("c",), True),
        ({"ensemble": ("a", "b", "c"), "need": 2}, ("b", "c"), False),
        ({"split": {"a": Ratio(0.5), "b": Ratio(0.5)}}, ("a",), True),
    ],
)
def test_a_graph_is_ready_when_as_many_members_are_as_it_needs(
    form: dict[str, Any], down: tuple[str, ...], usable: bool
) -> None:
    traffic = Graphed(**form)
    assert traffic.graph.usable(traffic.clock.now())
    for pool in down:
        traffic.kill(pool)
    assert traffic.graph.usable(traffic.clock.now()) is usable


# Losses


def test_what_a_member_did_not_get_is_said_and_what_the_client_can_not_read_is_refused() -> None:
    traffic = Graphed("kserve-v1", sequence=("a",))
    body = orjson.loads(inputs([[1, 2]]))
    sent = traffic.send(V2, orjson.dumps({**body, "parameters": {"temperature": 0.5}}))
    traffic.at("a")[0].answer(b'{"predictions":[7]}')
    assert outputs_of(sent) == {"label": [7]}
    assert sent.down.field(b"x-headgate-lossy") == b"parameters"
    sent = traffic.send(V2, orjson.dumps({**body, "outputs": [{"name": "other"}]}))
    traffic.upstream.calls[-1].answer(b'{"predictions":[7]}')
    assert (sent.down.status, sent.down.field(b"x-headgate-reason")) == (422, b"wrong_name")
