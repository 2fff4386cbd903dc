"""How many bytes per second: bodies are slowed down, not refused.

    bandwidth: 1MiB/s per principal                 what it sends and what it gets, each for itself
    bandwidth: {rate: 256KiB/s, per: address, of: answers}

A body that streams is read as fast as its bucket allows: after each piece the gateway does not read on
until the bytes that went through are paid for (pipeline/pacing.py), so nothing piles up here. An answer that
is there whole is held back as long as its bytes take. A body that was read whole is paid for afterwards: the
next request of the same bucket waits before its body is read. Who would have to wait longer than it has time
is refused: 429 `rate_limited`, or 503 where everybody shares the bandwidth.

Who shares: as for throttles, over all workers of a host (governance/meters.py). Several gateways give the
rate each: bytes are not counted in Redis.

Source: token buckets that go into debt; nginx's limit_rate, which counts per connection.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from gateway.config.kind import REQUIRED, setting
from gateway.config.units import Size, parse_size, render_size
from gateway.filters.throttle_claims import KEYS, SHARED, subject_of
from gateway.governance.meters import Meters
from gateway.http.message import Response
from gateway.pipeline.context import Context, Slot
from gateway.pipeline.errors import Refusal
from gateway.pipeline.filter import Filter, FilterKind, Parts, Rule
from gateway.pipeline.pacing import Pace
from gateway.pipeline.promise import Eventual, Promise

SLACK: Final = 0.05  # s before a request's deadline by which a held answer leaves in any case
_TEXT: Final = re.compile(r"(?P<size>[^\s/]+) ?/ ?s(?: +per +(?P<per>\S+))?(?: +burst +(?P<burst>\S+))?")


@dataclass(frozen=True, slots=True)
class Bandwidth:
    """How many bytes per second."""

    rate: Size = setting(REQUIRED, "bytes per second, each way", example="1MiB", at_least=1)
    per: str = setting(
        "",
        "shared by each principal, tenant, plan, address, endpoint, model or header:NAME",
        example="principal",
    )
    burst: Size = setting(
        Size(0), "bytes at once; default a tenth of a second's, at least 16KiB", example="1MiB"
    )
    of: Literal["both", "requests", "answers"] = setting("both", "which bodies")

    @classmethod
    def from_text(cls, text: str) -> Bandwidth:
        """Read `SIZE/s[ per KEY][ burst SIZE]`."""
        found = _TEXT.fullmatch(text.strip())
        if found is None:
            raise ValueError(f"expected a bandwidth like `1MiB/s per principal`, found {text!r}")
        burst = parse_size(found["burst"]) if found["burst"] else Size(0)
        return cls(parse_size(found["size"]), found["per"] or "", burst)

    def __post_init__(self) -> None:
        if self.per and self.per not in KEYS and not (self.per.startswith("header:") and self.per[7:]):
            raise ValueError(f"expected per {', '.join(KEYS)} or header:NAME, found {self.per!r}")
        if self.rate < 1:
            raise ValueError("expected at least a byte per second")

    @property
    def size(self) -> float:
        """Bytes of a full bucket."""
        return float(self.burst or max(16384, self.rate // 10))

    def __str__(self) -> str:
        per = f" per {self.per}" if self.per else ""
        return f"{render_size(self.rate)}/s{per}"


class _Flow:
    """What of one request was paid for. key: of its bucket. seen: bytes of the client's body."""

    __slots__ = ("key", "seen")

    def __init__(self, key: bytes) -> None:
        self.key = key
        self.seen = 0


