"""Whatever was acquired is released exactly once, whatever happens in whatever order."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.http.message import Response
from gateway.pipeline.context import Context
from gateway.pipeline.errors import (
    BadBody,
    GatewayError,
    Refusal,
    UpstreamConnectError,
    UpstreamReset,
    UpstreamTimeout,
)
from gateway.pipeline.filter import Filter
from gateway.pipeline.phase import Phase
from gateway.pipeline.pool import Pool
from gateway.pipeline.pool_verbs import Breaker, Hedge, PoolSettings, Retry
from gateway.pipeline.promise import Eventual, Promise
from tests.playbooks.stage import Stage, breakers, make_pool

VERDICTS = st.sampled_from(["pass", "wait", "refuse", "answer", "bug"])
EVENTS = st.sampled_from(
    [
        "body",
        "body last",
        "body error",
        "ready",
        "respond",
        "respond 503",
        "head",
        "chunk",
        "chunk last",
        "connect error",
        "reset",
        "timeout",
        "promise none",
        "promise refusal",
        "promise error",
        "time",
        "client gone",
        "not writable",
        "writable",
        "hedge time",
        "other",
    ]
)


class Permit(Filter):
    """Takes a permit on request, gives it back when done, and decides as it was told."""

    def __init__(self, verdict: str, needs_body: bool, on_answer: str, softer: Pool | None) -> None:
        self.verdict, self.needs_body, self.on_answer, self.softer = verdict, needs_body, on_answer, softer
        self.taken = self.returned = 0
        self.promises: list[Promise[object]] = []

    def on_request(self, ctx: Context) -> Eventual[Response | Refusal | None]:
        self.taken += 1
        match self.verdict:
            case "wait":
                promise: Promise[Response | Refusal | None] = Promise()
                self.promises.append(promise)  # type: ignore[arg-type]
                return promise
            case "refuse":
                return Refusal(429, "rate_limited", "no")
            case "answer":
                return Response(200, [], b"mine")
            case "bug":
                raise ZeroDivisionError
        return None

    def on_response(self, ctx: Context, response: Response) -> Eventual[Response]:
        if self.on_answer == "bug":
            raise ZeroDivisionError
        if self.on_answer == "wait":
            promise: Promise[Response] = Promise()
            self.promises.append(promise)  # type: ignore[arg-type]
            return promise
        return response

    def on_error(self, ctx: Context, error: GatewayError) -> Response | Pool | None:
        return self.softer

    def on_refusal(self, ctx: Context, refusal: Refusal) -> Response | Pool | None:
        return self.softer

    def on_done(self, ctx: Context) -> None:
        self.returned += 1


FILTERS = st.lists(
    st.tuples(VERDICTS, st.booleans(), st.sampled_from(["pass", "pass", "wait", "bug"]), st.booleans()),
    max_size=3,
)


ATTEMPTS = 1 + Retry().attempts + 1  # the first, its retries, a hedge


@settings(max_examples=600, deadline=None)
@given(
    FILTERS,
    st.booleans(),
    st.lists(EVENTS, max_size=30),
    st.sampled_from([0, 100]),
    st.integers(1, 4),
    st.booleans(),
    st.booleans(),
)
def test_everything_taken_is_given_back_exactly_once(
    told: list[tuple[str, bool, str, bool]],
    streamed: bool,
    events: list[str],
    replay_limit: int,
    instances: int,
    hedges: bool,
    probes: bool,
) -> None:
    """probes: all breakers are half open, so that the first call of each instance is a probe."""
    pool = PoolSettings(breaker=Breaker(of="both", min_calls=2), hedge=Hedge(at="50ms") if hedges else None)
    stage = Stage(settings=pool, replay_limit=replay_limit)
    lite = make_pool("lite", ["l"], stage)
    filters = [
        Permit(verdict, body, answer, lite if softer else None) for verdict, body, answer, softer in told
    ]
    stage = Stage(
        filters, settings=pool, replay_limit=replay_limit, pools=[lite], instances="abcd"[:instances]
    )
    if probes:
        for breaker in breakers(stage.snapshot.pools["main"]):
            breaker.open_too(stage.clock.now(), stage.clock.now())
    drive(stage, filters, streamed, events)
    sends = [line for line in stage.log if line.startswith("send")]
    assert sum(line != "send l" for line in sends) <= ATTEMPTS
    assert sends.count("send l") <= ATTEMPTS
    assert stage.ctx.attempts == len(sends)
    assert stage.exchange is not None
    if stage.exchange.phase is not Phase.DONE:
        stage.exchange.on_client_gone()
    calls = [(call.instance, stage.log.count(f"cancel {call.instance}")) for call in stage.calls]
    assert all(cancelled <= stage.log.count(f"send {name}") for name, cancelled in calls)
    stage.assert_all_released()
    assert all(filter.taken == filter.returned <= 1 for filter in filters)
    finals = [line for line in stage.log if line.startswith(("reply", "end", "abort"))]
    assert len(finals) <= 1, stage.log


def drive(stage: Stage, filters: list[Permit], streamed: bool, events: list[str]) -> None:
    """Feed events in as the edges would: nothing to a sink that is over, nothing after the client left."""

    def guarded(step) -> None:  # type: ignore[no-untyped-def]
        try:
            step()
        except ZeroDivisionError as bug:  # as the client's connection does
            assert stage.exchange is not None
            stage.exchange.crash(bug)

    if streamed:
        guarded(lambda: stage.start(b"PUT", body=None, length=None))
    else:
        guarded(lambda: stage.start(b"PUT", body=b"{}"))
    exchange = stage.exchange
    assert exchange is not None
    headed: set[int] = set()
    over: set[int] = set()
    body_over = not streamed
    chosen = 0  # which of the calls under way the next event is about
    for event in events:
        under_way = [n for n in range(len(stage.calls)) if n not in over]
        call = under_way[chosen % len(under_way)] if under_way else len(stage.calls) - 1
        sink = stage.calls[call].sink if stage.calls else None
        promises = [p for f in filters for p in f.promises if not p.done]
        open_call = sink is not None and call not in over
        done = exchange.phase is Phase.DONE
        match event.split():
            case ["body", "error"] if not body_over and "proceed" in stage.log and not done:
                body_over = True
                guarded(lambda: exchange.on_body_error(BadBody("bad")))
            case ["body", *last] if not body_over and "proceed" in stage.log and not done:
                body_over = bool(last)
                guarded(lambda last=last: exchange.on_body(b"xy", bool(last)))
            case ["ready"] if open_call and call not in headed:
                sink.on_ready()
            case ["respond", *status] if open_call and call not in headed:
                over.add(call)
                sink.on_response(Response(int(status[0]) if status else 200, [], b"ok"))
            case ["head"] if open_call and call not in headed:
                headed.add(call)
                sink.on_response(Response(200, [], None))
            case ["chunk", *last] if open_call and call in headed:
                if last:
                    over.add(call)
                sink.on_chunk(b"data", bool(last))
            case ["connect", "error"] if open_call and call not in headed:
                over.add(call)
                sink.on_error(UpstreamConnectError("refused"))
            case ["reset"] if open_call:
                over.add(call)
                sink.on_error(UpstreamReset("reset"))
            case ["timeout"] if open_call:
                over.add(call)
                sink.on_error(UpstreamTimeout("slow"))
            case ["promise", "none"] if promises:
                late: Response | None = (
                    Response(200, [], b"late") if exchange.phase is Phase.ANSWERING else None
                )
                promises[0].resolve(late)
            case ["promise", "refusal"] if promises and exchange.phase is Phase.DECIDING:
                promises[0].resolve(Refusal(403, "no", "no"))
            case ["promise", "error"] if promises:
                promises[0].reject(UpstreamTimeout("late"))
            case ["time"]:
                stage.clock.advance(4.0)
                stage.timers.fire()
            case ["hedge", "time"]:
                stage.clock.advance(0.05)
                stage.timers.fire()
            case ["other"]:
                chosen += 1
            case ["client", "gone"]:
                exchange.on_client_gone()
            case ["not", "writable"] if not done:
                exchange.on_writable(False)
            case ["writable"] if not done:
                exchange.on_writable(True)
