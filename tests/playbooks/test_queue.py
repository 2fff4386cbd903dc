"""The queue in front of a full pool, request by request: who waits, who goes next, who is turned away."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from gateway.http.message import Request, Response
from gateway.pipeline.context import Context
from gateway.pipeline.errors import UpstreamReset
from gateway.pipeline.exchange import Exchange, begin
from gateway.pipeline.filter import Filter
from gateway.pipeline.phase import Phase
from gateway.pipeline.pool_verbs import Concurrency, Eject, PoolSettings, Queue, Retry
from gateway.pipeline.ports import Peer, Principal
from tests.playbooks.stage import Stage


class Client:
    """Implements ports.Downstream: one client of many."""

    def __init__(self) -> None:
        self.answer: Response | None = None

    def proceed(self) -> None:
        pass

    def reply(self, response: Response) -> None:
        assert self.answer is None
        self.answer = response

    def begin(self, response: Response) -> None:
        self.reply(response)

    def abort(self, error: object = None) -> None:
        pass


class Says(Filter):
    """Takes importance and tenant from the request's path: /0/tenant."""

    def on_request(self, ctx: Context) -> None:
        _, importance, tenant = ctx.request.path.decode().split("/")
        ctx.importance = int(importance)
        ctx.principal = Principal("somebody", tenant=tenant)


class Crowd:
    """Many requests on one stage."""

    def __init__(
        self, limit: int = 1, queue: Queue | None = None, timeout: float = 10.0, retry: Retry | None = None
    ) -> None:
        settings = PoolSettings(
            concurrency=Concurrency(limit=limit),
            queue=queue or Queue(size=3),
            retry=retry or Retry(attempts=0),
            eject=Eject(consecutive=10_000),
        )
        self.stage = Stage([Says()], settings=settings, timeout=timeout)
        self.pool = self.stage.pool
        self.clients: list[Client] = []
        self.exchanges: list[Exchange] = []

    def come(self, path: str = "/1/a", method: bytes = b"GET") -> int:
        client = Client()
        request = Request(method, path.encode(), [], host=b"test", length=0, body=b"")
        exchange = begin(self.stage.gateway, request, Peer("192.0.2.1", 1), client)  # type: ignore[arg-type]
        self.clients.append(client)
        self.exchanges.append(exchange)
        exchange.start()
        return len(self.clients) - 1

    def answered(self, call: int, status: int = 200) -> None:
        self.stage.calls[call].sink.on_response(Response(status, [], b"ok"))

    @property
    def sent(self) -> list[str]:
        return [request.path.decode() for request in self.stage.sent]

    def status(self, number: int) -> int | None:
        answer = self.clients[number].answer
        return None if answer is None else answer.status

    def sweep(self, seconds: float) -> None:
        self.stage.clock.advance(seconds)
        self.stage.timers.fire()


def test_a_request_waits_for_a_full_pool_and_goes_when_a_place_is_free() -> None:
    crowd = Crowd()
    crowd.come("/1/a")
    crowd.come("/1/b")
    assert crowd.sent == ["/1/a"]
    assert crowd.status(1) is None
    crowd.stage.clock.advance(0.2)
    crowd.answered(0)
    assert crowd.sent == ["/1/a", "/1/b"]
    crowd.answered(1)
    assert crowd.status(1) == 200
    assert crowd.exchanges[1].ctx.waited == pytest.approx(0.2)
    assert crowd.pool.in_flight == 0
    assert crowd.stage.timers.live == 0


def test_below_its_limit_a_pool_has_no_queue() -> None:
    crowd = Crowd(limit=2)
    crowd.come()
    crowd.come()
    assert crowd.pool.queue is None
    assert crowd.stage.timers.timers == []


def test_the_important_go_first_and_a_tenant_that_floods_waits_for_itself() -> None:
    crowd = Crowd(queue=Queue(size=9))
    for path in ("/1/a", "/2/z", "/1/a", "/1/a", "/1/b", "/0/c"):
        crowd.come(path)
    for call in range(6):
        crowd.answered(call)
    assert crowd.sent == ["/1/a", "/0/c", "/1/a", "/1/b", "/1/a", "/2/z"]


