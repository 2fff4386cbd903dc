from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.config.units import Duration, Ratio, Size
from gateway.filters import degrade, release, send
from gateway.filters.cache import KIND, Cache
from gateway.filters.cache_whole import LARGE
from gateway.http.message import Headers, Response
from gateway.pipeline.answers import AnswerStore
from gateway.pipeline.choice import Explicit
from gateway.pipeline.errors import UpstreamReset
from gateway.pipeline.ports import Principal
from gateway.pipeline.promise import Promise
from gateway.stores.memory import MemoryBlobs
from tests.fakes.clock import ManualClock
from tests.fakes.traffic import V1, V2, Sent, Traffic, inputs, instances

ANSWER = b'{"predictions": [7]}'
ALICE = Principal("alice", tenant="acme")
BOB = Principal("bob", tenant="acme")
EVE = Principal("eve", tenant="evil")


def cached(*, speaks: str = "http", blobs: MemoryBlobs | None = None, **settings: object) -> Traffic:
    traffic = Traffic(speaks=speaks, blobs=blobs)
    fields: dict[str, object] = {"ttl": Duration(30.0), "scope": "shared", **settings}
    traffic.use(KIND, Cache(**fields))  # type: ignore[arg-type]
    return traffic


def asked(
    traffic: Traffic, body: bytes = b"", *, path: bytes = V1, answer: bytes = ANSWER, **how: object
) -> Sent:
    """Send a prediction; if it reaches an instance, let that answer."""
    before = len(traffic.upstream.calls)
    sent = traffic.send(path, body or instances([[1, 2]]), **how)  # type: ignore[arg-type]
    if len(traffic.upstream.calls) > before:
        traffic.upstream.calls[-1].answer(answer)
    return sent


def status(sent: Sent) -> bytes | None:
    return sent.down.field(b"cache-status")


# Hits and misses


def test_the_same_question_is_answered_from_the_cache_the_second_time() -> None:
    traffic = cached()
    first = asked(traffic)
    traffic.clock.advance(3.2)
    second = asked(traffic)
    assert (status(first), status(second)) == (b"headgate; fwd=miss; stored", b"headgate; hit")
    assert (second.down.body, second.down.field(b"age")) == (ANSWER, b"3")
    assert second.down.field(b"content-type") == b"application/json"
    assert second.ctx.answered_by == "cache"
    assert len(traffic.upstream.calls) == 1


@pytest.mark.parametrize(
    ("body", "same"),
    [
        (b'{"instances": [[1.0, 2e0]]}', True),
        (b'{"inputs": [[1, 2]]}', None),
        (b'{"instances": [{"input": [1, 2]}]}', True),
        (b'{"instances": [[1, 3]]}', False),
        (b'{"instances": [[1, 2], [1, 2]]}', False),
    ],
)
def test_a_question_is_the_same_however_it_is_written(body: bytes, same: bool | None) -> None:
    traffic = cached(speaks="tensorflow-serving")
    asked(traffic)
    again = asked(traffic, body)
    assert (status(again) == b"headgate; hit") is (same is not False)
    if same is None:  # the column form has an answer of its own shape
        assert orjson.loads(again.down.body) == {"outputs": [7]}


def test_an_answer_in_one_dialect_is_a_hit_in_another() -> None:
    traffic = cached(speaks="tensorflow-serving")
    asked(traffic)
    other = asked(traffic, inputs([[1, 2]], id="mine"), path=V2)
    assert status(other) == b"headgate; hit"
    answer = orjson.loads(other.down.body)
    assert answer["id"] == "mine"
    assert (answer["outputs"][0]["name"], answer["outputs"][0]["data"]) == ("label", [7])
    assert len(traffic.upstream.calls) == 1


def test_each_request_gets_its_own_id_back() -> None:
    traffic = cached(speaks="kserve-v2")
    answer = (
        b'{"id": "one", "model_name": "digits", "outputs": '
        b'[{"name": "label", "datatype": "INT64", "shape": [1], "data": [7]}]}'
    )
    first = asked(traffic, inputs([[1, 2]], id="one"), path=V2, answer=answer)
    second = asked(traffic, inputs([[1, 2]], id="two"), path=V2)
    third = asked(traffic, inputs([[1, 2]], id="one"), path=V2)
    assert [orjson.loads(sent.down.body)["id"] for sent in (first, second, third)] == ["one", "two", "one"]
    assert [status(sent) for sent in (second, third)] == [b"headgate; hit"] * 2


