"""The pool verbs: properties of a pool and its instances, applied per attempt.

Written on a pool, an endpoint or a policy; on the latter two they go to every pool that can be reached from
there, and two that disagree are an error (config/check.py). They become a `PoolSettings`, compared on
reload: a pool whose settings and membership source are equal keeps its instances, breakers and connections.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from gateway.config.certificates import authority_problems, pair_problems
from gateway.config.kind import Kind, setting
from gateway.config.pem_file import PemFile
from gateway.config.units import Duration, Ratio, parse_duration


@dataclass(frozen=True, slots=True)
class Slow:
    """What makes a call count as slow, and how many may be."""

    over: Duration = setting(
        Duration(1.0), "a call that takes longer is slow", example="500ms", at_least=0.001
    )
    ratio: Ratio = setting(Ratio(0.5), "share of slow calls that opens the breaker", example="50%", at_most=1)


@dataclass(frozen=True, slots=True)
class Breaker:
    """Stop sending to an instance, or to the whole pool, that fails or crawls; probe it after a while."""

    of: Literal["instance", "pool", "both"] = setting(
        "instance", "what has one: each instance, the pool as a whole, or both"
    )
    errors: Ratio = setting(Ratio(0.5), "share of failed calls that opens it", example="50%", at_most=1)
    slow: Slow | None = setting(None, "open it for slowness too", example="{over: 500ms, ratio: 50%}")
    consecutive: int = setting(
        0, "failures in a row that open it, whatever the shares; 0: none do", "calls", example=5, at_least=0
    )
    min_calls: int = setting(20, "fewer calls within the window decide nothing", "calls", at_least=1)
    window: Duration = setting(Duration(10.0), "what the shares are taken over", example="10s", at_least=0.1)
    cool_down: Duration = setting(
        Duration(5.0), "how long it stays open before it probes; doubles with every relapse", example="5s"
    )
    probes: int = setting(
        1, "good answers that close it; one probe at first, twice as many after each", "calls", at_least=1
    )


@dataclass(frozen=True, slots=True)
class Eject:
    """Take an instance out that fails while others don't; one that only seems to gets a tenth first."""

    consecutive: int = setting(5, "failures in a row", "calls", example=5, at_least=1)
    for_: Duration = setting(Duration(1.0), "first time out; doubles with every relapse", example="1s")
    max_share: Ratio = setting(
        Ratio(0.5), "share of the pool that may be out at once", example="50%", at_most=1
    )
    slow: float = setting(
        0.0,
        "also doubt (never take out) who often takes more than so many times the others' p99; 0: nobody",
        example=3,
        at_least=0,
    )


@dataclass(frozen=True, slots=True)
class Health:
    """Ask every instance whether it is well, beside the traffic."""

    path: str = setting("", "what to GET; empty: the dialect's own readiness", example="/healthz", short=True)
    port: int = setting(0, "where to ask, if not where calls go", example=8081, at_least=0, at_most=65535)
    expects: Literal["status", "torchserve"] = setting(
        "status",
        "status: 2xx is well; torchserve: its management API tells of a READY worker (its /ping lies)",
    )
    service: str = setting(
        "",
        "gRPC: the service to ask about (grpc.health.v1); empty: the server",
        example="inference.GRPCInferenceService",
    )
    every: Duration = setting(Duration(2.0), "between two checks", example="2s", at_least=0.1)
    timeout: Duration = setting(Duration(1.0), "longest wait for an answer", example="1s", at_least=0.01)
    healthy_after: int = setting(1, "good answers in a row until it counts as well", "checks", at_least=1)
    unhealthy_after: int = setting(2, "bad answers in a row until it counts as ill", "checks", at_least=1)
    enabled: bool = setting(True, "check at all")

    @classmethod
    def from_text(cls, text: str) -> Health:
        """Read `off`, or a path."""
        if text in ("off", "none"):
            return cls(enabled=False)
        if not text.startswith("/"):
            raise ValueError(f"expected `off` or a path like /healthz, found {text!r}")
        return cls(path=text)


