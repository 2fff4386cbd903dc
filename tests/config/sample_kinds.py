"""Verbs shaped like the real ones (which live in the filters' files), enough to read design examples."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from gateway.config.check import weights_problem
from gateway.config.kind import REQUIRED, Kind, Reference, setting
from gateway.config.units import Duration, Factor, Network, Rate, Ratio, parse_rate

Unit = Literal["requests", "rows", "bytes", "tokens", "compute"]
_THROTTLE = re.compile(
    r"(?P<count>\S+?)(?: (?P<unit>requests|rows|bytes|tokens|compute))?/(?P<period>\S+)"
    r"(?: per (?P<per>\S+))?(?: burst (?P<burst>\d+))?"
)


@dataclass(frozen=True, slots=True)
class Throttle:
    rate: Rate = setting(REQUIRED, "how much may pass", example="5/s")
    unit: Unit = setting("requests", "what is counted")
    per: str = setting("", "one bucket for each of these", example="principal")
    burst: float | None = setting(None, "how much may come at once", at_least=1)

    @classmethod
    def from_text(cls, text: str) -> Throttle:
        found = _THROTTLE.fullmatch(text)
        if found is None:
            raise ValueError(f"expected a throttle like `5/s per principal burst 5`, found {text!r}")
        rate = parse_rate(f"{found['count']}/{found['period']}")
        burst = float(found["burst"]) if found["burst"] else None
        unit: Any = found["unit"] or "requests"
        return cls(rate, unit, found["per"] or "", burst)


@dataclass(frozen=True, slots=True)
class Slow:
    over: Duration = setting(Duration(1.0), "slower than this is slow")
    ratio: Ratio = setting(Ratio(0.5), "share of slow calls")


@dataclass(frozen=True, slots=True)
class Breaker:
    errors: Ratio = setting(Ratio(0.5), "share of failed calls that opens it")
    slow: Slow | None = setting(None, "open it for slowness too")
    min_calls: int = setting(20, "fewer decide nothing", "calls", at_least=1)
    cool_down: Duration = setting(Duration(5.0), "how long it stays open")
    enabled: bool = setting(True, "off: none")

    @classmethod
    def from_text(cls, text: str) -> Breaker:
        if text != "off":
            raise ValueError(f"expected `off` or a mapping, found {text!r}")
        return cls(enabled=False)


@dataclass(frozen=True, slots=True)
class Cache:
    ttl: Duration = setting(REQUIRED, "how long an answer is fresh", example="30s", short=True)
    stale_while_revalidate: Duration = setting(Duration(0.0), "stale for so long while asking")
    stale_if_error: Duration = setting(Duration(0.0), "stale for so long while broken")
    scope: Literal["principal", "tenant", "shared"] = setting("principal", "who shares answers")


@dataclass(frozen=True, slots=True)
class Send:
    weights: Mapping[str, Ratio] = setting(REQUIRED, "target and share", short=True)

    @classmethod
    def from_text(cls, text: str) -> Send:
        return cls({text: Ratio(1.0)})

    def names(self) -> Iterable[Reference]:
        return [Reference("target", name) for name in self.weights]

    def check(self) -> Iterable[str]:
        wrong = weights_problem(self.weights)
        return [wrong] if wrong else []


@dataclass(frozen=True, slots=True)
class Respond:
    status: int = setting(503, "status code", at_least=200, at_most=599)
    retry_after: Duration | None = setting(None, "when to come back")


@dataclass(frozen=True, slots=True)
class Step:
    pool: str | None = setting(None, "another pool")
    stale: Duration | None = setting(None, "a cached answer of at most this age")
    throttle: Throttle | None = setting(None, "let a few through")
    respond: Respond | None = setting(None, "a fixed answer")


@dataclass(frozen=True, slots=True)
class Degrade:
    steps: tuple[Step, ...] = setting(REQUIRED, "the first that can serve wins", short=True)
    when: tuple[Literal["breaker_open", "overloaded", "timeout"], ...] = setting((), "reasons")

    @classmethod
    def from_text(cls, text: str) -> Degrade:
        return cls((Step(pool=text),))

    def names(self) -> Iterable[Reference]:
        return [Reference("pool", step.pool, fallback=True) for step in self.steps if step.pool]


@dataclass(frozen=True, slots=True)
class Timeout:
    total: Duration = setting(REQUIRED, "whole exchange", short=True)


@dataclass(frozen=True, slots=True)
class Flag:
    on: bool = setting(True, "whether", short=True)


@dataclass(frozen=True, slots=True)
class Importance:
    level: Literal["critical", "normal", "sheddable"] = setting("normal", "who goes first", short=True)


@dataclass(frozen=True, slots=True)
class Authenticate:
    methods: tuple[Literal["api_key", "jwt"], ...] = setting(REQUIRED, "in this order", short=True)


@dataclass(frozen=True, slots=True)
class Allow:
    addresses: tuple[Network, ...] = setting((), "networks let in")


@dataclass(frozen=True, slots=True)
class Predictions:
    max_abs: float = setting(0.0, "largest difference")
    sample: Ratio = setting(Ratio(0.1), "share compared")


@dataclass(frozen=True, slots=True)
class Judge:
    errors: Factor = setting(Factor(1.25), "failures against stable's")
    latency_p99: Factor = setting(Factor(1.2), "slowness against stable's")
    predictions: Predictions | None = setting(None, "compare answers")
    false_alarm: Ratio = setting(Ratio(0.01), "how often it may err")


@dataclass(frozen=True, slots=True)
class Release:
    kind: Literal["canary", "blue_green", "rolling"] = setting("canary", "how")
    stable: str = setting("stable", "what serves now")
    candidate: str = setting("newest", "what shall serve")
    ramp: tuple[Ratio, ...] = setting((), "shares, one after the other")
    sticky: Literal["principal", "none"] = setting("none", "who stays")
    judge: Judge = setting(Judge(), "what decides")
    on_fail: Literal["rollback", "hold"] = setting("rollback", "then")

    def names(self) -> Iterable[Reference]:
        return [Reference("target", self.stable), Reference("target", self.candidate)]


THROTTLE = Kind("throttle", Throttle, accumulates=True, summary="how much may pass")
BREAKER = Kind("breaker", Breaker, scope="pool", summary="stop sending to what fails")
CACHE = Kind("cache", Cache, summary="answer again what was answered")
SEND = Kind("send", Send, summary="where requests go")
DEGRADE = Kind("degrade", Degrade, summary="a lesser answer")
TIMEOUT = Kind("timeout", Timeout, summary="how long it may take")
SAFE = Kind("safe_to_retry", Flag, summary="whether trying twice changes anything")
IMPORTANCE = Kind("importance", Importance, summary="who goes first")
AUTHENTICATE = Kind("authenticate", Authenticate, on_endpoint=False, by_principal=False, summary="who is it")
ALLOW = Kind("allow", Allow, summary="who may come in")
RELEASE = Kind("release", Release, summary="from one version to the next")

KINDS: tuple[Kind[Any], ...] = (
    AUTHENTICATE,
    ALLOW,
    THROTTLE,
    SEND,
    RELEASE,
    CACHE,
    DEGRADE,
    TIMEOUT,
    SAFE,
    IMPORTANCE,
    BREAKER,
)