@pytest.mark.parametrize(
    ("scope", "shared_with"),
    [("principal", {"alice"}), ("tenant", {"alice", "bob"}), ("shared", {"alice", "bob", "eve", ""})],
)
def test_answers_are_shared_as_far_as_the_scope_says(scope: str, shared_with: set[str]) -> None:
    traffic = cached(scope=scope)
    asked(traffic, principal=ALICE)
    hits = {
        "" if who is None else who.name
        for who in (ALICE, BOB, EVE, None)
        if status(asked(traffic, principal=who)) == b"headgate; hit"
    }
    assert hits == shared_with


def test_each_version_has_its_own_answers() -> None:
    traffic = Traffic({"digits-v1": 1, "digits-v2": 1}, versions={"1": "digits-v1", "2": "digits-v2"})
    traffic.add(Explicit(traffic.parts))
    traffic.use(send.KIND, send.Send({"1": Ratio(1.0)}))
    traffic.use(KIND, Cache(Duration(30.0)))
    asked(traffic)
    assert (
        status(asked(traffic, path=b"/v1/models/digits/versions/2:predict")) == b"headgate; fwd=miss; stored"
    )
    assert status(asked(traffic, path=b"/v1/models/digits/versions/1:predict")) == b"headgate; hit"


def test_each_pool_and_each_version_of_one_pool_has_its_own_answers() -> None:
    answers = AnswerStore(100_000)
    for pools, versions in (
        ({"one": 1}, {"1": "one", "2": "one"}),
        ({"other": 1}, {"1": "other", "2": "other"}),
    ):
        traffic = Traffic(pools, versions=versions, answers=answers)
        traffic.add(Explicit(traffic.parts))
        traffic.use(send.KIND, send.Send({"1": Ratio(1.0)}))
        traffic.use(KIND, Cache(Duration(30.0)))
        for version in (b"1", b"2"):
            sent = asked(traffic, path=b"/v1/models/digits/versions/%b:predict" % version)
            assert status(sent) == b"headgate; fwd=miss; stored"


@pytest.mark.parametrize(
    ("said", "kept"),
    [({"temperature": 0.7}, False), ({"temperature": 0.7, "seed": 1}, True), ({"sequence_id": 3}, False)],
    ids=str,
)
def test_what_may_be_answered_otherwise_the_next_time_is_not_kept(
    said: dict[str, object], kept: bool
) -> None:
    traffic = cached(speaks="kserve-v2")
    output = {"name": "label", "datatype": "INT64", "shape": [1], "data": [7]}
    body = orjson.dumps({**orjson.loads(inputs([[1, 2]])), "parameters": said})
    for _ in range(2):
        sent = asked(
            traffic, body, path=V2, answer=orjson.dumps({"model_name": "digits", "outputs": [output]})
        )
    assert status(sent) == (b"headgate; hit" if kept else b"headgate; fwd=bypass")


def test_what_is_no_prediction_has_nothing_to_do_with_the_cache() -> None:
    traffic = cached()
    assert status(asked(traffic, path=b"/orders/7")) is None


def test_too_many_rows_are_neither_looked_up_nor_kept() -> None:
    traffic = cached(max_rows=2)
    many = instances([[1, 2]] * 3)
    assert [status(asked(traffic, many)) for _ in range(2)] == [b"headgate; fwd=bypass"] * 2


def test_a_body_that_cant_be_read_goes_on_and_is_not_cached() -> None:
    traffic = cached()
    sent = asked(traffic, b'{"instances": [[1, 2], [3]]}')
    assert (sent.down.status, status(sent)) == (200, b"headgate; fwd=bypass")


def test_an_explained_request_joins_nothing_and_keeps_nothing() -> None:
    traffic = cached()
    dry = traffic.send(dry=True)
    assert dry.down.status == 200
    assert len(traffic.parts.answers) == 0
    leader = traffic.send()
    assert traffic.send(dry=True).down.answered
    traffic.upstream.calls[0].answer(ANSWER)
    assert leader.down.answered
    assert status(traffic.send(dry=True)) == b"headgate; hit"


# What may be kept