_KEYS = ("principal", "tenant", "client", "path")


@dataclass(frozen=True, slots=True)
class Affinity:
    """Prefer instances that have what the request needs: a prompt's prefix, a session, an adapter."""

    to: str = setting(
        "prompt",
        "what is looked for: prompt, principal, tenant, client, path or header:NAME",
        example="header:x-session",
        short=True,
    )
    worth: float = setting(
        10.0, "how many calls more under way it makes up for; it gives way beyond", "calls", at_least=0
    )
    kept: int = setting(10_000, "what an instance is believed to keep", "keys or prompt blocks", at_least=1)
    for_: Duration = setting(Duration(600.0), "how long it is believed to keep it", example="10m")

    def __post_init__(self) -> None:
        if self.to != "prompt" and self.to not in _KEYS and not self.to.startswith("header:"):
            raise ValueError(
                f"expected to: prompt, principal, tenant, client, path or header:NAME, found {self.to!r}"
            )


@dataclass(frozen=True, slots=True)
class Zone:
    """Prefer instances of one zone; the others help as soon as it is short."""

    name: str = setting("", "the zone that this gateway is in", example="eu-1a", short=True)
    far: float = setting(3.0, "how many times as long it may take there before a call leaves it", at_least=1)


@dataclass(frozen=True, slots=True)
class Balance:
    """Which instance gets the next call."""

    by: Literal["least_cost", "two_choices", "round_robin", "hash"] = setting(
        "least_cost",
        "expected time to completion, the better of two by chance, turns, or the same key to the same one",
    )
    hash: str = setting(
        "", "what is hashed: principal, tenant, client, path or header:NAME", example="principal"
    )
    panic: Ratio = setting(
        Ratio(0.0), "use all instances when fewer than this share are usable; 0 turns that off", at_most=1
    )
    bound: float = setting(
        1.25, "hash: an instance busier than so many times its share passes its keys on", at_least=1
    )
    slow_start: Duration = setting(Duration(0.0), "time over which a new instance warms up", example="30s")
    affinity: Affinity | None = setting(
        None, "prefer who has the request's prefix, session or adapter", example="prompt"
    )
    zone: Zone | None = setting(None, "prefer a zone", example="eu-1a")
    subset: int = setting(
        0, "use only so many instances, chosen by chance for each worker; 0: all", "instances", at_least=0
    )
    reported: bool = setting(
        False, "heed the load that instances report in headers (endpoint-load-metrics, x-headgate-load)"
    )

    @classmethod
    def from_text(cls, text: str) -> Balance:
        """Read `least_cost`, `two_choices`, `round_robin` or `hash principal`."""
        by, _, key = text.partition(" ")
        match by:
            case "least_cost" | "two_choices" | "round_robin" if not key:
                return cls(by=by)
            case "hash":
                return cls(by="hash", hash=key.strip() or "principal")
        raise ValueError(f"expected least_cost, two_choices, round_robin or `hash principal`, found {text!r}")

    def check(self) -> Iterable[str]:
        """A hash needs something to hash; the rest is a matter of cost."""
        if self.by == "hash" and self.hash not in _KEYS and not self.hash.startswith("header:"):
            yield f"expected hash: principal, tenant, client, path or header:NAME, found {self.hash!r}"
        if self.by != "least_cost":
            for name in ("affinity", "zone"):
                if getattr(self, name) is not None:
                    yield f"expected {name} only with `by: least_cost`, found it with `by: {self.by}`"


Cause = Literal["connect", "refused", "reset", "timeout", "500", "502", "503", "504"]


