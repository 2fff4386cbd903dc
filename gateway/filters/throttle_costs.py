"""Throttles in what is known afterwards: tokens of language models, and compute.

Reserve, then settle. A request reserves what one of this endpoint usually costs (a moving mean, one unit at
first, never more than the bucket holds); tokens are settled while the answer streams past, every SETTLE of
them, so that a long generation can't hide; at the end the exact cost replaces the guess, into debt if need
be, which later requests wait out. A request that reached no instance (a cache hit, a refusal) gives all back.

    tokens    `usage.total_tokens` of the answer (its last, where it streams), else one per server-sent event
    compute   milliseconds from the call to the end of the instance's answer, over all tries

Source: the usage object of the OpenAI API; governance of LLM quotas by reserve and settle.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from gateway.filters.throttle_claims import Level, Unit
from gateway.filters.throttling import Book, Throttling, Verdict
from gateway.http.message import Response
from gateway.pipeline.context import Context, Slot
from gateway.pipeline.filter import Parts
from gateway.pipeline.promise import Eventual, Promise

SETTLE: Final = 256.0  # tokens that a stream may be ahead of its account
_TAIL: Final = 2048  # bytes at an answer's end in which its usage stands
_TOTAL: Final = re.compile(rb'"total_tokens"\s*:\s*(\d{1,12})')
_EVENT: Final = b"data:"


class _Use:
    """What one request has used so far. charged: of tokens, reserved or settled."""

    __slots__ = ("charged", "events", "reserved", "tail")

    def __init__(self, reserved: dict[Unit, float]) -> None:
        self.reserved = reserved
        self.charged = reserved.get("tokens", 0.0)
        self.events = 0.0
        self.tail = b""


class CostThrottle(Throttling):
    """Throttles in tokens and compute. usual: what a request of this endpoint usually costs, per unit."""

    def __init__(self, levels: Sequence[Level], parts: Parts, book: Book, head: Throttling | None) -> None:
        super().__init__(levels, parts, book)
        self.place = book.head + 1
        self._head = head
        self._use: Slot[_Use] = Slot()
        self._counts_tokens = any(level.unit == "tokens" for level in levels)
        self._least = {level.unit: min(o.burst for o in levels if o.unit == level.unit) for level in levels}
        self.usual: dict[Unit, float] = dict.fromkeys(self._least, 1.0)

    def on_request(self, ctx: Context) -> Eventual[Verdict]:
        """Reserve the usual cost."""
        reserved = {unit: min(self.usual[unit], least) for unit, least in self._least.items()}
        self._use.set(ctx, _Use(reserved))
        verdict = self._decide(ctx, reserved)
        if not isinstance(verdict, Promise):
            return self._settled(ctx, verdict)
        later: Promise[Verdict] = Promise()
        verdict.then(lambda late: later.resolve(self._settled(ctx, late)), later.reject)
        return later

    def on_response(self, ctx: Context, response: Response) -> Response:
        """Read the usage of an answer that is whole."""
        if response.body is not None:
            self.on_response_chunk(ctx, response.body, True)
        return super().on_response(ctx, response)

    def on_response_chunk(self, ctx: Context, chunk: bytes, last: bool) -> bytes:
        """Count what streams past."""
        use = self._use.get(ctx)
        if use is not None and self._counts_tokens and chunk:
            use.events += chunk.count(_EVENT)
            use.tail = (use.tail + chunk)[-_TAIL:]
            if use.events >= use.charged + SETTLE:
                self._charge(ctx, "tokens", use.events - use.charged)
                use.charged = use.events
        return chunk

    def on_done(self, ctx: Context) -> None:
        """Replace the guess by what it was."""
        use, spent = self._use.get(ctx), self._spent.get(ctx)
        if use is not None and spent is not None:
            if not ctx.attempts:
                spent.give_back(ctx.now)
            else:
                for unit, reserved in use.reserved.items():
                    self._settle(ctx, use, unit, reserved)
        super().on_done(ctx)

    def _settle(self, ctx: Context, use: _Use, unit: Unit, reserved: float) -> None:
        if unit == "tokens":
            found = _TOTAL.findall(use.tail)
            actual, charged = float(found[-1]) if found else use.events, use.charged
        else:
            streamed = max(0.0, ctx.now - ctx.first_byte) if ctx.first_byte else 0.0
            actual, charged = 1000.0 * (ctx.upstream_seconds + streamed), reserved
        self._charge(ctx, unit, actual - charged)
        self.usual[unit] += 0.1 * (max(1.0, actual) - self.usual[unit])

    def _charge(self, ctx: Context, unit: Unit, more: float) -> None:
        spent = self._spent.get(ctx)
        if spent is not None and more:
            spent.charge(unit, more, ctx.now)

    def _settled(self, ctx: Context, verdict: Verdict) -> Verdict:
        if verdict is not None and self._head is not None:
            self._head.refund(ctx)
        return verdict