def test_who_would_be_late_is_told_before_its_deadline() -> None:
    crowd = Crowd(queue=Queue(size=3, wait=0.3))
    crowd.come()
    late = crowd.come()
    crowd.sweep(0.29)
    assert crowd.status(late) is None
    crowd.sweep(0.06)
    assert crowd.status(late) == 503
    answer = crowd.clients[late].answer
    assert answer is not None
    assert answer.header(b"x-headgate-reason") == b"overloaded"
    assert answer.header(b"x-headgate-policy") == b"api"
    assert int(answer.header(b"retry-after") or b"0") >= 1
    assert crowd.pool.queue is not None
    assert crowd.pool.queue.turned_away == {"late": 1, "crowded": 0, "full": 0}


def test_the_requests_own_deadline_bounds_its_wait() -> None:
    crowd = Crowd(queue=Queue(size=3, wait=60.0), timeout=0.5)
    crowd.come()
    late = crowd.come()
    crowd.sweep(0.51)
    assert crowd.status(late) == 503


def test_when_the_queue_is_full_the_important_take_the_place_of_others() -> None:
    crowd = Crowd(queue=Queue(size=1))
    crowd.come("/1/a")
    sheddable = crowd.come("/2/b")
    normal = crowd.come("/1/b")
    refused = crowd.come("/1/c")
    assert [crowd.status(number) for number in (sheddable, normal, refused)] == [503, None, 503]
    assert crowd.pool.queue is not None
    assert crowd.pool.queue.turned_away == {"late": 0, "crowded": 1, "full": 1}


def test_without_a_queue_a_full_pool_refuses_at_once() -> None:
    crowd = Crowd(queue=Queue(size=0))
    crowd.come()
    assert crowd.status(crowd.come()) == 503
    assert crowd.pool.queue is None


def test_a_client_that_leaves_the_queue_is_not_sent() -> None:
    crowd = Crowd()
    crowd.come("/1/a")
    gone = crowd.come("/1/gone")
    crowd.exchanges[gone].on_client_gone()
    assert crowd.stage.timers.live == 0
    crowd.come("/1/b")
    crowd.answered(0)
    assert crowd.sent == ["/1/a", "/1/b"]
    assert crowd.pool.queue is not None
    assert crowd.pool.queue.size == 0


def test_a_thousand_are_woken_in_one_turn_without_recursion() -> None:
    crowd = Crowd(limit=1, queue=Queue(size=2000))
    send = crowd.stage.send

    def refuse_all_but_the_first(instance, request, until, sink):  # type: ignore[no-untyped-def]
        call = send(instance, request, until, sink)
        if len(crowd.stage.calls) > 1:
            sink.on_error(UpstreamReset("at once"))
        return call

    crowd.stage.send = refuse_all_but_the_first  # type: ignore[method-assign]
    for _ in range(1500):
        crowd.come()
    crowd.answered(0)
    assert all(exchange.phase is Phase.DONE for exchange in crowd.exchanges)
    assert crowd.pool.in_flight == 0


def test_a_bug_of_one_that_is_woken_is_its_own() -> None:
    crowd = Crowd(queue=Queue(size=3))
    crowd.come("/1/a")
    broken = crowd.come("/1/b")
    fine = crowd.come("/1/c")
    send = crowd.stage.send

    def fail_once(instance, request, until, sink):  # type: ignore[no-untyped-def]
        crowd.stage.send = send  # type: ignore[method-assign]
        raise ZeroDivisionError

    crowd.stage.send = fail_once  # type: ignore[method-assign]
    crowd.answered(0)
    assert crowd.status(0) == 200
    assert crowd.status(broken) == 500
    assert crowd.sent == ["/1/a", "/1/c"]
    crowd.answered(1)
    assert crowd.status(fine) == 200
    assert crowd.pool.in_flight == 0


def test_a_retry_waits_like_a_first_try() -> None:
    crowd = Crowd(limit=1, retry=Retry(attempts=1))
    crowd.come("/1/a")
    crowd.come("/1/b")
    crowd.answered(0, 503)
    assert crowd.sent == ["/1/a", "/1/b"]
    assert crowd.status(0) is None
    crowd.answered(1)
    assert crowd.sent == ["/1/a", "/1/b", "/1/a"]
    crowd.answered(2)
    assert [crowd.status(0), crowd.status(1)] == [200, 200]


