"""One configuration, frozen: what every request pins at its start and keeps to its end.

Three clocks of change, three mechanisms: configuration (minutes) makes a new Snapshot, stored by one
assignment; membership (seconds) makes new `Members` in a pool; health and load (per request) are fields of
`Instance`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from gateway.dialects.protocol import Target
from gateway.http.forwarded import Forwarding
from gateway.http.message import Request
from gateway.pipeline.pool import Pool
from gateway.pipeline.steps import Steps


class Endpoint:
    """What clients call, as built: a chain of filters and the pool that serves unless a filter sends
    elsewhere.

    pools: all that its requests may come to. model: "" for an endpoint that matches by path. versions:
    version -> pool; labels: label -> version. body_limit: bytes a body may have where it must be whole;
    larger ones are refused with 413.
    """

    __slots__ = (
        "body_limit",
        "chain",
        "label_versions",
        "model",
        "name",
        "origin",
        "pool",
        "pools",
        "versions",
    )

    def __init__(
        self,
        name: str,
        chain: Steps,
        pool: Pool | None,
        *,
        model: str = "",
        versions: Mapping[str, Pool] | None = None,
        labels: Mapping[str, str] | None = None,
        pools: Iterable[Pool] = (),
        body_limit: int = 10 * 1024 * 1024,
        origin: str = "",
    ) -> None:
        self.name = name
        self.chain = chain
        self.pool = pool
        self.model = model
        self.versions = dict(versions or {})
        self.pools = tuple(pools)
        self.label_versions = dict(labels or {})
        self.body_limit = body_limit
        self.origin = origin

    def __repr__(self) -> str:
        return f"<Endpoint {self.name} | {self.chain!r}>"


@dataclass(frozen=True, slots=True)
class Found:
    """Where a request belongs.

    endpoint None: nowhere; target: what its URL says in some dialect, if it does. models: where the message
    names the model (`target.inside`), the endpoints among which it does so.
    """

    endpoint: Endpoint | None
    target: Target | None
    allowed: tuple[str, ...] = ()  # methods that would have matched, for a 405
    models: Mapping[str, Endpoint] | None = None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One configuration. version counts loads of this process; digest is the policies' SHA-256."""

    version: int
    digest: str
    pools: Mapping[str, Pool]
    endpoints: Mapping[str, Endpoint]
    find_endpoint: Callable[[Request], Found]
    forwarding: Forwarding
    default_timeout: float = 60.0  # s
    trace_share: float = 0.0  # of requests whose caller did not decide
    answer_limit: int = 16 * 1024 * 1024  # bytes of an answer that is read whole to be translated
    stream_idle: float = 300.0  # s without a byte of an answer whose end nobody has announced
    tunnel_idle: float = 300.0  # s without a byte either way
    replay_limit: int = 64 * 1024  # bytes: bodies up to this are read whole, so that they can be sent twice
