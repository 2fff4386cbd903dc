"""What is known of one request, from its head to its last byte. Filters read and write it; nothing else is
shared.

One Context per request, pinned to one snapshot: a reload never changes the rules under a running request. A
field is written by the filter named in its comment and read by those after it; per-filter state lives in a
`Slot`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import GetSetDescriptorType, MemberDescriptorType
from typing import TYPE_CHECKING, Generic, TypeVar, cast

from gateway.dialects.protocol import Dialect, Target
from gateway.dialects.tensors import InferRequest
from gateway.http.message import Request, Response
from gateway.pipeline.errors import GatewayError, Refusal
from gateway.pipeline.pacing import Pace
from gateway.pipeline.ports import Peer, Principal

if TYPE_CHECKING:  # these two hold contexts or are held by one: a type alone, never a call
    from gateway.pipeline.pool import Instance, Pool
    from gateway.pipeline.snapshot import Endpoint, Snapshot

T = TypeVar("T")


class Decision:
    """One line of a request's record: which filter decided what, by which policy, on which numbers."""

    __slots__ = ("filter", "numbers", "origin", "policy", "verdict")

    def __init__(
        self,
        filter: str,
        verdict: str,
        policy: str = "",
        origin: str = "",
        numbers: Mapping[str, object] | None = None,
    ) -> None:
        self.filter = filter
        self.verdict = verdict
        self.policy = policy
        self.origin = origin
        self.numbers = numbers or {}

    def __repr__(self) -> str:
        numbers = " ".join(f"{key}={value}" for key, value in self.numbers.items())
        return f"<{self.filter}: {self.verdict} {numbers} [{self.policy} {self.origin}]>"


class Stale:
    """An answer that the cache still has but may no longer give as fresh."""

    __slots__ = ("age", "response")

    def __init__(self, response: Response, age: float) -> None:
        self.response = response
        self.age = age


class Tried:
    """How one attempt ended, where a request had more to tell of than one that answered.

    kind: first, retry or hedge. ended: a cause of `retry: {on: …}`, a status, or `slower` (the other one of
    a hedged pair answered first), `answered`, `dropped`. again: another try followed. seconds: it took.
    """

    __slots__ = ("again", "ended", "instance", "kind", "pool", "seconds")

    def __init__(self, pool: str, instance: str, kind: str, ended: str, seconds: float) -> None:
        self.pool = pool
        self.instance = instance
        self.kind = kind
        self.ended = ended
        self.seconds = seconds
        self.again = False

    def __repr__(self) -> str:
        return f"<Tried {self.instance} {self.kind}: {self.ended} in {self.seconds * 1000:.3f} ms>"


