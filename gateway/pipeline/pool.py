"""A pool: a named set of interchangeable instances, and what is known of each.

Three rates of change live here side by side. Settings never change (a reload makes a new Pool, or keeps
this one when they are equal). Members change in seconds: a new tuple and its picker are swapped in
together. Load and health change per attempt: they are fields of `Instance`. What `acquire` takes, its
attempt gives back exactly once by `released`, and the one Outcome given there feeds picker, breaker, ejector
and limiter alike.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Final

from gateway.dialects.catalogue import BY_NAME
from gateway.dialects.metadata import parse_signature
from gateway.governance.affinity import Affinity
from gateway.governance.breaker import Breaker, BreakerSettings, Permit, State
from gateway.governance.concurrency import AdaptiveLimit
from gateway.governance.ejection import Ejector
from gateway.governance.ewma import Ewma
from gateway.governance.hedging import Hedging
from gateway.governance.laggards import Laggards
from gateway.governance.picker import (
    FAR_SLOWER,
    ConsistentHash,
    LeastCost,
    Picker,
    RoundRobin,
    TwoChoices,
    subset,
)
from gateway.governance.reported_load import ReportedLoad
from gateway.governance.retry_budget import RetryBudget
from gateway.http.grpc import BLAMING, Status, status_of
from gateway.http.load_report import read_load
from gateway.http.message import Response
from gateway.pipeline.blocks import blocks_of, hash64, key_text
from gateway.pipeline.context import Context
from gateway.pipeline.errors import (
    BreakerOpen,
    GatewayError,
    NoInstance,
    Outcome,
    Overloaded,
)
from gateway.pipeline.pool_queue import PoolQueue
from gateway.pipeline.pool_verbs import Hedge, PoolSettings
from gateway.pipeline.ports import Clock, Destination, Ids, Timers

# As in phase.py: a Final costs no look-up.
SUCCESS: Final = Outcome.SUCCESS
IGNORED: Final = Outcome.IGNORED

LITTLE: Final = 1.0 / FAR_SLOWER
"""Share below which an instance is shown as down-weighted."""
LONGEST_WAIT = 1.0  # s for a place in a full pool, where neither `queue` nor a target says it


@dataclass(frozen=True, slots=True)
class Facts:
    """What a registry or the YAML says of one instance."""

    id: str
    host: str
    port: int
    weight: int = 100
    version: str = ""
    zone: str = ""
    draining: bool = False
    labels: tuple[tuple[str, str], ...] = field(default=(), compare=False)


class Instance(Destination):
    """One address, its load and its health. Implements governance's Candidate."""

    __slots__ = (
        "breaker",
        "doubted_until",
        "draining",
        "ejected_until",
        "elsewhere",
        "facts",
        "failures",
        "healthy",
        "id",
        "in_flight",
        "key",
        "last_good",
        "latency",
        "reports",
        "since",
        "successes",
        "weight",
        "zone",
    )

    def __init__(self, facts: Facts, settings: PoolSettings, ids: Ids, now: float) -> None:
        self.facts = facts
        self.id = facts.id
        self.host = facts.host
        self.port = facts.port
        host = f"[{facts.host}]" if ":" in facts.host else facts.host
        self.authority = f"{host}:{facts.port}".encode()
        self.http2 = False
        self.key = hash64(self.authority)
        self.tls = settings.tls if settings.tls.enabled else None
        self.weight = facts.weight
        self.draining = facts.draining
        self.healthy = True  # the active check's verdict; innocent until it has asked
        self.ejected_until = 0.0
        self.doubted_until = 0.0  # it gets a tenth of its share until then
        self.elsewhere = 0.0  # how many calls dearer it is for what it reported
        self.reports = ReportedLoad()
        self.zone = facts.zone
        self.in_flight = 0
        self.latency = Ewma()
        self.last_good = 0.0  # s that the last good answer took; 0.0: there was none
        self.since = now
        self.successes = 0
        self.failures = 0
        self.breaker = _breaker(settings, ids, "instance")

    def recover(self) -> None:
        """It was ill, and its check finds it well: what it was before says nothing of now."""
        self.latency.forget()
        self.doubted_until = 0.0

    def usable(self, now: float) -> bool:
        """Tell whether a call may go here now."""
        return (
            self.healthy
            and not self.draining
            and self.weight > 0
            and now >= self.ejected_until
            and (self.breaker is None or self.breaker.admits(now))
        )

    def admit(self, now: float) -> Permit | None:
        """Take the breaker's permit for one attempt."""
        return None if self.breaker is None else self.breaker.admit(now)

    def state(self, now: float) -> str:
        """Say in one word why calls go here or don't."""
        if self.draining:
            return "draining"
        if not self.healthy:
            return "unhealthy"
        if now < self.ejected_until:
            return "ejected"
        if self.breaker is not None and self.breaker.state is not State.CLOSED:
            return f"breaker_{self.breaker.state.value}"
        if now < self.doubted_until:
            return "doubted"
        return "up"

    def __repr__(self) -> str:
        return f"<Instance {self.id} {self.host}:{self.port} | {self.in_flight} in flight>"


