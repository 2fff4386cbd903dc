"""The ports: what the pipeline asks of the world, as Protocols. The edges implement them; tests fake them.

Every call returns at once. Events come back through `Sink` (from an upstream call) and through the methods
of `Exchange` (from the client's connection). All times are seconds on the monotonic clock unless a name
says `wall`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol, TypeVar

from mypy_extensions import mypyc_attr

from gateway.governance.token_bucket import Claim as Claim  # found here, too
from gateway.http.message import Headers, Request, Response
from gateway.pipeline.errors import GatewayError
from gateway.pipeline.pool_verbs import Tls
from gateway.pipeline.promise import Eventual, Promise

T = TypeVar("T")


class Clock(Protocol):
    """The two clocks."""

    def now(self) -> float:
        """Seconds, monotonic."""
        ...

    def wall(self) -> float:
        """Seconds since the Unix epoch."""
        ...


class Cancellable(Protocol):
    """Something that can be called off; calling it off twice does nothing."""

    def cancel(self) -> None:
        """Call it off."""
        ...


class Timers(Protocol):
    """Deadlines kept in one structure and swept every few tens of milliseconds (that is their resolution)."""

    def at(self, deadline: float, callback: Callable[[], None]) -> Cancellable:
        """Call back once, at or shortly after `deadline`, never before."""
        ...

    def punctual(self, deadline: float, callback: Callable[[], None]) -> Cancellable:
        """Call back once, within a millisecond or two of `deadline`: dearer, for hedges and pauses."""
        ...


class Threads(Protocol):
    """Does long work beside the event loop."""

    def run(self, work: Callable[[], T]) -> Promise[T]:
        """Do it in a thread: nothing that the event loop touches meanwhile.

        What it raises is the promise's failure.
        """
        ...


@dataclass(frozen=True, slots=True)
class ClientCertificate:
    """Whose certificate was verified in the handshake; server/client_certificate.py says how names look.

    subject: as RFC 4514 writes it, may be empty. names: everything by which a policy may know the holder.
    """

    subject: str
    names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Peer:
    """Who is at the other end of a client's connection: textual address and port; `scheme` it spoke to us.

    Behind a proxy that sends the PROXY protocol these are the client's. certificate: only a verified one.
    """

    address: str
    port: int
    scheme: str = "http"
    certificate: ClientCertificate | None = None


class Receiver(Protocol):
    """What a client's connection reports to: one exchange. The methods never raise but for bugs."""

    def start(self) -> None:
        """The head is complete (request.body is bytes when the body came along, None when it follows)."""
        ...

    def on_body(self, data: bytes, last: bool) -> None:
        """A piece of the request's body, de-chunked; only after `Downstream.proceed`.

        `request.trailers` are there before the last piece. After `Downstream.upgrade`: what the client says
        in the other protocol, last when it says no more.
        """
        ...

    def on_body_error(self, error: GatewayError) -> None:
        """The body is malformed, too large or too slow: BadBody, BodyTooLarge, BodyTimeout."""
        ...

    def on_writable(self, ready: bool) -> None:
        """The send buffer to the client passed its high (False) or fell under its low (True) mark."""
        ...

    def on_client_gone(self) -> None:
        """The client left before the response was complete."""
        ...

    def crash(self, bug: Exception) -> None:
        """A bug escaped from one of these methods: answer 500 if nothing was sent, release, and record it."""
        ...


class Begin(Protocol):
    """Makes the receiver of one request."""

    def __call__(self, request: Request, peer: Peer, down: Downstream) -> Receiver:
        """Nothing happens before `Receiver.start`."""
        ...


