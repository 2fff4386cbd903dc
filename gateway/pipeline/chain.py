"""The filters of one endpoint, sorted once into the moments at which they act.

Order is fixed by verb (filters/catalog.py), never by YAML. Per moment only the filters that override it are
kept, as bound methods with their position, so that a request pays for what its policies use. Where several
rules of one verb compete (one for everybody, one for a plan, one for a principal), `Chosen` takes the most
specific per request; a rule with `enforce: false` decides and is recorded, and changes nothing
(`Rehearsed`).
"""

from __future__ import annotations

from collections.abc import Sequence

from gateway.http.message import Response
from gateway.pipeline.context import Context, Slot
from gateway.pipeline.errors import GatewayError, Refusal
from gateway.pipeline.filter import Filter, Rule
from gateway.pipeline.pool import Pool
from gateway.pipeline.ports import Clock
from gateway.pipeline.promise import Eventual, Promise
from gateway.pipeline.steps import Steps


class Chain(Steps):
    """The filters of one endpoint by moment."""

    def __init__(self, filters: Sequence[Filter]) -> None:
        """filters: in their fixed order."""
        self.filters = tuple(filters)
        forth = tuple(enumerate(filters))
        back = forth[::-1]
        self.on_request = tuple(
            (i, f.needs_body, f.name, f.on_request) for i, f in forth if _overrides(f, "on_request")
        )
        self.on_request_chunk = tuple(
            f.on_request_chunk for _, f in forth if _overrides(f, "on_request_chunk")
        )
        self.on_response = tuple((i, f.on_response) for i, f in back if _overrides(f, "on_response"))
        self.on_response_chunk = tuple(
            f.on_response_chunk for _, f in back if _overrides(f, "on_response_chunk")
        )
        self.on_refusal = tuple(f.on_refusal for _, f in back if _overrides(f, "on_refusal"))
        self.on_error = tuple(f.on_error for _, f in back if _overrides(f, "on_error"))
        self.on_done = tuple((i, f.on_done) for i, f in back if _overrides(f, "on_done"))

    def __repr__(self) -> str:
        return f"<Chain {' -> '.join(f.name for f in self.filters)}>"


def _overrides(filter: Filter, moment: str) -> bool:
    wrapped = getattr(filter, "moments", None)  # Chosen and Rehearsed act only where what they wrap does
    if wrapped is not None:
        return moment in wrapped
    return getattr(type(filter), moment) is not getattr(Filter, moment)


MOMENTS = (
    "on_request",
    "on_request_chunk",
    "on_response",
    "on_response_chunk",
    "on_refusal",
    "on_error",
    "on_done",
)


def _moments(filters: Sequence[Filter]) -> frozenset[str]:
    return frozenset(moment for moment in MOMENTS for f in filters if _overrides(f, moment))


