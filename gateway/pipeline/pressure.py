"""How hard pressed the gateway is: one number per request path, written by the edges, read by `importance`.

level: 0.0 at ease .. 1.0 everything sheddable and normal goes. The edges feed it from event-loop lag and
requests in flight (governance/overload.py has the law); pools feed their own from their concurrency limit.
"""

from __future__ import annotations

from gateway.governance.drift import Drift
from gateway.governance.ladder import Ladder
from gateway.governance.overload import Shedder
from gateway.governance.slo import Objective


class Pressure:
    """The gateway's own pressure, one mutable cell shared by all exchanges."""

    __slots__ = ("drifts", "in_flight", "ladders", "lag", "level", "objectives", "shedder")

    def __init__(self) -> None:
        self.level = 0.0
        self.lag = 0.0  # s, p90 of the event loop's lateness
        self.in_flight = 0
        self.shedder: Shedder | None = None  # made by the first `importance` filter, shared by all
        self.objectives: dict[str, Objective] = {}  # by endpoint, made by `slo`
        self.drifts: dict[tuple[str, str, str], Drift] = {}  # by endpoint, version and what, made by `drift`
        self.ladders: dict[tuple[str, str], Ladder] = {}  # by endpoint and policy, made by `degrade`

    def __repr__(self) -> str:
        return f"<Pressure {self.level:.2f} | lag {self.lag * 1000:.1f} ms, {self.in_flight} in flight>"