class Downstream(Protocol):
    """The client's connection, as one exchange sees it. After `end`, `reply` or `abort` nothing more may be
    sent.

    The connection calls the exchange: `start()` once the head is read, `on_body(data, last)` while the body
    comes in (only after `proceed`), `on_client_gone()` when the client left, `on_writable(ready)` when its
    send buffer passes the high (False) or falls under the low (True) mark.
    """

    def proceed(self) -> None:
        """The body is wanted: answer `Expect: 100-continue` if it was sent, and let the body in."""
        ...

    def pause_body(self) -> None:
        """Stop reading the request's body."""
        ...

    def resume_body(self) -> None:
        """Read on."""
        ...

    def reply(self, response: Response) -> None:
        """Send a whole response (response.body is bytes)."""
        ...

    def interim(self, response: Response) -> None:
        """Send an interim response (102, 103 …) to a client that knows them, before the final one."""
        ...

    def begin(self, response: Response) -> None:
        """Send a response's head; chunks follow by `write`, then `end`."""
        ...

    def upgrade(self, response: Response, protocol: bytes) -> None:
        """Send a 101. From here on `write` sends as it is and `end` says that no more will come.

        `Receiver.on_body` gets what the client sends; the connection closes when both have ended.
        """
        ...

    def write(self, data: bytes) -> None:
        """Send a piece of the body."""
        ...

    def end(self, trailers: Headers | None = None) -> None:
        """The body is complete. trailers: sent where the message can carry them and the client wants them."""
        ...

    def abort(self, error: GatewayError | None = None) -> None:
        """The response can't be completed: break the connection so that the client sees it (RFC 9112 §8).

        error: why, for clients that can be told in mid-answer (gRPC).
        """
        ...


class Sink(Protocol):
    """Where an upstream call reports. Exactly one of: a whole response; a head and chunks up to `last`; an
    error.

    An error may also come after the head, when the instance dies in mid-body. After it, or after the last
    byte, or after `Call.cancel`, nothing more is reported.
    """

    def on_ready(self) -> None:
        """The head is on its way and the body may be sent with `Call.write`.

        Only for requests with body None.
        """
        ...

    def on_interim(self, response: Response) -> None:
        """An interim head (1xx, but neither 100 nor 101); may come several times before the final one."""
        ...

    def on_response(self, response: Response) -> None:
        """A final head; response.body is bytes when the message is already complete, else None.

        Also the 101 that `request.upgrade` asked for: chunks and `Call.write` are then a tunnel's two ways.
        """
        ...

    def on_chunk(self, data: bytes, last: bool) -> None:
        """A piece of the body; the last one may be empty, and `response.trailers` are there before it."""
        ...

    def on_error(self, error: GatewayError) -> None:
        """The call failed; `error.retry` says whether another try may help."""
        ...

    def on_writable(self, ready: bool) -> None:
        """The send buffer to the instance passed its high (False) or fell under its low (True) mark."""
        ...


class Call(Protocol):
    """One request under way to one instance."""

    def write(self, data: bytes, last: bool, trailers: Headers | None = None) -> None:
        """Send a piece of a streamed request body; `trailers` with the last one."""
        ...

    def pause(self) -> None:
        """Stop reading the response (the client is slow)."""
        ...

    def resume(self) -> None:
        """Read on."""
        ...

    def extend(self, until: float) -> None:
        """Move the call's deadline."""
        ...

    def allow_silence(self, idle: float) -> None:
        """From here on no deadline but silence: `idle` seconds without a byte either way end the call.

        While it is paused nobody waits for a byte, and the time stands still.
        """
        ...

    def cancel(self) -> None:
        """Give it up: nothing more is reported, and the connection is not used again unless it was idle."""
        ...


@mypyc_attr(allow_interpreted_subclasses=True)
class Destination:
    """What an upstream needs to know of an instance.

    host: address or name. authority: `host:port` as the Host field carries it. http2: whether it is spoken to
    in HTTP/2. tls: how connections to it are encrypted, None: they are not. A base class and not a Protocol,
    because a compiled upstream finds its fields without a look-up.
    """

    __slots__ = ("authority", "host", "http2", "port", "tls")

    host: str
    port: int
    authority: bytes
    http2: bool
    tls: Tls | None


class Upstream(Protocol):
    """Sends requests to instances over kept-alive connections."""

    def send(self, instance: Destination, request: Request, until: float, sink: Sink) -> Call:
        """Start one call. request.body None: wait for `Sink.on_ready`, then `Call.write`.

        The sink may be called before this returns. `until`: the instant by which the response must be
        complete.
        """
        ...


