"""A copy of the traffic to another pool, whose answers nobody sees: `mirror: digits-v2`.

    mirror: {to: digits-v2, sample: 10%, timeout: 2s}

Shows how a new version takes the real traffic before any client meets it. A request is copied when it was
answered by an instance (what the cache answered or a policy refused asks nothing of a pool); the copy then
goes its own way (pipeline/mirroring.py). More copies at once than `copies`, or larger bodies than `held`
together, are left out and counted, as are bodies that streamed past because they are too large to keep.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from gateway.config.kind import REQUIRED, Reference, setting
from gateway.config.units import Duration, Ratio, Size
from gateway.http.message import Response
from gateway.pipeline.context import Context, Slot
from gateway.pipeline.errors import Refusal
from gateway.pipeline.filter import Filter, FilterKind, Parts, Rule
from gateway.pipeline.mirroring import Allowance
from gateway.pipeline.promise import Eventual


@dataclass(frozen=True, slots=True)
class Mirror:
    """A copy of the traffic to another pool."""

    to: str = setting(REQUIRED, "the pool that gets the copies", example="digits-v2", short=True)
    sample: Ratio = setting(Ratio(1.0), "share of the requests that are copied", example="10%", at_most=1)
    timeout: Duration = setting(Duration(5.0), "how long a copy may take", example="2s", at_least=0.001)
    copies: int = setting(32, "under way at once; more are left out", "copies", at_least=1)
    held: Size = setting(Size(8 * 1024 * 1024), "bytes of bodies held for copies under way", example="8MiB")

    def names(self) -> Iterable[Reference]:
        """The pool that gets the copies."""
        return [Reference("pool", self.to, aside=True)]


class _Chosen:
    """A request that is to be copied, and what it was answered, once it is."""

    __slots__ = ("answer",)

    def __init__(self) -> None:
        self.answer: Response | None = None


class MirrorFilter(Filter):
    """Chooses requests, and hands them over when they are over."""

    name = "mirror"
    place = 92

    def __init__(self, rule: Rule[Mirror], parts: Parts) -> None:
        self._rule = rule
        self._pool = parts.pools[rule.value.to]
        self._mirrors = parts.mirrors
        self._chance = parts.ids.chance
        self._chosen: Slot[_Chosen] = Slot()
        self.allowance = Allowance(rule.value.copies, rule.value.held)

    def on_request(self, ctx: Context) -> Eventual[Response | Refusal | None]:
        """Choose by chance. What was answered before this place never comes here."""
        rule = self._rule
        if ctx.upgrade or self._chance() >= rule.value.sample:
            return None
        if ctx.trail is not None:
            verdict = f"{'a copy' if rule.enforce else 'would copy'} to pool {self._pool.name}"
            ctx.note(self.name, verdict, rule.policy, rule.origin, {"sample": rule.value.sample})
        if rule.enforce and not ctx.dry and self._mirrors is not None:
            self._chosen.set(ctx, _Chosen())
        return None

    def on_response(self, ctx: Context, response: Response) -> Eventual[Response]:
        """Remember an instance's answer."""
        chosen = self._chosen.get(ctx)
        if chosen is not None and ctx.attempts and ctx.error is None and ctx.refusal is None:
            chosen.answer = response
        return response

    def on_done(self, ctx: Context) -> None:
        """The client has its answer: make the copy."""
        chosen = self._chosen.get(ctx)
        if chosen is not None and chosen.answer is not None and self._mirrors is not None:
            value = self._rule.value
            self._mirrors.send(ctx, self._pool, value.timeout, self.allowance, chosen.answer)


def _build(rules: Sequence[Rule[Mirror]], parts: Parts) -> Iterable[Filter]:
    return [MirrorFilter(rule, parts) for rule in rules]


KIND = FilterKind("mirror", Mirror, summary="a copy of the traffic to another pool", build=_build)
