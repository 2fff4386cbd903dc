"""The stage on which playbooks are played: an exchange between fakes that write down everything, in order.

A playbook feeds events in (`start`, `respond`, the sink's and the exchange's methods) and pins what came out,
as a list of short texts in `stage.log`. No event loop, no socket, no clock but the one that the test moves.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from types import MappingProxyType

from gateway.governance.breaker import Breaker, State
from gateway.http.forwarded import Forwarding
from gateway.http.message import Headers, Request, Response
from gateway.pipeline.chain import Chain
from gateway.pipeline.context import Context
from gateway.pipeline.errors import GatewayError, Refusal
from gateway.pipeline.exchange import Exchange, begin
from gateway.pipeline.filter import Filter
from gateway.pipeline.gateway import Gateway
from gateway.pipeline.pool import Facts, Instance, Members, Pool
from gateway.pipeline.pool_verbs import PoolSettings
from gateway.pipeline.ports import Peer, Sink
from gateway.pipeline.pressure import Pressure
from gateway.pipeline.promise import Eventual, Promise
from gateway.pipeline.snapshot import Endpoint, Found, Snapshot
from tests.fakes.clock import ManualClock, ManualTimers


class CountingIds:
    """Implements ports.Ids, the same every time."""

    def __init__(self, chance: float = 0.5) -> None:
        self.made = 0
        self.fixed = chance

    def request_id(self) -> bytes:
        self.made += 1
        return b"%032x" % self.made

    def chance(self) -> float:
        return self.fixed


class NoSignatures:
    """Nobody ever told a signature."""

    def signature(self, pool: Pool, model: str, version: str) -> None:
        return None


class RecordingCall:
    """Implements ports.Call."""

    def __init__(self, stage: Stage, instance: str, sink: Sink) -> None:
        self.stage, self.instance, self.sink = stage, instance, sink
        self.cancelled = False
        self.silence = 0.0  # s that it may be silent; 0.0: its deadline holds

    def write(self, data: bytes, last: bool, trailers: Headers | None = None) -> None:
        end = f" last {trailers}" if trailers else " last" if last else ""
        self.stage.log.append(f"write {self.instance} {data!r}{end}")

    def pause(self) -> None:
        self.stage.log.append(f"pause {self.instance}")

    def resume(self) -> None:
        self.stage.log.append(f"resume {self.instance}")

    def extend(self, until: float) -> None:
        self.stage.log.append(f"extend {self.instance}")

    def allow_silence(self, idle: float) -> None:
        self.silence = idle

    def cancel(self) -> None:
        self.cancelled = True
        self.stage.log.append(f"cancel {self.instance}")


class Stage:
    """All the fakes of one exchange. Implements ports.Upstream, ports.Downstream and gateway.Observer."""

    def __init__(
        self,
        filters: Sequence[Filter] = (),
        *,
        pools: Sequence[Pool] = (),
        settings: PoolSettings | None = None,
        instances: Iterable[str] = ("a", "b"),
        body_limit: int = 1000,
        replay_limit: int = 100,
        timeout: float = 10.0,
    ) -> None:
        self.log: list[str] = []
        self.clock = ManualClock()
        self.timers = ManualTimers(self.clock)
        self.ids = CountingIds()
        self.pool = make_pool("main", instances, self, settings)
        self.answer: Response | None = None
        self.calls: list[RecordingCall] = []
        self.sent: list[Request] = []
        self.bugs: list[Exception] = []
        self.done: list[Context] = []
        self.mirrored: list[tuple[str, str, str]] = []
        self.endpoint = Endpoint("api", Chain(filters), self.pool, body_limit=body_limit)
        self.found = Found(self.endpoint, None)
        self.snapshot = Snapshot(
            1,
            "digest",
            MappingProxyType({pool.name: pool for pool in (self.pool, *pools)}),
            MappingProxyType({"api": self.endpoint}),
            lambda request: self.found,
            Forwarding(),
            default_timeout=timeout,
            replay_limit=replay_limit,
        )
        self.gateway = Gateway(
            self.snapshot,
            upstream=self,
            clock=self.clock,
            timers=self.timers,
            ids=self.ids,
            signatures=NoSignatures(),
            observer=self,
            pressure=Pressure(),
        )
        self.exchange: Exchange | None = None

    # Events in

    def start(
        self,
        method: bytes = b"GET",
        path: bytes = b"/",
        headers: Headers | None = None,
        body: bytes | None = b"",
        length: int | None = 0,
        upgrade: bytes = b"",
    ) -> Exchange:
        if body is not None:
            length = len(body)
        request = Request(
            method, path, headers or [], host=b"test", length=length, body=body, upgrade=upgrade
        )
        self.exchange = begin(self.gateway, request, Peer("192.0.2.1", 4000), self)
        self.exchange.start()
        return self.exchange

    @property
    def ctx(self) -> Context:
        assert self.exchange is not None
        return self.exchange.ctx

    @property
    def sink(self) -> Sink:
        return self.calls[-1].sink

    def respond(self, status: int = 200, body: bytes | None = b"ok", length: int | None = None) -> None:
        self.sink.on_response(Response(status, [], body, length=length))

    # ports.Upstream

    def send(self, instance: Instance, request: Request, until: float, sink: Sink) -> RecordingCall:
        assert instance.in_flight > 0
        self.log.append(f"send {instance.id}")
        self.sent.append(request)
        call = RecordingCall(self, instance.id, sink)
        self.calls.append(call)
        return call

    # ports.Downstream

    def proceed(self) -> None:
        self.log.append("proceed")

    def pause_body(self) -> None:
        self.log.append("pause body")

    def resume_body(self) -> None:
        self.log.append("resume body")

    def reply(self, response: Response) -> None:
        assert response.body is not None
        self.answer = response
        self.log.append(f"reply {response.status}")

    def interim(self, response: Response) -> None:
        self.log.append(f"interim {response.status}")

    def upgrade(self, response: Response, protocol: bytes) -> None:
        self.answer = response
        self.log.append(f"upgrade {protocol.decode()}")

    def begin(self, response: Response) -> None:
        self.answer = response
        self.log.append(f"begin {response.status}")

    def write(self, data: bytes) -> None:
        self.log.append(f"data {data!r}")

    def end(self, trailers: Headers | None = None) -> None:
        self.log.append(f"end {trailers}" if trailers else "end")

    def abort(self, error: GatewayError | None = None) -> None:
        self.log.append("abort")

    # gateway.Observer

    def on_done(self, ctx: Context) -> None:
        self.done.append(ctx)
        self.log.append(f"done {ctx.status}")

    def on_mirrored(self, endpoint: str, pool: str, result: str, seconds: float) -> None:
        self.mirrored.append((endpoint, pool, result))

    def on_errand(self, endpoint: str, pool: str, result: str) -> None: ...

    def on_bug(self, ctx: Context, bug: Exception) -> None:
        self.bugs.append(bug)

    # Checks

    def assert_all_released(self) -> None:
        """Whatever was acquired was given back, once."""
        for pool in self.snapshot.pools.values():
            assert pool.in_flight == 0, pool
            for instance in pool.members.instances:
                assert instance.in_flight == 0, instance
            for breaker in breakers(pool):
                assert breaker.state is not State.HALF_OPEN or "| 0 probes out" in repr(breaker), breaker
        assert self.gateway.pressure.in_flight == 0
        assert self.timers.live == 0
        assert len(self.done) == 1


def breakers(pool: Pool) -> list[Breaker]:
    """Those of its instances, and its own."""
    found = [pool.breaker, *(instance.breaker for instance in pool.members.instances)]
    return [breaker for breaker in found if breaker is not None]


def make_pool(
    name: str,
    instances: Iterable[str],
    stage: Stage,
    settings: PoolSettings | None = None,
    speaks: str = "http",
) -> Pool:
    pool = Pool(name, settings or PoolSettings(), stage.ids, speaks=speaks)
    pool.update([Facts(id=id, host="127.0.0.1", port=9000) for id in instances], stage.clock.now())
    pool.members = Members(pool.members.instances, InOrder(pool.members.instances))
    return pool


class InOrder:
    """Implements governance's Picker: the first usable instance that was not tried."""

    def __init__(self, instances: Sequence[Instance]) -> None:
        self.instances = instances

    def look_again(self) -> None: ...

    def share(self, member: Instance, now: float) -> float:
        return 1.0

    def pick(self, key: int, now: float, tried: Sequence[Instance]) -> Instance | None:
        return next((one for one in self.instances if one.usable(now) and one not in tried), None)


class Noting(Filter):
    """A filter that writes down each of its moments and answers as it was told."""

    def __init__(
        self,
        stage_log: list[str],
        name: str,
        verdict: Response | Refusal | None = None,
        *,
        later: bool = False,
        needs_body: bool = False,
        softer: Response | Pool | None = None,
    ) -> None:
        self.log = stage_log
        self.name = name
        self.verdict = verdict
        self.later: Promise[Response | Refusal | None] | None = Promise() if later else None
        self.needs_body = needs_body
        self.softer = softer

    def on_request(self, ctx: Context) -> Eventual[Response | Refusal | None]:
        self.log.append(f"{self.name} request")
        return self.later if self.later is not None else self.verdict

    def on_response(self, ctx: Context, response: Response) -> Eventual[Response]:
        self.log.append(f"{self.name} response {response.status}")
        return response

    def on_refusal(self, ctx: Context, refusal: Refusal) -> Response | Pool | None:
        self.log.append(f"{self.name} refusal {refusal.code}")
        return self.softer

    def on_error(self, ctx: Context, error: GatewayError) -> Response | Pool | None:
        self.log.append(f"{self.name} error {error.code}")
        return self.softer

    def on_done(self, ctx: Context) -> None:
        self.log.append(f"{self.name} done")