class Grant:
    """What the store decided on a sequence of claims, all or nothing.

    binding: index of the claim that refused, or that is nearest to refusing. remaining: whole tokens left
    at that level. retry_after: seconds until all would be granted (0.0 when allowed; inf when a cost is
    above its burst). reset: seconds until the binding level is full again.

    No dataclass: there is one per request, and a frozen one costs four times as much to make.
    """

    __slots__ = ("allowed", "binding", "remaining", "reset", "retry_after")

    def __init__(self, allowed: bool, binding: int, remaining: int, retry_after: float, reset: float) -> None:
        self.allowed = allowed
        self.binding = binding
        self.remaining = remaining
        self.retry_after = retry_after
        self.reset = reset

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Grant):
            return NotImplemented
        return (
            self.allowed == other.allowed
            and self.binding == other.binding
            and self.remaining == other.remaining
            and self.retry_after == other.retry_after
            and self.reset == other.reset
        )

    def __hash__(self) -> int:
        return hash((self.allowed, self.binding, self.remaining, self.retry_after, self.reset))

    def __repr__(self) -> str:
        return f"Grant({self.allowed}, {self.binding}, {self.remaining}, {self.retry_after}, {self.reset})"


class StoreUnavailable(Exception):
    """A counter or blob store did not answer in time; the policy's `on_store_failure` decides."""


class CounterStore(Protocol):
    """Token buckets, in memory or shared."""

    def take(self, claims: Sequence[Claim], now: float) -> Eventual[Grant]:
        """Decide all claims together, spending all or none.

        The promise may be rejected with StoreUnavailable.
        """
        ...

    def settle(self, claims: Sequence[Claim], now: float) -> None:
        """Charge (cost > 0, debt allowed) or give back (cost < 0) after the fact; fire and forget."""
        ...


class BlobStore(Protocol):
    """Bytes under a key for a time. Unavailability is a miss, never an error of the request."""

    def get(self, key: bytes) -> Eventual[bytes | None]:
        """Return the value or None."""
        ...

    def set(self, key: bytes, value: bytes, ttl: float) -> None:
        """Keep the value for ttl seconds; fire and forget."""
        ...

    def delete(self, keys: Sequence[bytes]) -> None:
        """Forget; fire and forget."""
        ...


class Lease(Enum):
    """What `SharedBlobs.lease` says."""

    OURS = "ours"  # fetch
    THEIRS = "theirs"  # somebody else fetches: look again soon
    NOBODYS = "nobodys"  # what is fetched can't be shared, or the store is away: everybody fetches


class SharedBlobs(BlobStore, Protocol):
    """Blobs that other gateways use, too: who fetches what, and what was purged, goes through it."""

    def lease(self, key: bytes) -> Eventual[Lease]:
        """Ask to be the one who fetches what belongs under a key; the lease ends by itself."""
        ...

    def release(self, key: bytes, shared: bool) -> None:
        """Give a lease back. shared: others find the value; else they needn't wait for one."""
        ...

    def announce(self, what: str) -> None:
        """Tell all who share this store of a purge, as soon as that is possible."""
        ...


class KeySource(Protocol):
    """An issuer's public keys (JWKS), fetched and refreshed behind this port, single-flight."""

    def key(self, kid: str | None, algorithm: str) -> Eventual[object | None]:
        """Return the verification key for a token's `kid`, or None when the issuer has none that fits.

        `algorithm` is the pinned one. Unknown kids refetch at most once per cool-down. Rejected with
        StoreUnavailable when the issuer can't be reached and nothing usable is cached.
        """
        ...


class Ids(Protocol):
    """Where identifiers come from (chance is an edge)."""

    def request_id(self) -> bytes:
        """A new request id, unique across gateways: 32 lower-case hex digits."""
        ...

    def chance(self) -> float:
        """A uniform number in [0, 1)."""
        ...


@dataclass(frozen=True, slots=True)
class Principal:
    """Who was authenticated. plan: a class of terms; tenant: the organisation that pays.

    models / endpoints: what it may call ("*" = all). may_override: it may choose pool or version by header.
    claims: a token's verified claims, empty for API keys.
    """

    name: str
    plan: str = ""
    tenant: str = ""
    models: frozenset[str] = frozenset()
    endpoints: frozenset[str] = frozenset()
    may_override: bool = False
    importance: str = ""
    claims: Mapping[str, object] | None = None
