"""The moments of a request at which a policy may act, and the base class of everything that acts.

A filter overrides the moments it needs; `Chain` (chain.py) keeps, per moment, only those that do. A filter
holds its checked config and its ports, nothing per request: that lives in the Context. Filters import no
other filter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, TypeVar

from gateway.config.kind import Kind
from gateway.config.resolve import Who
from gateway.config.schema import Failure, IssuerConfig
from gateway.http.message import Response
from gateway.pipeline.context import Context
from gateway.pipeline.errors import GatewayError, Refusal
from gateway.pipeline.ports import BlobStore, Clock, CounterStore, Ids, KeySource, Principal
from gateway.pipeline.promise import Eventual

if TYPE_CHECKING:  # a pool is built before the filters that name it: a type alone here
    from gateway.pipeline.answers import AnswerStore
    from gateway.pipeline.directory import Directory
    from gateway.pipeline.mirroring import Mirrors
    from gateway.pipeline.pool import Pool
    from gateway.pipeline.prediction import Signatures
    from gateway.pipeline.pressure import Pressure

C = TypeVar("C")


class Filter:
    """One policy at work. Override the moments that matter; each is called at most once per request, but
    chunks.

    name: the verb, as in YAML. place: the fixed order (filters/catalog.py). needs_body: on_request sees the
    whole, bounded body in `ctx.request.body`; otherwise the body may still be on its way.
    """

    name: str = ""
    place: int = 0
    needs_body: bool = False

    def on_request(self, ctx: Context) -> Eventual[Response | Refusal | None]:
        """Before any attempt.

        None: go on. A Response: the answer. A Refusal: a No that `degrade` may soften.
        """
        return None

    def on_request_chunk(self, ctx: Context, chunk: bytes, last: bool) -> bytes:
        """A piece of a streamed request body on its way upstream."""
        return chunk

    def on_response(self, ctx: Context, response: Response) -> Eventual[Response]:
        """An answer on its way back, in reverse order; only where this filter's on_request was reached.

        Also for answers that a filter gave, refusals included. response.body is None while it streams past,
        unless `ctx.want_whole` asked for it and it fitted.
        """
        return response

    def on_response_chunk(self, ctx: Context, chunk: bytes, last: bool) -> bytes:
        """A piece of a streamed answer on its way to the client."""
        return chunk

    def on_refusal(self, ctx: Context, refusal: Refusal) -> Response | Pool | None:
        """Another filter refused: a lesser answer, another pool to try, or None."""
        return None

    def on_error(self, ctx: Context, error: GatewayError) -> Response | Pool | None:
        """All attempts failed before the first byte went out: a lesser answer, another pool, or None."""
        return None

    def on_done(self, ctx: Context) -> None:
        """The end, exactly once for each filter that was reached: release and settle. Must not raise."""
        return

    def close(self) -> None:
        """The filter left the running snapshot (its rules changed): let go of what it holds."""
        return


EVERYBODY = Who()  # empty sets: whoever it is, known or not


@dataclass(frozen=True, slots=True)
class Rule(Generic[C]):
    """One verb of one policy, as it applies to one endpoint.

    policy: the name that refusals and logs show. origin: `file:line`. Two rules with equal value, policy,
    who, enforce and times are equal wherever they stand, so that moving a line keeps a filter's state.
    """

    value: C
    policy: str = ""
    origin: str = field(default="", compare=False)
    who: Who = EVERYBODY
    enforce: bool = True
    since: float | None = None  # s since the epoch
    until: float | None = None  # s since the epoch
    override: bool = False  # an operator's, from overrides.yaml

    def applies(self, principal: Principal | None, wall: float) -> bool:
        """Tell whether the rule is for this principal, now (`wall`: s since the epoch)."""
        if self.since is not None and wall < self.since:
            return False
        if self.until is not None and wall >= self.until:
            return False
        if self.who == EVERYBODY:
            return True
        return principal is not None and self.who.includes(principal.name, principal.plan, principal.tenant)

    @property
    def is_plain(self) -> bool:
        """For everybody, always, enforced."""
        return self.who == EVERYBODY and self.since is None and self.until is None and self.enforce


@dataclass(slots=True)
class Parts:
    """What a filter may be built from, for one endpoint."""

    endpoint: str
    model: str
    pools: Mapping[str, Pool]
    versions: Mapping[str, str]  # version -> pool name
    labels: Mapping[str, str]  # label -> version
    clock: Clock
    ids: Ids
    counters: CounterStore
    local_counters: CounterStore
    blobs: BlobStore | None
    answers: AnswerStore
    directory: Directory
    issuers: Mapping[str, KeySource]
    issuer_configs: Mapping[str, IssuerConfig]
    signatures: Signatures
    pressure: Pressure
    gateways: Callable[[], int]
    on_store_failure: Failure = "local"  # of throttles that don't say
    mirrors: Mirrors | None = None  # None: nothing is mirrored here


@dataclass(frozen=True)
class FilterKind(Kind[C], Generic[C]):
    """A verb together with how its filters are made.

    build: all rules of this verb that apply to one endpoint, most specific first -> filters. A kind that
    does not accumulate gets exactly one rule per call; `chain.py` chooses among candidates per request.
    """

    build: Callable[[Sequence[Rule[C]], Parts], Iterable[Filter]] = field(kw_only=True)