class Chosen(Filter):
    """Of several rules of one verb, the most specific that applies to this request's principal, now.

    candidates: most specific first. The choice is made at the first moment that asks and kept for the
    request.
    """

    def __init__(self, candidates: Sequence[tuple[Rule[object], Filter]], clock: Clock) -> None:
        self.candidates = tuple(candidates)
        self.name = candidates[0][1].name
        self.place = candidates[0][1].place
        self.needs_body = any(f.needs_body for _, f in candidates)
        moments = _moments([f for _, f in candidates])
        # What acts on answers alone chooses when there is one: by then the principal is known.
        self.moments = moments if "on_response" in moments else moments | {"on_request"}
        self._clock = clock
        self._choice: Slot[Filter] = Slot()

    def on_request(self, ctx: Context) -> Eventual[Response | Refusal | None]:
        """Choose, then act as the chosen one."""
        chosen = self._choose(ctx)
        return None if chosen is None else chosen.on_request(ctx)

    def on_request_chunk(self, ctx: Context, chunk: bytes, last: bool) -> bytes:
        """As the chosen one."""
        chosen = self._choice.get(ctx)
        return chunk if chosen is None else chosen.on_request_chunk(ctx, chunk, last)

    def on_response(self, ctx: Context, response: Response) -> Eventual[Response]:
        """As the chosen one; as the one that applies now, where none acted on the request."""
        chosen = self._choice.get(ctx) if "on_request" in self.moments else self._choose(ctx)
        return response if chosen is None else chosen.on_response(ctx, response)

    def on_response_chunk(self, ctx: Context, chunk: bytes, last: bool) -> bytes:
        """As the chosen one."""
        chosen = self._choice.get(ctx)
        return chunk if chosen is None else chosen.on_response_chunk(ctx, chunk, last)

    def on_refusal(self, ctx: Context, refusal: Refusal) -> Response | Pool | None:
        """As the one that applies: a refusal may come before this filter's turn."""
        chosen = self._applicable(ctx)
        return None if chosen is None else chosen.on_refusal(ctx, refusal)

    def on_error(self, ctx: Context, error: GatewayError) -> Response | Pool | None:
        """As the chosen one."""
        chosen = self._applicable(ctx)
        return None if chosen is None else chosen.on_error(ctx, error)

    def on_done(self, ctx: Context) -> None:
        """As the chosen one."""
        chosen = self._choice.get(ctx)
        if chosen is not None:
            chosen.on_done(ctx)

    def close(self) -> None:
        """Close every candidate."""
        for _, candidate in self.candidates:
            candidate.close()

    def _choose(self, ctx: Context) -> Filter | None:
        chosen = self._first(ctx)
        if chosen is not None:
            self._choice.set(ctx, chosen)
        return chosen

    def _applicable(self, ctx: Context) -> Filter | None:
        return self._choice.get(ctx) or self._first(ctx)

    def _first(self, ctx: Context) -> Filter | None:
        wall = self._clock.wall()
        return next((f for rule, f in self.candidates if rule.applies(ctx.principal, wall)), None)


class Rehearsed(Filter):
    """A rule with `enforce: false`: it decides, the record and the counters see it, the request doesn't.

    It acts on a copy of the request's context, so that whatever it chooses or lets in stays a rehearsal.
    """

    def __init__(self, inner: Filter, rule: Rule[object], clock: Clock) -> None:
        self.moments = frozenset({"on_request", "on_done"})
        self.inner = inner
        self.name = inner.name
        self.place = inner.place
        self.needs_body = inner.needs_body
        self.rule = rule
        self._clock = clock
        self._shadow: Slot[Context] = Slot()

    def on_request(self, ctx: Context) -> Eventual[Response | Refusal | None]:
        """Decide, and let pass."""
        if not self.rule.applies(ctx.principal, self._clock.wall()):
            return None
        shadow = ctx.copy()
        shadow.slots = None
        self._shadow.set(ctx, shadow)
        verdict = self.inner.on_request(shadow)
        if isinstance(verdict, Promise):
            passed: Promise[Response | Refusal | None] = Promise()

            def decided(late: Response | Refusal | None) -> None:
                self._note(ctx, late)
                passed.resolve(None)

            verdict.then(decided, lambda _: passed.resolve(None))
            return passed
        self._note(ctx, verdict)
        return None

    def on_done(self, ctx: Context) -> None:
        """Release what the rehearsal took."""
        shadow = self._shadow.get(ctx)
        if shadow is not None:
            self.inner.on_done(shadow)

    def close(self) -> None:
        """Close what rehearses."""
        self.inner.close()

    def _note(self, ctx: Context, verdict: Response | Refusal | None) -> None:
        if isinstance(verdict, Refusal):
            ctx.rehearsed += ((self.rule.policy, verdict.code),)
            if ctx.trail is not None:
                would = f"would refuse: {verdict.code}"
                ctx.note(self.name, would, self.rule.policy, self.rule.origin, verdict.details)