class Context:
    """One request's state. Times: seconds, monotonic (`started`, `deadline`, `now`). Sizes: bytes."""

    __slots__ = (
        "answered_by",
        "arm",
        "attempts",
        "body_received",
        "body_sent",
        "cache_status",
        "chosen_by",
        "client",
        "credential_field",
        "deadline",
        "degraded",
        "degraded_by",
        "dialect",
        "dry",
        "endpoint",
        "error",
        "fault",
        "finished",
        "first_byte",
        "forwarded",
        "grpc_status",
        "hurried",
        "importance",
        "instance",
        "now",
        "other_arms",
        "pace",
        "parent_span",
        "parsed",
        "peer",
        "pool",
        "principal",
        "refusal",
        "rehearsed",
        "request",
        "request_id",
        "safe_to_retry",
        "sampled",
        "slots",
        "snapshot",
        "span_id",
        "stale",
        "started",
        "status",
        "target",
        "tell_time",
        "trace_id",
        "traceparent",
        "trail",
        "tries",
        "upgrade",
        "upstream_seconds",
        "version",
        "waited",
        "want_whole",
    )

    def __init__(self, request: Request, peer: Peer, snapshot: Snapshot, now: float) -> None:
        self.request = request
        self.peer = peer
        self.snapshot = snapshot
        self.started = now
        self.now = now  # read once per event, not per filter
        self.deadline = now + snapshot.default_timeout  # timeout
        self.client = peer.address  # identify: the address behind trusted proxies
        self.hurried: bool = False  # timeout: the client asked for less time than the policy gives
        self.tell_time: bytes = b""  # timeout: the field that tells instances how much time is left
        self.endpoint: Endpoint | None = None  # exchange
        self.target: Target | None = None  # exchange: what the URL asks of which model
        self.dialect: Dialect | None = None  # exchange: the client's
        # identify: Via, Forwarded, X-Forwarded-* for the instance
        self.forwarded: Sequence[tuple[bytes, bytes]] = ()
        self.request_id: bytes = b""  # identify: the client's if it is well-formed, else ours
        self.trace_id: bytes = b""  # identify: 32 hex digits (W3C Trace Context)
        self.span_id: bytes = b""  # identify: 16 hex digits, ours
        self.parent_span: bytes = b""  # identify: the caller's span, b"" where the trace begins here
        self.traceparent: bytes = b""  # identify: what the instance gets
        self.sampled: bool = False  # identify
        self.credential_field: bytes = b""  # authenticate: the field that held it, not forwarded
        self.principal: Principal | None = None  # authenticate
        self.importance: int = 1  # importance: 0 critical, 1 normal, 2 sheddable
        self.pool: Pool | None = None  # send, release, degrade
        self.version: str = ""  # send, release: the model version chosen, "" = the pool's own
        self.chosen_by: str = ""  # url | override | release | send: who chose pool and version, "" = nobody
        self.arm: str = ""  # release: stable | candidate
        # release: arm, pool, version that would do as well
        self.other_arms: tuple[tuple[str, Pool, str], ...] = ()
        self.parsed: InferRequest | None = None  # prediction
        self.safe_to_retry: bool = False  # safe_to_retry
        self.cache_status: bytes = b""  # cache: an RFC 9211 member for the answer and the log
        self.stale: Stale | None = None  # cache
        self.pace: Pace | None = None  # bandwidth
        self.want_whole: int = 0  # bytes: on_response needs the whole answer if it is not larger
        self.degraded: str = ""  # degrade: which step answered
        self.degraded_by: str = ""  # degrade: what was the trigger
        self.attempts: int = 0  # tries
        self.waited: float = 0.0  # tries: s in the queue of a full pool
        self.instance: Instance | None = None  # tries: the one that answered, else the last one tried
        self.tries: list[Tried] | None = None  # tries: None where the first one answered
        self.upstream_seconds: float = 0.0  # attempt: until the head, summed over attempts
        self.upgrade: bytes = b""  # upgrade: the protocol that client and instance may go on in
        self.fault: str = ""  # fault: what was injected
        self.answered_by: str = ""  # exchange: the filter that answered or refused, "" = upstream
        self.refusal: Refusal | None = None  # exchange
        # policies with `enforce: false` that would refuse, and codes
        self.rehearsed: tuple[tuple[str, str], ...] = ()
        self.error: GatewayError | None = None  # exchange
        self.status: int = 0  # exchange: 499 = the client left first
        self.grpc_status: int = -1  # attempt, answer: how a gRPC call ended, -1 = it is none, or didn't
        self.first_byte: float = 0.0  # exchange
        self.finished: float = 0.0  # exchange
        self.body_received: int = 0  # exchange: where the head did not say how much
        self.body_sent: int = 0  # exchange
        self.dry: bool = False  # explain: decide, spend nothing, send nothing
        self.trail: list[Decision] | None = None  # a list when somebody asked for the record
        self.slots: dict[int, object] | None = None  # what filters keep, by Slot

    def note(
        self,
        filter: str,
        verdict: str,
        policy: str = "",
        origin: str = "",
        numbers: Mapping[str, object] | None = None,
    ) -> None:
        """Add to the record.

        Callers test `ctx.trail is not None` first, so that nobody pays who didn't ask.
        """
        if self.trail is not None:
            self.trail.append(Decision(filter, verdict, policy, origin, numbers))

    def copy(self) -> Context:
        """Return a context that says the same; what is done to it is not done to this one."""
        twin = Context(self.request, self.peer, self.snapshot, self.started)
        for name in _FIELDS:
            setattr(twin, name, getattr(self, name))
        return twin

    def forget(self) -> None:
        """Let go of what is large; the record that an observer may keep needs none of it."""
        self.request.body = None
        self.parsed = None
        self.stale = None
        self.slots = None

    def __repr__(self) -> str:
        where = self.endpoint.name if self.endpoint else "nowhere"
        return f"<Context {self.request!r} -> {where} status={self.status} attempts={self.attempts}>"


# The slots' descriptors are of one type where this file is compiled, and of another where it isn't.
_FIELDS = tuple(
    name
    for name, member in vars(Context).items()
    if isinstance(member, MemberDescriptorType | GetSetDescriptorType)
)


class Slot(Generic[T]):
    """A filter's own place in a context.

    One Slot per filter object, made once: `self.taken = Slot[Claims]()`.
    """

    __slots__ = ()

    def get(self, ctx: Context) -> T | None:
        """Return what this filter kept for this request, or None."""
        return None if ctx.slots is None else cast("T | None", ctx.slots.get(id(self)))

    def set(self, ctx: Context, value: T) -> None:
        """Keep a value for the rest of this request."""
        if ctx.slots is None:
            ctx.slots = {}
        ctx.slots[id(self)] = value