class BandwidthFilter(Filter):
    """Slows bodies down. slowed: requests or answers that had to wait as a whole."""

    name = "bandwidth"
    place = 52

    def __init__(self, rule: Rule[Bandwidth], parts: Parts) -> None:
        self._rule = rule
        self._subject = subject_of(rule.value.per, parts)
        self._prefix = f"{rule.policy}\0{rule.value}\0".encode()
        self._clock = parts.clock
        self._timers = parts.timers
        self._flow: Slot[_Flow] = Slot()
        self._requests = rule.value.of != "answers"
        self._answers = rule.value.of != "requests"
        self.meters = Meters(parts.gateways) if parts.meters is None else parts.meters
        self.slowed = 0

    def on_request(self, ctx: Context) -> Eventual[Response | Refusal | None]:
        """Wait until what came before is paid for, before the body is read."""
        if not self._rule.applies(ctx.principal, self._clock.wall()):
            return None
        flow = _Flow(self._prefix + self._subject(ctx))
        self._flow.set(ctx, flow)
        wait = self._owed(b"> " + flow.key, ctx.now) if self._requests else 0.0
        if ctx.trail is not None:
            numbers = {"limit": str(self._rule.value), "wait": round(wait, 3)}
            verdict = "waits" if wait else "passed"
            ctx.note(self.name, verdict, self._rule.policy, self._rule.origin, numbers)
        if not wait or ctx.dry or not self._rule.enforce:
            return None
        if ctx.now + wait >= ctx.deadline or self._timers is None:
            return Refusal(
                503 if self._rule.value.per in SHARED else 429,
                "rate_limited",
                f"more than the bandwidth of {self._rule.value}",
                policy=self._rule.policy,
                retry_after=wait,
                details={"limit": str(self._rule.value)},
            )
        self.slowed += 1
        later: Promise[Response | Refusal | None] = Promise()
        self._timers.punctual(ctx.now + wait, lambda: later.resolve(None))
        return later

    def on_request_chunk(self, ctx: Context, chunk: bytes, last: bool) -> bytes:
        """Pay for a piece, and say how long that takes."""
        flow = self._flow.get(ctx)
        if flow is not None and self._requests:
            flow.seen += len(chunk)
            until = self._pay(b"> " + flow.key, len(chunk))
            if until and self._rule.enforce:
                pace = _pace(ctx)
                pace.body_until = max(pace.body_until, until)
        return chunk

    def on_response(self, ctx: Context, response: Response) -> Eventual[Response]:
        """Hold an answer that is whole for as long as its bytes take."""
        flow = self._flow.get(ctx)
        if flow is None or not self._answers or not response.body or ctx.dry:
            return response
        until = self._pay(b"< " + flow.key, len(response.body))
        until = min(until, ctx.deadline - SLACK)
        if until <= self._clock.now() or self._timers is None or not self._rule.enforce:
            return response
        self.slowed += 1
        later: Promise[Response] = Promise()
        self._timers.punctual(until, lambda: later.resolve(response))
        return later

    def on_response_chunk(self, ctx: Context, chunk: bytes, last: bool) -> bytes:
        """Pay for a piece of an answer that streams."""
        flow = self._flow.get(ctx)
        if flow is not None and self._answers and chunk:
            until = self._pay(b"< " + flow.key, len(chunk))
            if until and self._rule.enforce:
                pace = _pace(ctx)
                pace.answer_until = max(pace.answer_until, until)
        return chunk

    def on_done(self, ctx: Context) -> None:
        """Pay for a body that was read whole."""
        flow = self._flow.get(ctx)
        if flow is not None and self._requests and not ctx.dry and ctx.refusal is None:
            left = (ctx.request.length or 0) - flow.seen
            if left > 0 and ctx.request.body is not None:
                self._pay(b"> " + flow.key, left)

    def _owed(self, key: bytes, now: float) -> float:
        return self.meters.owed(key, float(self._rule.value.rate), self._rule.value.size, now)

    def _pay(self, key: bytes, number: int) -> float:
        """Charge bytes; returns the instant at which they are paid for, 0.0 where they are already."""
        now = self._clock.now()
        limit = self._rule.value
        owed = self.meters.pay(key, float(number), float(limit.rate), limit.size, now)
        return now + owed if owed else 0.0

    def __repr__(self) -> str:
        return f"<BandwidthFilter {self._rule.value} | {self.meters!r}>"


def _pace(ctx: Context) -> Pace:
    if ctx.pace is None:
        ctx.pace = Pace()
    return ctx.pace


def _build(rules: Sequence[Rule[Bandwidth]], parts: Parts) -> Iterable[Filter]:
    return [BandwidthFilter(rule, parts) for rule in dict.fromkeys(rules)]


KIND = FilterKind("bandwidth", Bandwidth, summary="how many bytes per second", accumulates=True, build=_build)