@pytest.mark.parametrize(
    ("code", "headers"),
    [
        (500, []),
        (400, []),
        (404, []),
        (201, []),
        (200, [(b"cache-control", b"no-store")]),
        (200, [(b"cache-control", b"max-age=60, Private")]),
        (200, [(b"cache-control", b"no-cache")]),
        (200, [(b"cache-control", b"max-age=0")]),
        (200, [(b"set-cookie", b"a=b")]),
        (200, [(b"vary", b"accept-encoding, origin")]),
        (200, [(b"content-encoding", b"gzip")]),
    ],
)
def test_errors_and_answers_that_forbid_it_are_not_kept(code: int, headers: Headers) -> None:
    traffic = cached()
    sent = traffic.send()
    traffic.upstream.calls[0].answer(ANSWER, code, headers)
    assert (sent.down.status, status(sent)) == (code, b"headgate; fwd=miss")
    assert len(traffic.parts.answers) == 0


def test_an_instance_may_shorten_the_time_but_not_lengthen_it() -> None:
    traffic = cached()
    traffic.send()
    traffic.upstream.calls[0].answer(ANSWER, headers=[(b"cache-control", b"max-age=5, s-maxage=9")])
    traffic.clock.advance(8)
    assert status(asked(traffic)) == b"headgate; hit"
    traffic.clock.advance(2)
    traffic.send()
    traffic.upstream.calls[1].answer(ANSWER, headers=[(b"cache-control", b"max-age=500")])
    traffic.clock.advance(31)
    assert status(asked(traffic)) == b"headgate; fwd=miss; stored"


def test_a_large_answer_streams_past_and_is_not_kept() -> None:
    traffic = cached(size=Size(10))
    sent = traffic.send()
    call = traffic.upstream.calls[0]
    call.sink.on_response(Response(200, [], None, length=20))
    for last in (False, True):
        call.sink.on_chunk(b"0123456789", last)
    assert (sent.down.body, status(sent)) == (b"01234567890123456789", b"headgate; fwd=miss")
    assert len(traffic.parts.answers) == 0


def test_a_large_answer_that_is_whole_because_it_was_translated_is_not_kept_either() -> None:
    traffic = cached(size=Size(10), speaks="kserve-v2")
    output = {"name": "label", "datatype": "INT64", "shape": [1], "data": [7]}
    sent = asked(traffic, answer=orjson.dumps({"model_name": "digits", "outputs": [output]}))
    assert (sent.down.status, status(sent)) == (200, b"headgate; fwd=miss")
    assert len(traffic.parts.answers) == 0


def test_an_answer_in_chunks_is_kept_once_it_is_whole() -> None:
    traffic = cached()
    traffic.send()
    call = traffic.upstream.calls[0]
    call.sink.on_response(Response(200, [], None))
    for piece, last in ((ANSWER[:5], False), (ANSWER[5:], True)):
        call.sink.on_chunk(piece, last)
    assert asked(traffic).down.body == ANSWER


def test_an_answer_that_breaks_off_is_not_kept() -> None:
    traffic = cached()
    sent = traffic.send()
    call = traffic.upstream.calls[0]
    call.sink.on_response(Response(200, [], None, length=100))
    call.sink.on_chunk(ANSWER, False)
    call.fail(UpstreamReset("gone"))
    assert sent.down.status == 502
    assert len(traffic.parts.answers) == 0


@pytest.mark.parametrize(
    ("wish", "first", "second"),
    [
        (b"no-store", b"headgate; fwd=request", b"headgate; fwd=request"),
        (b"no-cache", b"headgate; fwd=request; stored", b"headgate; fwd=request; stored"),
        (b"max-age=1", b"headgate; fwd=miss; stored", b"headgate; fwd=request; stored"),
        (b"max-age=9", b"headgate; fwd=miss; stored", b"headgate; hit"),
    ],
)
def test_the_clients_wish_is_respected(wish: bytes, first: bytes, second: bytes) -> None:
    traffic = cached()
    headers = [(b"cache-control", wish)]
    assert status(asked(traffic, headers=headers)) == first
    traffic.clock.advance(5)
    assert status(asked(traffic, headers=headers)) == second


def test_what_one_request_was_told_is_not_told_to_others() -> None:
    traffic = cached()
    traffic.send()
    traffic.upstream.calls[0].answer(ANSWER, headers=[(b"x-request-id", b"theirs"), (b"x-model", b"v1")])
    names = [name for name, _ in asked(traffic).down.response.headers]
    assert names.count(b"x-request-id") == 1
    assert b"x-model" in names


# Stale answers