@dataclass(frozen=True, slots=True)
class Retry:
    """Try another instance when nothing of the answer went out yet.

    Where nothing was processed (no connection, a refused stream) any request may be sent again. Everything
    else needs an idempotent method or `safe_to_retry`, and a token of the budget, which hedges share.
    """

    attempts: int = setting(2, "further tries after the first", "tries", example=2, at_least=0, at_most=10)
    on: tuple[Cause, ...] = setting(
        ("connect", "refused", "reset", "timeout", "500", "502", "503", "504"),
        "what is worth another try",
        example="[connect, reset]",
    )
    budget: Ratio = setting(
        Ratio(0.2), "retries and hedges as a share of the successes", example="20%", at_most=1
    )
    floor: float = setting(3.0, "retries that are always allowed", "per second", example=3, at_least=0)
    backoff: Duration = setting(
        Duration(0.025),
        "longest pause before a try at the same instance, or after a 503 that asks to come back later; "
        "doubles, and chance takes a part of it",
        example="25ms",
    )

    @classmethod
    def from_text(cls, text: str) -> Retry:
        """Read `off`."""
        if text in ("off", "none"):
            return cls(attempts=0)
        raise ValueError(f"expected `off` or a mapping like {{attempts: 2}}, found {text!r}")


@dataclass(frozen=True, slots=True)
class Hedge:
    """Ask a second instance when the first takes longer than most calls do; the first good answer wins.

    Only where a request may be sent twice (idempotent, or `safe_to_retry`) and its body was kept, once per
    request, within the budget of `retry`, and never under pressure. The loser is cut off.
    """

    at: str = setting("p95", "when: a quantile of recent latencies, or a fixed time", example="p95")
    at_least: Duration = setting(Duration(0.002), "never earlier than this", example="5ms")
    warm_up: int = setting(100, "no hedge before so many answers were measured", "answers", at_least=10)
    below: Ratio = setting(
        Ratio(0.8), "no hedge while more than this share of the pool's limit is under way", at_most=1
    )

    @classmethod
    def from_text(cls, text: str) -> Hedge:
        """Read `p95`, `50ms` or `off`."""
        return cls(at=text)

    def __post_init__(self) -> None:
        if self.quantile is None and self.fixed is None and self.at not in ("off", "none"):
            raise ValueError(f"expected a quantile like p95, a time like 50ms, or `off`, found {self.at!r}")

    @property
    def quantile(self) -> float | None:
        """The quantile, between 0 and 1; None where a time is given."""
        said = _QUANTILE.fullmatch(self.at)
        if said is None:
            return None
        share = float(said[1] or said[2]) / 100.0
        return share if 0.0 < share < 1.0 else None

    @property
    def fixed(self) -> float | None:
        """Seconds; None where a quantile is given."""
        try:
            return parse_duration(self.at)
        except ValueError:
            return None


_QUANTILE = re.compile(r"[pP]([0-9]{1,2}(?:\.[0-9]+)?)|([0-9]{1,2}(?:\.[0-9]+)?)%")


@dataclass(frozen=True, slots=True)
class Concurrency:
    """How many calls one pool may have under way in each worker; more wait in its `queue`."""

    limit: int = setting(
        1024, "calls under way, all instances together", "calls", example=64, at_least=1, short=True
    )
    target: Duration | Literal["auto"] | None = setting(
        None,
        "find the limit: as many as bring throughput while nine calls of ten stay under this; `auto`: under "
        "82 % of the time that clients give",
        example="200ms",
    )


