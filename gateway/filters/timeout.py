"""How long the whole exchange may take, from its head to its answer: `timeout: 2s`.

Sets the deadline that every later wait, attempt and retry is measured against; the time for one try is the
pools' business (`per_try_timeout`). A client that knows better may shorten it with `x-request-timeout-ms`
(whole milliseconds, above zero) or gRPC's `grpc-timeout`, never lengthen it; a value that can't be read is
refused, because a client that believes in a deadline it hasn't got is worse off than one that is told.

Instances are told in the same field how much time is left for each try, so that they need not work on what
nobody waits for any more (`tell: false` leaves the client's own field as it is).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from gateway.config.kind import REQUIRED, setting
from gateway.config.units import Duration
from gateway.http.message import Response
from gateway.pipeline.context import Context
from gateway.pipeline.errors import Refusal
from gateway.pipeline.filter import Filter, FilterKind, Parts, Rule
from gateway.pipeline.promise import Eventual
from gateway.pipeline.time_left import field_for, wished


@dataclass(frozen=True, slots=True)
class Timeout:
    """How long an exchange may take."""

    total: Duration = setting(
        REQUIRED,
        "from the request's head to its answer's end; to its head, where that announces no length (streams)",
        example="2s",
        short=True,
        at_least=0.001,
    )
    client: bool = setting(True, "clients may shorten it with x-request-timeout-ms or grpc-timeout")
    tell: bool = setting(True, "tell instances in the same field how much time is left for a try")


class TimeoutFilter(Filter):
    """Sets `ctx.deadline`, and what is said of it upstream."""

    name = "timeout"

    def __init__(self, config: Timeout, policy: str) -> None:
        self._total = config.total
        self._client = config.client
        self._tell = config.tell
        self._policy = policy

    def on_request(self, ctx: Context) -> Eventual[Response | Refusal | None]:
        """Count from the head's arrival, not from now: filters before this one may have waited."""
        total: float = self._total
        if self._client:
            try:
                wish = wished(ctx.request)
            except ValueError as unreadable:
                return Refusal(400, "bad_timeout", str(unreadable), policy=self._policy)
            if wish is not None and wish < total:
                total = wish
                ctx.hurried = True
        if self._tell:
            ctx.tell_time = field_for(ctx.request)
        ctx.deadline = ctx.started + total
        return None


def _build(rules: Sequence[Rule[Timeout]], parts: Parts) -> Iterable[Filter]:
    return [TimeoutFilter(rules[0].value, rules[0].policy)]


KIND = FilterKind("timeout", Timeout, summary="how long the whole exchange may take", build=_build)