def test_while_one_asks_anew_the_others_get_the_stale_answer() -> None:
    traffic = cached(stale_while_revalidate=Duration(60.0))
    asked(traffic)
    traffic.clock.advance(40)
    first = traffic.send()
    others = [traffic.send() for _ in range(3)]
    assert not first.down.answered
    assert [status(sent) for sent in others] == [b"headgate; hit; ttl=-10"] * 3
    traffic.upstream.calls[1].answer(b'{"predictions": [8]}')
    assert status(first) == b"headgate; fwd=stale; stored"
    assert asked(traffic).down.body == b'{"predictions": [8]}'


def test_a_stale_answer_is_there_for_degrade_when_the_pool_is_dead() -> None:
    traffic = cached(stale_if_error=Duration(600.0))
    traffic.use(degrade.KIND, degrade.Degrade((degrade.Step(stale=Duration(600.0)),)))
    asked(traffic)
    traffic.clock.advance(100)
    traffic.kill("digits-v1")
    sent = traffic.send()
    assert (sent.down.status, sent.down.body) == (200, ANSWER)
    assert sent.down.field(b"x-degraded") == b"stale:10m"
    assert (status(sent), sent.down.field(b"age")) == (b"headgate; hit; ttl=-70", b"100")
    traffic.clock.advance(600)
    assert traffic.send().down.status == 503


def test_an_answer_that_may_be_given_while_revalidating_is_not_one_for_errors() -> None:
    traffic = cached(stale_while_revalidate=Duration(600.0))
    traffic.use(degrade.KIND, degrade.Degrade((degrade.Step(stale=Duration(600.0)),)))
    asked(traffic)
    traffic.clock.advance(100)
    traffic.kill("digits-v1")
    assert traffic.send().down.status == 503


def test_a_lesser_answer_is_not_kept_as_the_real_one() -> None:
    traffic = Traffic({"digits-v1": 1, "digits-lite": 1})
    traffic.use(degrade.KIND, degrade.Degrade((degrade.Step(pool="digits-lite"),)))
    traffic.use(KIND, Cache(Duration(30.0)))
    sent = traffic.send()
    traffic.upstream.calls[0].fail()
    traffic.upstream.calls[1].answer(b"lite")
    assert sent.down.body == b"lite"
    assert len(traffic.parts.answers) == 0


# The shared store and the purge


def test_another_gateway_behind_the_same_store_has_it_too() -> None:
    clock = ManualClock()
    blobs = MemoryBlobs(100_000, clock)
    asked(cached(blobs=blobs))
    assert status(asked(cached(blobs=blobs))) == b"headgate; hit"


def test_all_endpoints_share_one_bounded_store_and_may_be_purged_apart() -> None:
    answers = AnswerStore(100_000)
    one, other = Traffic(answers=answers), Traffic(answers=answers, endpoint="letters")
    for traffic in (one, other):
        traffic.use(KIND, Cache(Duration(30.0)))
        asked(traffic)
    assert len(answers) == 2
    assert answers.purge(one.clock.wall(), endpoint="letters") == 1
    assert status(asked(one)) == b"headgate; hit"
    one.clock.advance(0.001)
    assert answers.purge(one.clock.wall()) == 1
    one.clock.advance(0.001)
    assert status(asked(one)) == b"headgate; fwd=miss; stored"


@pytest.mark.parametrize("rows", [False, True], ids=["whole", "rows"])
@pytest.mark.parametrize("by", ["endpoint:digits", "model:digits", "tag:summer", "tag:t16", None], ids=str)
def test_answers_are_forgotten_by_endpoint_model_and_the_tags_that_an_instance_gave(
    rows: bool, by: str | None
) -> None:
    traffic = cached(rows=rows)
    tags = ", ".join(["summer", *(f"t{number}" for number in range(2, 18))])
    traffic.send(body=instances([[1, 2]]))
    traffic.upstream.calls[-1].answer(ANSWER, headers=[(b"cache-tag", tags.encode())])
    asked(traffic, instances([[3, 4]]))
    answers, wall = traffic.parts.answers, traffic.clock.wall()
    assert answers.purge_tag("tag:t17", wall) == 0, "sixteen tags are heeded"
    assert answers.purge_tag(by, wall) == (1 if by and by.startswith("tag:") else 2)


# Many at once


def test_ten_at_once_ask_once() -> None:
    traffic = cached()
    sent = [traffic.send() for _ in range(10)]
    assert len(traffic.upstream.calls) == 1
    traffic.upstream.calls[0].answer(ANSWER)
    assert [one.down.body for one in sent] == [ANSWER] * 10
    assert status(sent[0]) == b"headgate; fwd=miss; stored"
    assert {status(one) for one in sent[1:]} == {b"headgate; fwd=miss; collapsed"}