def _breaker(settings: PoolSettings, ids: Ids, of: str) -> Breaker | None:
    """Make the breaker of an instance, or of the pool, where it is to have one."""
    verb = settings.breaker
    if verb is None or verb.of not in (of, "both"):
        return None
    made = BreakerSettings(
        errors=verb.errors,
        slow_over=None if verb.slow is None else verb.slow.over,
        slow_ratio=1.0 if verb.slow is None else verb.slow.ratio,
        consecutive=verb.consecutive,
        min_calls=verb.min_calls,
        window=verb.window,
        cool_down=verb.cool_down,
        probes=verb.probes,
    )
    return Breaker(made, ids.chance)


def _hedging(verb: Hedge) -> Hedging | None:
    if verb.quantile is None and verb.fixed is None:
        return None
    return Hedging(verb.quantile, verb.fixed, at_least=verb.at_least, warm_up=verb.warm_up, below=verb.below)


def _judge_call(response: Response) -> Outcome:
    """Say what a gRPC answer tells of the instance, by its trailers once they are there."""
    if response.status == 200 and response.trailers is None and response.header(b"grpc-status") is None:
        return SUCCESS if response.body is None else Outcome.FAILURE  # its messages are still to come
    status = status_of(response, response.trailers)
    if status is Status.CANCELLED:
        return IGNORED
    return Outcome.FAILURE if status in BLAMING else SUCCESS


class Full(Overloaded):
    """A pool has all the calls under way that it may have: wait in its queue, or be refused."""

    def __init__(self, name: str) -> None:
        super().__init__(f"pool '{name}' has all the calls under way that it may have")


@dataclass(frozen=True, slots=True)
class Members:
    """The instances and their picker: swapped together, so never out of step."""

    instances: tuple[Instance, ...]
    picker: Picker[Instance]
    spare: Picker[Instance] | None = None  # of all, when nobody of the picker's subset can take a call


