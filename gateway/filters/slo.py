"""A service level objective of an endpoint: `slo: {latency: 300ms, ratio: 99%, window: 5m}`.

Counts every request that an instance, the cache or the gateway's own capacity decided as good or bad, and
shows how fast the error budget burns (governance/slo.py, `headgate_slo_burn_rate`). `degrade` with
`when: [slo_burn]` acts on it.

    bad      an answer of 500 and above, a gRPC status that blames the server, or a first byte after `latency`
    good     everything else that was answered
    neither  the caller's own: refusals below 500 (401, 429, 422), a client that left
    neither  lesser answers: they say nothing of what the full one would have been

Latency is that of the first byte, so that a long stream is not slow.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import inf

from gateway.config.kind import setting
from gateway.config.units import Duration, Factor, Ratio
from gateway.governance.slo import Objective
from gateway.http.grpc import BLAMING, Status
from gateway.pipeline.context import Context
from gateway.pipeline.filter import Filter, FilterKind, Parts, Rule


@dataclass(frozen=True, slots=True)
class Slo:
    """What clients are promised."""

    latency: Duration | None = setting(None, "to the first byte of an answer; none: any", example="300ms")
    ratio: Ratio = setting(Ratio(0.99), "share of requests that must be good", example="99%")
    window: Duration = setting(
        Duration(300.0), "over which it is measured; its last twelfth must burn too", example="5m", at_least=1
    )
    burn: Factor = setting(Factor(4.0), "times faster than allowed that counts as burning", example="4x")
    min_calls: int = setting(10, "in the last twelfth of the window; fewer say nothing", "calls", at_least=1)

    def __post_init__(self) -> None:
        if not 0.0 < self.ratio < 1.0:
            raise ValueError("expected a ratio between 0% and 100%, like 99%")
        if self.burn <= 0:
            raise ValueError("expected a burn above 0x, like 4x")


class SloFilter(Filter):
    """Counts into its objective, which the endpoint's `degrade` and the metrics read."""

    name = "slo"

    def __init__(self, config: Slo, parts: Parts) -> None:
        self._latency = inf if config.latency is None else config.latency
        self._endpoint = parts.endpoint
        self._pressure = parts.pressure
        self.objective = Objective(config.ratio, config.window, burn=config.burn, enough=config.min_calls)
        parts.pressure.objectives[parts.endpoint] = self.objective

    def on_done(self, ctx: Context) -> None:
        """Count it."""
        if ctx.degraded or ctx.dry or ctx.status in (0, 499):
            return
        if ctx.refusal is not None and ctx.status < 500:
            return
        slow = ctx.first_byte - ctx.started > self._latency
        blamed = ctx.grpc_status >= 0 and Status(ctx.grpc_status) in BLAMING
        self._pressure.objectives[self._endpoint] = self.objective
        self.objective.record(not (slow or blamed or ctx.status >= 500), ctx.now)

    def close(self) -> None:
        """Show it no more."""
        if self._pressure.objectives.get(self._endpoint) is self.objective:
            del self._pressure.objectives[self._endpoint]


def _build(rules: Sequence[Rule[Slo]], parts: Parts) -> Iterable[Filter]:
    return [SloFilter(rule.value, parts) for rule in rules]


KIND = FilterKind(
    "slo", Slo, summary="what clients are promised, and how it is kept", by_principal=False, build=_build
)