def test_a_canary_that_sticks_to_predictions_asks_once_too() -> None:
    traffic = Traffic({"digits-v1": 1, "digits-v2": 1}, versions={"1": "digits-v1", "2": "digits-v2"})
    traffic.use(release.KIND, release.Release("canary", "1", "2", Ratio(0.5), sticky="prediction"))
    traffic.use(KIND, Cache(Duration(30.0)))
    for number in range(20):
        sent = [traffic.send(body=instances([[number, 2]])) for _ in range(10)]
        assert len(traffic.upstream.calls) == number + 1
        traffic.upstream.calls[-1].answer(ANSWER)
        assert all(one.down.status == 200 for one in sent)
    assert {one.arm for one in traffic.observer.done} == {"stable", "candidate"}


def test_a_canary_that_sticks_to_nothing_asks_once_too() -> None:
    traffic = Traffic({"digits-v1": 1, "digits-v2": 1}, versions={"1": "digits-v1", "2": "digits-v2"})
    traffic.use(release.KIND, release.Release("canary", "1", "2", Ratio(0.5), sticky="none"))
    traffic.use(KIND, Cache(Duration(30.0)))
    for number in range(20):
        crowd = [traffic.send(body=instances([[number, 2]])) for _ in range(10)]
        assert len(traffic.upstream.calls) == number + 1
        traffic.upstream.calls[-1].answer(ANSWER)
        later = [traffic.send(body=instances([[number, 2]])) for _ in range(10)]
        assert [one.down.body for one in crowd + later] == [ANSWER] * 20
        assert len({one.ctx.version for one in crowd + later}) == 1
    assert {one.arm for one in traffic.observer.done} == {"stable", "candidate"}


def test_those_who_wait_may_speak_another_dialect() -> None:
    traffic = cached(speaks="tensorflow-serving")
    traffic.send()
    other = traffic.send(V2, inputs([[1, 2]]))
    traffic.upstream.calls[0].answer(ANSWER)
    assert orjson.loads(other.down.body)["outputs"][0]["data"] == [7]


@pytest.mark.parametrize(
    "how",
    [
        lambda sent, call: sent.exchange.on_client_gone(),
        lambda sent, call: call.fail(),
        lambda sent, call: call.answer(b"", 503),
    ],
    ids=["its client leaves", "its attempt fails", "its instance fails"],
)
def test_the_next_goes_on_when_the_leader(how: Callable[..., None]) -> None:
    traffic = cached()
    leader, second, third = (traffic.send() for _ in range(3))
    how(leader, traffic.upstream.calls[0])
    assert len(traffic.upstream.calls) == 2
    assert not second.down.answered
    traffic.upstream.calls[1].answer(ANSWER)
    assert (second.down.body, third.down.body) == (ANSWER, ANSWER)
    assert len(traffic.upstream.calls) == 2


def test_an_answer_that_cant_be_shared_lets_everybody_ask() -> None:
    traffic = cached()
    sent = [traffic.send() for _ in range(4)]
    traffic.upstream.calls[0].answer(ANSWER, headers=[(b"cache-control", b"no-store")])
    assert len(traffic.upstream.calls) == 4
    for call in traffic.upstream.calls[1:]:
        call.answer(ANSWER)
    assert all(one.down.status == 200 for one in sent)


def test_who_waits_keeps_its_own_deadline() -> None:
    traffic = cached()
    traffic.send(timeout=60.0)
    hasty = traffic.send(timeout=1.0)
    patient = traffic.send(timeout=60.0)
    traffic.clock.advance(2)
    traffic.timers.fire()
    assert hasty.down.status == 504
    traffic.upstream.calls[0].answer(ANSWER)
    assert patient.down.status == 200
    assert len(hasty.down.replies) == 1


def test_a_thousand_who_wait_for_a_dead_pool_all_hear_of_it() -> None:
    traffic = cached()
    sent = [traffic.send() for _ in range(800)]
    traffic.upstream.refuse = UpstreamReset("gone")
    traffic.kill("digits-v1")
    traffic.upstream.calls[0].fail()
    assert {one.down.status for one in sent} == {503}


EVENTS = st.tuples(
    st.sampled_from(("send", "answer", "fail", "leave", "uncacheable", "wait")), st.integers(0, 20)
)