class Pool:
    """A named set of interchangeable instances."""

    __slots__ = (
        "_affinity",
        "_bound",
        "_ejector",
        "_full",
        "_hashes",
        "_ids",
        "_laggards",
        "_learns_time",
        "_limit",
        "_salt",
        "_waits",
        "breaker",
        "chance",
        "front",
        "hedging",
        "hides_failures",
        "http2",
        "in_flight",
        "is_graph",
        "is_grpc",
        "members",
        "model",
        "name",
        "per_try_timeout",
        "queue",
        "reports",
        "retry_budget",
        "settings",
        "signature",
        "speaks",
        "version",
    )

    def __init__(
        self,
        name: str,
        settings: PoolSettings,
        ids: Ids,
        *,
        speaks: str = "http",
        model: str = "",
        version: str = "",
        http2: bool = False,
        signature: str = "",
    ) -> None:
        self.name = name
        self.is_graph = False  # it asks other pools (graphs.py)
        self.front: Pool = self  # whose instances tell what the model expects
        self.settings = settings
        self.speaks = speaks
        self._full = Full(name)
        self._waits = settings.queue.size != 0
        self.is_grpc = speaks == "grpc" or (speaks in BY_NAME and BY_NAME[speaks].is_grpc)
        self.hides_failures = speaks in BY_NAME and BY_NAME[speaks].hides_failures
        self.http2 = http2 or self.is_grpc
        self.signature = parse_signature(signature) if signature else None  # written in the policy
        self.model = model
        self.version = version
        self.per_try_timeout: float = settings.per_try_timeout.after
        self._hashes = settings.balance.by == "hash" and bool(settings.balance.hash)
        self._bound = settings.concurrency.limit
        self.in_flight = 0
        self.queue: PoolQueue | None = None  # since it was full for the first time
        self.retry_budget = RetryBudget(settings.retry.budget, settings.retry.floor)
        self.hedging = None if settings.hedge is None else _hedging(settings.hedge)
        self.chance = ids.chance
        self._ids = ids
        self.breaker = _breaker(settings, ids, "pool")
        self.reports = settings.balance.reported
        near = settings.balance.affinity
        self._affinity = None if near is None else Affinity(near.kept, near.for_)
        self._salt = int(ids.chance() * 2**53) if settings.balance.subset else 0
        target = settings.concurrency.target
        self._limit = (
            None
            if target is None
            else AdaptiveLimit(None if target == "auto" else target, maximum=settings.concurrency.limit)
        )
        self._learns_time = target == "auto"
        self._ejector = Ejector(
            consecutive=settings.eject.consecutive,
            base=settings.eject.for_,
            max_share=settings.eject.max_share,
        )
        eject = settings.eject
        self._laggards = Laggards(eject.slow, eject.max_share) if eject.slow else None
        self.members = self._members(())

    # Membership

    def update(self, facts: Iterable[Facts], now: float) -> None:
        """Swap in the current set. An instance that stays keeps its load, health and breaker."""
        known = {instance.facts.id: instance for instance in self.members.instances}
        instances = []
        for fact in sorted(facts, key=lambda fact: fact.id):
            instance = known.get(fact.id)
            if instance is None or (instance.host, instance.port) != (fact.host, fact.port):
                instance = Instance(fact, self.settings, self._ids, now)
            instance.http2 = self.http2
            instance.facts = fact
            instance.zone = fact.zone
            instance.weight = fact.weight
            instance.draining = fact.draining
            instances.append(instance)
        self._ejector.retain({instance.id for instance in instances})
        if self._laggards is not None:
            self._laggards.retain({instance.id for instance in instances})
        if self._affinity is not None:
            self._affinity.retain({instance.key for instance in instances})
        self.members = self._members(tuple(instances))

    def _members(self, instances: tuple[Instance, ...]) -> Members:
        most = self.settings.balance.subset
        if not 0 < most < len(instances):
            return Members(instances, self._picker(instances))
        chosen = tuple(subset(instances, most, self._salt))
        return Members(instances, self._picker(chosen), self._picker(instances))

    def _picker(self, instances: tuple[Instance, ...]) -> Picker[Instance]:
        balance = self.settings.balance
        match balance.by:
            case "round_robin":
                return RoundRobin(instances, panic=balance.panic)
            case "hash":
                return ConsistentHash(instances, panic=balance.panic, bound=balance.bound)
            case "two_choices":
                return TwoChoices(instances, panic=balance.panic, rng=self._ids.chance)
            case "least_cost":
                zone = balance.zone
                return LeastCost(
                    instances,
                    panic=balance.panic,
                    slow_start=balance.slow_start,
                    home="" if zone is None else zone.name,
                    far=1.0 if zone is None else zone.far,
                    rng=self._ids.chance,
                )

    # Attempts

    @property
    def limit(self) -> float:
        """Calls that may be under way now."""
        return self._bound if self._limit is None else self._limit.limit

    @property
    def urgent_limit(self) -> float:
        """The limit for critical calls: beyond an adaptive one, never beyond a fixed one."""
        return self._bound if self._limit is None else self._limit.urgent

    def state(self, instance: Instance, now: float) -> str:
        """Say in one word why calls go to one of its instances, or don't, or hardly do."""
        said = instance.state(now)
        return "down_weighted" if said == "up" and self.members.picker.share(instance, now) < LITTLE else said

    def usable(self, now: float) -> bool:
        """Tell whether a call may go here now, as far as health and breakers say."""
        return any(instance.usable(now) for instance in self.members.instances)

    def acquire(self, ctx: Context, tried: Sequence[Instance]) -> Instance | GatewayError:
        """Take an instance for one attempt, or say why none can be had.

        Its breaker's permit is the attempt's to take, at once (`Instance.admit`).
        """
        now = ctx.now
        limit = self._bound if self._limit is None else self._limit.limit
        if self.in_flight >= (limit if ctx.importance < 2 or self._waits else limit * 0.8) and (
            ctx.importance or self.in_flight >= self.urgent_limit
        ):
            if not ctx.dry:
                return self._full
            waiting = 0 if self.queue is None else self.queue.size
            verdict = "would wait" if self._waits else "would be refused"
            ctx.note("queue", f"pool {self.name} is full: {verdict}", numbers={"waiting": waiting})
        if self.breaker is not None and not self.breaker.admits(now):
            return BreakerOpen(f"the breaker of pool '{self.name}' is open", self.breaker.retry_after(now))
        if self._affinity is None:
            key = self._hash_key(ctx) if self._hashes else 0
            instance = self.members.picker.pick(key, now, tried)
        else:
            instance = self._pick_warm(self._affinity, ctx, now, tried)
        if instance is None and self.members.spare is not None:
            instance = self.members.spare.pick(0, now, tried)
        if ctx.trail is not None:
            self._explain(ctx, instance)
        if instance is None:
            return self._nobody(now, tried)
        instance.in_flight += 1
        self.in_flight += 1
        if self._learns_time and self._limit is not None:
            self._limit.give(ctx.deadline - now)
        return instance

    def _pick_warm(
        self, affinity: Affinity, ctx: Context, now: float, tried: Sequence[Instance]
    ) -> Instance | None:
        """Pick where some have what the request needs, and remember where it goes."""
        near = self.settings.balance.affinity
        picker = self.members.picker
        assert near is not None
        blocks = blocks_of(ctx, near.to)
        if not blocks or not isinstance(picker, LeastCost):
            return picker.pick(0, now, tried)
        warm = affinity.warm(blocks, now)
        instance = picker.pick_warm(warm, near.worth, now, tried)
        if ctx.trail is not None:
            shares = {one.id: round(warm[one.key], 3) for one in self.members.instances if one.key in warm}
            ctx.note("affinity", f"{len(blocks)} blocks of {near.to}", numbers={"warm": shares})
        if instance is not None and not ctx.dry:
            affinity.placed(blocks, instance.key, now)
        return instance

    def learn_load(self, instance: Instance, response: Response) -> None:
        """Heed what the instance's answer says of its load, if it says something."""
        said = read_load(response)
        if said is not None:
            instance.elsewhere = instance.reports.heard(said[0], said[1], instance.in_flight)

    def released(
        self,
        instance: Instance,
        permit: Permit | None,
        outcome: Outcome,
        latency: float,
        now: float,
        pool_permit: Permit | None = None,
    ) -> None:
        """One attempt is over: everybody who learns from outcomes learns from this one."""
        instance.in_flight -= 1
        self.in_flight -= 1
        ok = outcome is SUCCESS
        ignored = outcome is IGNORED
        if instance.breaker is not None:
            instance.breaker.record(ok or ignored, latency, now, permit, ignored)
        if self.breaker is not None:
            self.breaker.record(ok or ignored, latency, now, pool_permit, ignored)
        if ignored:
            if self.queue is not None:
                self.queue.released(now)
            return
        if ok:
            instance.successes += 1
            instance.last_good = latency
            self.retry_budget.earn()
            instance.latency.record(latency, now)
            if self._laggards is not None:
                self._laggards.record(instance.id, latency, now, len(self.members.instances))
                self._doubt(instance, now)
        else:
            instance.failures += 1
            instance.latency.record_error(latency, now)
        unreachable = not ok and outcome is Outcome.UNREACHABLE
        until = self._ejector.record(instance.id, ok, now, len(self.members.instances), unreachable)
        if until is not None:
            instance.ejected_until = until
        if not ok or instance.doubted_until > now:
            self._doubt(instance, now)
        if self._limit is not None:
            self._limit.record(latency, ok, self.in_flight + 1, now)
        if self.queue is not None:
            self.queue.learn(latency, now)

    def learn_calls(self, instance: Instance, successes: int, failures: int, slow: int, now: float) -> None:
        """Other workers' calls came to this: breaker and ejector judge as if they had been ours."""
        if instance.breaker is not None:
            instance.breaker.learn(successes, failures, slow, now)
        until = self._ejector.learn(instance.id, successes, failures, now, len(self.members.instances))
        if until is not None:
            instance.ejected_until = max(until, instance.ejected_until)
        if failures or instance.doubted_until > now:
            self._doubt(instance, now)

    def _doubt(self, instance: Instance, now: float) -> None:
        """The ejector's doubt may have been raised, renewed or lifted: the picker heeds it from now on."""
        before = instance.doubted_until > now
        until = self._ejector.doubted_until(instance.id)
        if self._laggards is not None:
            until = max(until, self._laggards.doubted_until(instance.id))
        instance.doubted_until = until
        if before is not (instance.doubted_until > now):
            self.members.picker.look_again()

    def judge(self, response: Response, ctx: Context) -> Outcome:
        """Say what an answer tells of the instance: bad input is never its failure (docs/serving.md)."""
        if self.hides_failures and response.body is not None and response.status == 200:
            return self._judge_hidden(response)
        if self.is_grpc:
            return self._judge_call(response)
        if response.status < 500:
            return SUCCESS
        if self.speaks != "http" and response.body is not None:
            said = BY_NAME[self.speaks].read_error(response.status, response.headers, response.body)
            if not said.kind.blames_instance:
                return SUCCESS
        return Outcome.FAILURE

    def _judge_call(self, response: Response) -> Outcome:
        """Say what a call's answer tells; where its dialect is known, by its words as well."""
        outcome = _judge_call(response)
        if outcome is Outcome.FAILURE and self.speaks != "grpc":
            said = response.headers if response.trailers is None else response.headers + response.trailers
            if not BY_NAME[self.speaks].read_error(response.status, said, b"").kind.blames_instance:
                return SUCCESS
        return outcome

    def _judge_hidden(self, response: Response) -> Outcome:
        """Say what a whole answer tells of which only the body says whether it is a success."""
        dialect = BY_NAME[self.speaks]
        said = response.headers if response.trailers is None else response.headers + response.trailers
        body = response.body or b""
        if dialect.succeeded(200, said, body):
            return SUCCESS
        return Outcome.FAILURE if dialect.read_error(200, said, body).kind.blames_instance else SUCCESS

    def must_be_read(self, response: Response) -> bool:
        """Tell whether an answer's outcome can't be known before its body is: whose mistake was it?"""
        return (
            response.status >= 500
            and response.body is None
            and self.speaks in BY_NAME
            and BY_NAME[self.speaks].is_ambiguous(response.status)
        )

    def waiting_room(self, clock: Clock, timers: Timers) -> PoolQueue | None:
        """Return the queue of those who found it full, None where nobody is to wait."""
        if self.queue is None and self._waits:
            written = self.settings.concurrency.target
            target = None if written == "auto" else written
            settings = self.settings.queue
            self.queue = PoolQueue(
                self,
                self.name,
                self._ids,
                clock,
                timers,
                size=settings.size,
                old=settings.old,
                wait=settings.wait or target or LONGEST_WAIT,
                unknown=target or 0.0,
            )
        return self.queue

    def _nobody(self, now: float, tried: Sequence[Instance]) -> GatewayError:
        waits = [
            instance.breaker.retry_after(now)
            for instance in self.members.instances
            if instance.breaker is not None and not instance.breaker.admits(now)
        ]
        if waits and len(waits) + len(tried) >= len(self.members.instances):
            return BreakerOpen(f"all instances of pool '{self.name}' are behind open breakers", min(waits))
        if not self.members.instances:
            return NoInstance(f"no instance of pool '{self.name}' is known")
        return NoInstance(f"no instance of pool '{self.name}' can take the request", 1.0)

    def _hash_key(self, ctx: Context) -> int:
        return hash64(key_text(ctx, self.settings.balance.hash) or ctx.client.encode())

    # Being seen

    def _explain(self, ctx: Context, chosen: Instance | None) -> None:
        picker = self.members.picker
        for instance in self.members.instances:
            numbers: dict[str, object] = {
                "instance": instance.id,
                "state": self.state(instance, ctx.now),
                "in_flight": instance.in_flight,
                "latency_ms": round(instance.latency.value * 1000, 3),
                "chosen": instance is chosen,
            }
            if isinstance(picker, LeastCost):
                cost = picker.cost(instance, ctx.now)
                numbers["cost_ms"] = round(cost * 1000, 3) if cost < inf else None
            ctx.note("pick", f"pool {self.name}", numbers=numbers)

    def __repr__(self) -> str:
        return f"<Pool {self.name} | {len(self.members.instances)} instances, {self.in_flight} in flight>"