@dataclass(frozen=True, slots=True)
class Queue:
    """Where calls wait for a place in a pool that is full; each worker has its own.

    Critical ones go first, then normal, then sheddable; among those the tenant that was served least, by
    rows. Who can't be answered in time any more, or must make room for others, gets 503 `overloaded`.
    """

    size: int | None = setting(
        None,
        "calls that may wait; none: half as many as may be under way, 8 at least; 0 or `off`: a full pool "
        "refuses at once",
        "calls",
        example=500,
        at_least=0,
        short=True,
    )
    wait: Duration | None = setting(
        None,
        "longest wait, within the request's own time; none: concurrency's `target`, or 1s without one",
        example="300ms",
        at_least=0.001,
    )
    old: Ratio = setting(
        Ratio(0.25),
        "share of the time that a call can wait after which it is old: then its tenant's newest goes first",
        example="25%",
        at_least=0.01,
        at_most=1,
    )

    @classmethod
    def from_text(cls, text: str) -> Queue:
        """Read `off`, or how many may wait."""
        if text in ("off", "none"):
            return cls(size=0)
        if text.isdecimal():
            return cls(size=int(text))
        raise ValueError(f"expected `off`, a number of calls or a mapping like {{size: 500}}, found {text!r}")


@dataclass(frozen=True, slots=True)
class PerTryTimeout:
    """The longest that one try may take; the request's own timeout bounds all tries together."""

    after: Duration = setting(Duration(30.0), "until the answer is complete", example="500ms", short=True)


@dataclass(frozen=True, slots=True)
class Tls:
    """Encrypt the connections to the instances, and verify whom they lead to."""

    ca: PemFile | None = setting(
        None, "PEM file: authorities to believe; none: the system's", example="/etc/headgate/instances-ca.pem"
    )
    server_name: str = setting(
        "", "name that must be in the certificate; empty: the instance's host", example="models.internal"
    )
    cert: PemFile | None = setting(None, "PEM file: our own certificate", example="/etc/headgate/us.pem")
    key: PemFile | None = setting(None, "PEM file: its private key", example="/etc/headgate/us.key")
    verify: bool = setting(True, "false: believe anybody; for tests")
    enabled: bool = setting(True, "encrypt at all")

    def __post_init__(self) -> None:
        if (self.cert is None) != (self.key is None):
            raise ValueError("expected both cert and key, found one of them")
        if not self.verify and (self.ca is not None or self.server_name):
            raise ValueError("expected ca and server_name only where certificates are verified")

    @classmethod
    def from_text(cls, text: str) -> Tls:
        """Read `true` or `off`."""
        if text in ("true", "on"):
            return cls()
        if text in ("false", "off"):
            return cls(enabled=False)
        raise ValueError(f"expected true, off or a mapping like {{ca: instances-ca.pem}}, found {text!r}")

    def check(self) -> Iterable[str]:
        """Files that fit together."""
        if self.cert is not None and self.key is not None:
            yield from pair_problems(self.cert, self.key)
        if self.ca is not None:
            yield from authority_problems(self.ca)


@dataclass(frozen=True, slots=True)
class PoolSettings:
    """Everything that governs a pool; the defaults are what a pool without verbs has."""

    breaker: Breaker | None = None
    eject: Eject = Eject()
    health: Health = Health()
    balance: Balance = Balance()
    retry: Retry = Retry()
    hedge: Hedge | None = None
    concurrency: Concurrency = Concurrency()
    queue: Queue = Queue()
    per_try_timeout: PerTryTimeout = PerTryTimeout()
    tls: Tls = Tls(enabled=False)


POOL_KINDS: tuple[Kind[object], ...] = (
    Kind("breaker", Breaker, "pool", "stop sending to what fails or crawls"),
    Kind("eject", Eject, "pool", "take out an instance that fails while others don't"),
    Kind("health", Health, "pool", "ask every instance whether it is well"),
    Kind("balance", Balance, "pool", "which instance gets the next call"),
    Kind("retry", Retry, "pool", "another instance when one failed"),
    Kind("hedge", Hedge, "pool", "a second instance when the first is slow"),
    Kind("concurrency", Concurrency, "pool", "how many calls at once"),
    Kind("queue", Queue, "pool", "where calls wait for a full pool"),
    Kind("per_try_timeout", PerTryTimeout, "pool", "the longest one try may take"),
    Kind("tls", Tls, "pool", "encrypt the connections to the instances"),
)
