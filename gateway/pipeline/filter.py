"""What filters are made of: rules of policies, the parts that may be used, and how a verb builds them.

What a filter does, and when: moments.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, TypeVar

from gateway.config.kind import Kind
from gateway.config.recurring import Weekly
from gateway.config.resolve import Who
from gateway.config.schema import Failure, IssuerConfig
from gateway.governance.meters import Meters
from gateway.pipeline.moments import Filter as Filter  # found here, too
from gateway.pipeline.ports import BlobStore, Clock, CounterStore, Ids, KeySource, Principal, Threads, Timers

if TYPE_CHECKING:  # a pool is built before the filters that name it: a type alone here
    from gateway.pipeline.answers import AnswerStore
    from gateway.pipeline.directory import Directory
    from gateway.pipeline.errand import Errands
    from gateway.pipeline.mirroring import Mirrors
    from gateway.pipeline.pool import Pool
    from gateway.pipeline.prediction import Signatures
    from gateway.pipeline.pressure import Pressure
    from gateway.pipeline.releases import Releases

C = TypeVar("C")
Value = TypeVar("Value", covariant=True)


EVERYBODY = Who()  # empty sets: whoever it is, known or not


@dataclass(frozen=True, slots=True)
class Rule(Generic[Value]):
    """One verb of one policy, as it applies to one endpoint.

    policy: the name that refusals and logs show. origin: `file:line`. Two rules with equal value, policy,
    who, enforce and times are equal wherever they stand, so that moving a line keeps a filter's state.
    """

    value: Value
    policy: str = ""
    origin: str = field(default="", compare=False)
    who: Who = EVERYBODY
    enforce: bool = True
    since: float | None = None  # s since the epoch
    until: float | None = None  # s since the epoch
    during: tuple[Weekly, ...] = ()  # hours of the week; none: always
    override: bool = False  # an operator's, from overrides.yaml

    def applies(self, principal: Principal | None, wall: float) -> bool:
        """Tell whether the rule is for this principal, now (`wall`: s since the epoch)."""
        if self.since is not None and wall < self.since:
            return False
        if self.until is not None and wall >= self.until:
            return False
        if self.during and not any(hours.holds(wall) for hours in self.during):
            return False
        if self.who == EVERYBODY:
            return True
        return principal is not None and self.who.includes(principal.name, principal.plan, principal.tenant)

    @property
    def is_plain(self) -> bool:
        """For everybody, always, enforced."""
        return (
            self.who == EVERYBODY
            and self.since is None
            and self.until is None
            and not self.during
            and self.enforce
        )


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
    errands: Errands | None = None  # None: nothing is asked on the gateway's own account
    timers: Timers | None = None  # None: nothing waits here
    threads: Threads | None = None  # None: long work is done at once
    releases: Releases | None = None  # None: every filter has releases of its own
    quotas: CounterStore | None = None  # None: every filter counts its own, in memory
    local_quotas: CounterStore | None = None  # while the ledger is away
    meters: Meters | None = None  # of bandwidth; None: every filter has its own


@dataclass(frozen=True)
class FilterKind(Kind[C], Generic[C]):
    """A verb together with how its filters are made.

    build: all rules of this verb that apply to one endpoint, most specific first -> filters. A kind that
    does not accumulate gets exactly one rule per call; `chain.py` chooses among candidates per request.
    """

    build: Callable[[Sequence[Rule[C]], Parts], Iterable[Filter]] = field(kw_only=True)