class Full(RuleBasedStateMachine):
    """Requests come, are answered, fail, leave and grow late in any order: two at once, three may wait."""

    def __init__(self) -> None:
        super().__init__()
        self.crowd = Crowd(limit=2, queue=Queue(size=3, wait=0.5), timeout=1.0, retry=Retry(attempts=1))
        self.over: set[int] = set()

    def under_way(self, chosen: int) -> int | None:
        calls = self.crowd.stage.calls
        running = [n for n, call in enumerate(calls) if n not in self.over and not call.cancelled]
        return running[chosen % len(running)] if running else None

    @rule(
        importance=st.integers(0, 2), tenant=st.sampled_from("abc"), method=st.sampled_from([b"GET", b"POST"])
    )
    def come(self, importance: int, tenant: str, method: bytes) -> None:
        self.crowd.come(f"/{importance}/{tenant}", method)

    @rule(chosen=st.integers(0, 9), status=st.sampled_from([200, 200, 503]))
    def answer(self, chosen: int, status: int) -> None:
        call = self.under_way(chosen)
        if call is not None:
            self.over.add(call)
            self.crowd.answered(call, status)

    @rule(chosen=st.integers(0, 9))
    def reset(self, chosen: int) -> None:
        call = self.under_way(chosen)
        if call is not None:
            self.over.add(call)
            self.crowd.stage.calls[call].sink.on_error(UpstreamReset("reset"))

    @rule(chosen=st.integers(0, 99))
    def leave(self, chosen: int) -> None:
        if self.crowd.exchanges:
            self.crowd.exchanges[chosen % len(self.crowd.exchanges)].on_client_gone()

    @rule(seconds=st.sampled_from([0.01, 0.06, 0.6]))
    def pass_time(self, seconds: float) -> None:
        self.crowd.sweep(seconds)

    @invariant()
    def nobody_waits_for_a_free_place(self) -> None:
        pool = self.crowd.pool
        assert pool.in_flight <= 2
        if pool.queue is not None:
            assert pool.queue.size <= 3
            assert pool.queue.size == 0 or pool.in_flight == 2
            assert self.crowd.stage.timers.live >= (pool.queue.size > 0)

    @invariant()
    def calls_and_permits_agree(self) -> None:
        assert self.crowd.pool.in_flight == sum(one.in_flight for one in self.crowd.pool.members.instances)
        assert self.crowd.stage.bugs == []

    def teardown(self) -> None:
        for exchange in self.crowd.exchanges:
            exchange.on_client_gone()
        pool = self.crowd.pool
        assert pool.in_flight == 0
        assert pool.queue is None or pool.queue.size == 0
        assert self.crowd.stage.timers.live == 0
        assert self.crowd.stage.gateway.pressure.in_flight == 0
        assert len(self.crowd.stage.done) == len(self.crowd.exchanges)


TestFull = Full.TestCase
TestFull.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


def test_who_finds_pool_and_queue_full_is_refused_before_anything_is_made_for_it() -> None:
    crowd = Crowd(queue=Queue(size=2))
    for _ in range(3):
        crowd.come("/1/a")
    crowded = crowd.come("/1/a")
    answer = crowd.clients[crowded].answer
    assert answer is not None
    assert answer.header(b"x-headgate-reason") == b"overloaded"
    assert crowd.exchanges[crowded].ctx.attempts == 0
    assert crowd.pool.queue is not None
    assert crowd.pool.queue.turned_away == {"late": 0, "crowded": 0, "full": 1}
    before = crowd.come("/0/a")  # goes before somebody who waits
    assert crowd.clients[before].answer is None


def test_a_body_is_not_read_for_a_refusal() -> None:
    crowd = Crowd(queue=Queue(size=1))
    crowd.come()
    crowd.come()
    client = Client()
    asked: list[bool] = []
    client.proceed = lambda: asked.append(True)  # type: ignore[method-assign]
    request = Request(b"POST", b"/1/a", [], host=b"test", length=50, body=None)
    begin(crowd.stage.gateway, request, Peer("192.0.2.1", 1), client).start()  # type: ignore[arg-type]
    assert asked == []
    assert client.answer is not None
    assert client.answer.status == 503
