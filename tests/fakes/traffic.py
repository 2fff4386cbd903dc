"""A gateway of fakes around the real exchange: one endpoint `digits`, pools by name, requests by hand.

Nothing here waits: the upstream's calls are answered by the test, the clock moves when told to.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from gateway.dialects.catalogue import recognise
from gateway.dialects.metadata import Signature, TensorSpec
from gateway.filters.catalog import place_of
from gateway.http.forwarded import Forwarding
from gateway.http.message import Headers, Request, Response
from gateway.pipeline.answers import AnswerStore
from gateway.pipeline.chain import Chain
from gateway.pipeline.context import Context
from gateway.pipeline.directory import Directory
from gateway.pipeline.errand import Errands
from gateway.pipeline.errors import GatewayError, UpstreamConnectError
from gateway.pipeline.exchange import Exchange
from gateway.pipeline.filter import Filter, FilterKind, Parts, Rule
from gateway.pipeline.gateway import Gateway
from gateway.pipeline.pool import Facts, Pool
from gateway.pipeline.pool_verbs import PoolSettings, Retry
from gateway.pipeline.ports import BlobStore, Claim, CounterStore, Destination, Grant, Peer, Principal, Sink
from gateway.pipeline.pressure import Pressure
from gateway.pipeline.promise import Eventual, Promise
from gateway.pipeline.snapshot import Endpoint, Found, Snapshot
from gateway.stores.memory import MemoryCounters
from tests.fakes.clock import ManualClock, ManualTimers

SIGNATURE = Signature((TensorSpec("input", "FP32", (-1, 2)),), (TensorSpec("label", "INT64", (-1,)),))
V1 = b"/v1/models/digits:predict"
V2 = b"/v2/models/digits/infer"


class SeededIds:
    """Implements ports.Ids: chance from a seed."""

    def __init__(self, seed: int = 7) -> None:
        self._random = random.Random(seed)

    def request_id(self) -> bytes:
        return b"%032x" % self._random.getrandbits(128)

    def chance(self) -> float:
        return self._random.random()


class Told:
    """Implements Signatures: every model has the same."""

    def __init__(self, known: Eventual[Signature | None] = SIGNATURE) -> None:
        self.known = known

    def signature(self, pool: Pool, model: str, version: str) -> Eventual[Signature | None]:
        return self.known


class Ledger:
    """A CounterStore that remembers what was granted and what was settled, over real buckets.

    late: takes answer only when the test says so.
    """

    def __init__(self, *, late: bool = False) -> None:
        self.inner = MemoryCounters()
        self.late = late
        self.asked: list[tuple[Sequence[Claim], float, Promise[Grant]]] = []
        self.granted: list[Claim] = []
        self.settled: list[Claim] = []

    def take(self, claims: Sequence[Claim], now: float) -> Eventual[Grant]:
        if not self.late:
            return self._take(claims, now)
        promise: Promise[Grant] = Promise()
        self.asked.append((claims, now, promise))
        return promise

    def _take(self, claims: Sequence[Claim], now: float) -> Grant:
        grant = self.inner.take(claims, now)
        if grant.allowed:
            self.granted.extend(claims)
        return grant

    def settle(self, claims: Sequence[Claim], now: float) -> None:
        self.settled.extend(claims)
        self.inner.settle(claims, now)

    def answer(self) -> None:
        """Answer the take that waits longest."""
        claims, now, promise = self.asked.pop(0)
        promise.resolve(self._take(claims, now))

    def fail(self, error: Exception) -> None:
        """Fail the take that waits longest."""
        self.asked.pop(0)[2].reject(error)

    def balance(self) -> dict[bytes, float]:
        """Return what is spent per key: granted, plus what was settled."""
        spent: dict[bytes, float] = {}
        for claim in (*self.granted, *self.settled):
            spent[claim.key] = spent.get(claim.key, 0.0) + claim.cost
        return {key: cost for key, cost in spent.items() if abs(cost) > 1e-9}


class FakeCall:
    """One call under way: the test answers it."""

    def __init__(self, instance: Destination, request: Request, sink: Sink) -> None:
        self.instance = instance
        self.request = request
        self.sink = sink
        self.cancelled = False
        self.ended = False  # answered, failed or cancelled
        self.written = b""

    def write(self, data: bytes, last: bool, trailers: Headers | None = None) -> None:
        self.written += data

    def pause(self) -> None: ...

    def resume(self) -> None: ...

    def extend(self, until: float) -> None: ...

    def allow_silence(self, idle: float) -> None: ...

    def cancel(self) -> None:
        self.cancelled = self.ended = True

    def answer(self, body: bytes = b"{}", status: int = 200, headers: Headers | None = None) -> None:
        self.ended = True
        fields = [(b"content-type", b"application/json"), *(headers or [])]
        self.sink.on_response(Response(status, fields, body))

    def fail(self, error: GatewayError | None = None) -> None:
        self.ended = True
        self.sink.on_error(error or UpstreamConnectError("refused"))


class FakeUpstream:
    """Implements ports.Upstream. refuse: every call fails at once, before `send` returns."""

    def __init__(self) -> None:
        self.calls: list[FakeCall] = []
        self.refuse: GatewayError | None = None

    def send(self, instance: Destination, request: Request, until: float, sink: Sink) -> FakeCall:
        call = FakeCall(instance, request, sink)
        self.calls.append(call)
        if self.refuse is not None:
            sink.on_error(self.refuse)
        return call


class FakeDownstream:
    """Implements ports.Downstream: what the client got."""

    def __init__(self) -> None:
        self.replies: list[Response] = []
        self.body = b""
        self.ended = False
        self.aborted = False

    def proceed(self) -> None: ...

    def pause_body(self) -> None: ...

    def resume_body(self) -> None: ...

    def reply(self, response: Response) -> None:
        self.replies.append(response)
        self.body = response.body or b""
        self.ended = True

    def interim(self, response: Response) -> None: ...

    def upgrade(self, response: Response, protocol: bytes) -> None:
        self.replies.append(response)

    def begin(self, response: Response) -> None:
        self.replies.append(response)

    def write(self, data: bytes) -> None:
        self.body += data

    def end(self, trailers: Headers | None = None) -> None:
        self.ended = True

    def abort(self, error: GatewayError | None = None) -> None:
        self.aborted = True

    @property
    def answered(self) -> bool:
        return bool(self.replies)

    @property
    def response(self) -> Response:
        (response,) = self.replies
        return response

    @property
    def status(self) -> int:
        return self.response.status

    def field(self, name: bytes) -> bytes | None:
        return self.response.header(name)


class Witness:
    """Implements Observer: remembers who is done, and raises bugs."""

    def __init__(self) -> None:
        self.done: list[Context] = []
        self.mirrored: list[tuple[str, str, str]] = []
        self.errands: list[tuple[str, str, str]] = []

    def on_done(self, ctx: Context) -> None:
        self.done.append(ctx)

    def on_mirrored(self, endpoint: str, pool: str, result: str, seconds: float) -> None:
        self.mirrored.append((endpoint, pool, result))

    def on_errand(self, endpoint: str, pool: str, result: str) -> None:
        self.errands.append((endpoint, pool, result))

    def on_bug(self, ctx: Context, bug: Exception) -> None:
        raise bug


class Sent:
    """One request and what came of it."""

    def __init__(self, exchange: Exchange, down: FakeDownstream) -> None:
        self.exchange = exchange
        self.down = down
        self.ctx = exchange.ctx


class Traffic:
    """One endpoint, its pools, its filters.

    pools: name -> number of instances.
    """

    def __init__(
        self,
        pools: Mapping[str, int] | None = None,
        *,
        versions: Mapping[str, str] | None = None,
        labels: Mapping[str, str] | None = None,
        counters: CounterStore | None = None,
        blobs: BlobStore | None = None,
        seed: int = 7,
        gateways: int = 1,
        speaks: str = "http",
        endpoint: str = "digits",
        answers: AnswerStore | None = None,
    ) -> None:
        self.clock = ManualClock()
        self.timers = ManualTimers(self.clock)
        self.ids = SeededIds(seed)
        self.upstream = FakeUpstream()
        self.observer = Witness()
        self.local = MemoryCounters()
        settings = PoolSettings(retry=Retry(attempts=0))
        self.pools = {
            name: Pool(name, settings, self.ids, speaks=speaks) for name in (pools or {"digits-v1": 1})
        }
        for name, count in (pools or {"digits-v1": 1}).items():
            self.populate(name, count)
        self.parts = Parts(
            endpoint=endpoint,
            model="digits",
            pools=self.pools,
            versions=versions or {},
            labels=labels or {},
            clock=self.clock,
            ids=self.ids,
            counters=counters or self.local,
            local_counters=self.local,
            blobs=blobs,
            answers=AnswerStore(1 << 20, blobs) if answers is None else answers,
            directory=Directory({}, ()),
            issuers={},
            issuer_configs={},
            signatures=Told(),
            pressure=Pressure(),
            gateways=lambda: gateways,
            timers=self.timers,
        )
        self.filters: list[Filter] = []
        self.who: Principal | None = None
        self.parts.errands = Errands(self._gateway())

    def populate(self, pool: str, count: int) -> None:
        facts = [Facts(f"{pool}-{n}", "127.0.0.1", 9000 + n) for n in range(count)]
        self.pools[pool].update(facts, self.clock.now())

    def kill(self, pool: str) -> None:
        for instance in self.pools[pool].members.instances:
            instance.healthy = False

    def use(
        self, kind: FilterKind[Any], *values: object, policy: str = "endpoints.digits"
    ) -> Sequence[Filter]:
        """Add a verb's filters, built from plain rules."""
        return self.use_rules(kind, *(Rule(value, policy) for value in values))

    def use_rules(self, kind: FilterKind[Any], *rules: Rule[Any]) -> Sequence[Filter]:
        made = list(kind.build(rules, self.parts))
        return self.add(*made)

    def add(self, *filters: Filter) -> Sequence[Filter]:
        self.filters.extend(filters)
        self.filters.sort(key=place_of)
        return filters

    # Requests

    def context(
        self,
        path: bytes = V1,
        body: bytes | None = b"",
        *,
        headers: Headers | None = None,
        principal: Principal | None = None,
        method: bytes = b"POST",
        length: int | None = 0,
        address: str = "10.0.0.1",
    ) -> Context:
        """A context by itself, for filters called by hand."""
        request = Request(method, path, headers or [], body=body, length=len(body) if body else length)
        ctx = Context(request, Peer(address, 5000), self._snapshot(), self.clock.now())
        ctx.principal = principal or self.who
        ctx.target = recognise(method, path)
        ctx.dialect = None if ctx.target is None else ctx.target.dialect
        ctx.pool = next(iter(self.pools.values()))
        return ctx

    def send(
        self,
        path: bytes = V1,
        body: bytes | None = None,
        *,
        headers: Headers | None = None,
        principal: Principal | None = None,
        dry: bool = False,
        timeout: float = 60.0,
        address: str = "10.0.0.1",
        method: bytes = b"POST",
        query: bytes = b"",
        host: bytes = b"",
    ) -> Sent:
        """Put a request through the real exchange; it goes as far as it can by itself."""
        body = instances([[1, 2]]) if body is None else body
        request = Request(method, path, headers or [], query=query, host=host, body=body, length=len(body))
        gateway = self._gateway()
        ctx = Context(request, Peer(address, 5000), gateway.snapshot, self.clock.now())
        ctx.principal = principal or self.who
        ctx.dry = dry
        ctx.deadline = self.clock.now() + timeout
        down = FakeDownstream()
        exchange = Exchange(ctx, down, gateway)
        exchange.start()
        return Sent(exchange, down)

    def _gateway(self) -> Gateway:
        return Gateway(
            self._snapshot(),
            upstream=self.upstream,
            clock=self.clock,
            timers=self.timers,
            ids=self.ids,
            signatures=self.parts.signatures,
            observer=self.observer,
            pressure=self.parts.pressure,
        )

    def _snapshot(self) -> Snapshot:
        pools = list(self.pools.values())
        versions = {version: self.pools[name] for version, name in self.parts.versions.items()}
        endpoint = Endpoint("digits", Chain(self.filters), pools[0], model="digits", versions=versions)
        return Snapshot(
            1,
            "",
            self.pools,
            {"digits": endpoint},
            lambda request: Found(endpoint, recognise(request.method, request.path)),
            Forwarding(()),
        )


def instances(rows: Sequence[object]) -> bytes:
    """A prediction in TensorFlow Serving's row form."""
    return orjson.dumps({"instances": rows})


def inputs(rows: Sequence[Sequence[float]], id: str | None = None) -> bytes:
    """The same in KServe V2."""
    flat = [value for row in rows for value in row]
    tensor = {"name": "input", "datatype": "FP32", "shape": [len(rows), 2], "data": flat}
    return orjson.dumps({"inputs": [tensor], **({"id": id} if id else {})})