@settings(max_examples=200, deadline=None)
@given(st.lists(EVENTS, max_size=40))
def test_whatever_happens_each_client_is_answered_exactly_once_and_nobody_waits_for_nobody(
    events: list[tuple[str, int]],
) -> None:
    traffic = cached(ttl=Duration(2.0), stale_while_revalidate=Duration(2.0))
    sent: list[Sent] = []
    gone: set[int] = set()
    over: set[int] = set()

    def live() -> list[int]:
        calls = traffic.upstream.calls
        return [n for n, call in enumerate(calls) if n not in over and not call.cancelled]

    def end(number: int, how: str) -> None:
        over.add(number)
        call = traffic.upstream.calls[number]
        if how == "fail":
            call.fail()
        else:
            call.answer(ANSWER, headers=[(b"cache-control", b"no-store")] if how == "uncacheable" else [])

    for event, number in events:
        match event:
            case "send":
                sent.append(traffic.send())
                assert len(live()) <= len(sent)
            case "leave" if sent:
                gone.add(number % len(sent))
                sent[number % len(sent)].exchange.on_client_gone()
            case "wait":
                traffic.clock.advance(number / 10)
            case "answer" | "fail" | "uncacheable" if live():
                end(live()[number % len(live())], event)
    while live():
        end(live()[0], "answer")
    for number, one in enumerate(sent):
        assert len(one.down.replies) == 1 or number in gone
        assert len(one.down.replies) <= 1
    assert not traffic.parts.answers._flights
    assert traffic.parts.pressure.in_flight == 0


@settings(max_examples=50, deadline=None)
@given(st.lists(st.booleans(), min_size=1, max_size=30))
def test_as_long_as_leaders_answer_one_call_is_under_way_per_question(answers_now: list[bool]) -> None:
    traffic = cached(ttl=Duration(1.0))
    answered = 0
    for now in answers_now:
        traffic.send()
        assert len(traffic.upstream.calls) - answered <= 1
        if now and len(traffic.upstream.calls) > answered:
            traffic.upstream.calls[-1].answer(ANSWER)
            answered += 1
            traffic.clock.advance(1.5)


# Errors that are an answer


@pytest.mark.parametrize(
    ("code", "kept"), [(400, True), (404, True), (422, True), (429, False), (401, False), (503, False)]
)
def test_a_wrong_question_is_answered_again_for_a_moment_where_asked(code: int, kept: bool) -> None:
    traffic = cached(errors=Duration(1.0))
    asked(traffic)
    traffic.clock.advance(31)
    crowd = [traffic.send() for _ in range(3)]
    for number in range(1, 4):
        if number < len(traffic.upstream.calls):
            traffic.upstream.calls[number].answer(b'{"error": "no"}', code)
    assert all(sent.down.status == code for sent in crowd)
    before = len(traffic.upstream.calls)
    again = traffic.send()
    assert (len(traffic.upstream.calls) == before) is kept
    if kept:
        assert (again.down.status, again.down.body) == (code, b'{"error": "no"}')
        traffic.clock.advance(1)
        assert not traffic.send().down.answered


class Aside:
    """Implements Threads: does the work when the test says so."""

    def __init__(self) -> None:
        self.work: list[tuple[Callable[[], object], Promise[Any]]] = []

    def run(self, work: Callable[[], Any]) -> Promise[Any]:
        self.work.append((work, Promise()))
        return self.work[-1][1]

    def do(self) -> None:
        for work, promise in self.work:
            promise.resolve(work())
        self.work.clear()


def test_the_key_of_a_large_question_is_taken_aside() -> None:
    traffic = Traffic()
    aside = traffic.parts.threads = Aside()
    traffic.use(KIND, Cache(Duration(30.0)))
    rows = (LARGE // 8) + 1
    large = b'{"instances": [%b]}' % b",".join([b"[1, 2]"] * rows)
    first = traffic.send(body=large)
    assert traffic.upstream.calls == []
    aside.do()
    traffic.upstream.calls[0].answer(b'{"predictions": [7]}')
    assert first.down.status == 200
    again, gone = traffic.send(body=large), traffic.send(body=large)
    gone.exchange.on_client_gone()
    aside.do()
    assert again.down.field(b"cache-status") == b"headgate; hit"
    assert not gone.down.answered
    assert len(traffic.upstream.calls) == 1
    traffic.send(body=b'{"instances": [[1, 2]]}')
    assert aside.work == [], "a small one is not worth it"
