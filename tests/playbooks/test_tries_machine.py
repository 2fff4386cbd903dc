"""Random lives of hedged requests at two pools: at every moment the books are right.

Law, after each event: what the pools count as under way is exactly the calls that are neither over nor
cancelled; an answer goes out at most once; no more attempts than retries and one hedge allow.
"""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from gateway.http.message import Response
from gateway.pipeline.errors import (
    UpstreamConnectError,
    UpstreamRefused,
    UpstreamReset,
    UpstreamTimeout,
)
from gateway.pipeline.phase import Phase
from gateway.pipeline.pool_verbs import Hedge, PoolSettings, Retry
from tests.playbooks.stage import Noting, Stage, make_pool

ERRORS = st.sampled_from([UpstreamConnectError, UpstreamRefused, UpstreamReset, UpstreamTimeout])
MOST = 1 + Retry().attempts + 1  # the first, its retries, a hedge


class Requests(RuleBasedStateMachine):
    """One request after another at the same pools."""

    @initialize(instances=st.integers(1, 4), degrades=st.booleans())
    def begin(self, instances: int, degrades: bool) -> None:
        verbs = PoolSettings(hedge=Hedge(at="50ms"), retry=Retry(floor=50.0))
        degrade = Noting([], "degrade")
        self.stage = Stage([degrade], settings=verbs, instances="abcd"[:instances])
        self.lite = make_pool("lite", "lm", self.stage, verbs)
        degrade.softer = self.lite if degrades else None
        self.over: set[int] = set()
        self.headed: set[int] = set()
        self.first_call = 0
        self.finals = 0

    @property
    def is_over(self) -> bool:
        exchange = self.stage.exchange
        return exchange is None or exchange.phase is Phase.DONE

    def open_calls(self) -> list[int]:
        return [n for n, call in enumerate(self.stage.calls) if n not in self.over and not call.cancelled]

    @precondition(lambda self: self.is_over)
    @rule()
    def request(self) -> None:
        self.first_call = len(self.stage.calls)
        self.finals = len(self.answers())
        self.stage.start()

    @precondition(lambda self: self.open_calls())
    @rule(which=st.integers(0, 1), error=ERRORS)
    def fail(self, which: int, error: type[UpstreamReset]) -> None:
        call = self.choose(which)
        self.over.add(call)
        self.stage.calls[call].sink.on_error(error("x"))

    @precondition(lambda self: self.open_calls())
    @rule(which=st.integers(0, 1), status=st.sampled_from([200, 404, 500, 502, 503]))
    def answer(self, which: int, status: int) -> None:
        call = self.choose(which)
        if call in self.headed:
            self.over.add(call)
            self.stage.calls[call].sink.on_chunk(b"", True)
        else:
            self.over.add(call)
            self.stage.calls[call].sink.on_response(Response(status, [], b"ok"))

    @precondition(lambda self: self.open_calls())
    @rule(which=st.integers(0, 1), status=st.sampled_from([200, 500, 503]))
    def head(self, which: int, status: int) -> None:
        call = self.choose(which)
        if call in self.headed:
            self.stage.calls[call].sink.on_chunk(b"x", False)
        else:
            self.headed.add(call)
            self.stage.calls[call].sink.on_response(Response(status, [], None))

    @rule(seconds=st.sampled_from([0.01, 0.05, 0.05, 1.0]))
    def time(self, seconds: float) -> None:
        self.stage.clock.advance(seconds)
        self.stage.timers.fire()

    @precondition(lambda self: not self.is_over)
    @rule()
    def client_gone(self) -> None:
        assert self.stage.exchange is not None
        self.stage.exchange.on_client_gone()

    def choose(self, which: int) -> int:
        calls = self.open_calls()
        return calls[which % len(calls)]

    def answers(self) -> list[str]:
        return [line for line in self.stage.log if line.startswith(("reply", "end", "abort"))]

    @invariant()
    def what_is_counted_is_under_way(self) -> None:
        if not hasattr(self, "stage"):
            return
        under_way = len(self.open_calls())
        pools = (self.stage.pool, self.lite)
        assert sum(pool.in_flight for pool in pools) == under_way
        assert sum(one.in_flight for pool in pools for one in pool.members.instances) == under_way
        if self.is_over:
            assert under_way == 0
            assert self.stage.timers.live == 0

    @invariant()
    def a_request_is_answered_once_and_tried_so_often(self) -> None:
        if not hasattr(self, "stage"):
            return
        assert len(self.answers()) - self.finals <= 1
        sent = [call.instance for call in self.stage.calls[self.first_call :]]
        assert sum(name not in "lm" for name in sent) <= MOST
        assert sum(name in "lm" for name in sent) <= MOST
        assert not self.stage.bugs


TestRequests = Requests.TestCase
TestRequests.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)
