"""What an exchange leans on: the running snapshot and the ports to the world. One per worker.

`snapshot` is the cell that a reload stores into; everything else is set once.
"""

from __future__ import annotations

from typing import Protocol

from gateway.pipeline.context import Context
from gateway.pipeline.ports import Clock, Ids, Timers, Upstream
from gateway.pipeline.prediction import Signatures
from gateway.pipeline.pressure import Pressure
from gateway.pipeline.snapshot import Snapshot
from gateway.pipeline.tunnel import Tunnels


class Observer(Protocol):
    """Who is told of every finished exchange: metrics, access log, traces."""

    def on_done(self, ctx: Context) -> None:
        """Once per exchange, after its last byte or its end. Must not raise, must not block."""
        ...

    def on_mirrored(self, endpoint: str, pool: str, result: str, seconds: float) -> None:
        """A mirrored copy ended, or was not made; seconds: it took, 0.0 where it was not made."""
        ...

    def on_errand(self, endpoint: str, pool: str, result: str) -> None:
        """A prediction that was asked on the gateway's own account ended (errand.py)."""
        ...

    def on_bug(self, ctx: Context, bug: Exception) -> None:
        """An exception that nobody foresaw escaped while this request was handled."""
        ...


class Gateway:
    """The exchanges' surroundings."""

    __slots__ = (
        "clock",
        "ids",
        "observer",
        "pressure",
        "signatures",
        "snapshot",
        "timers",
        "tunnels",
        "upstream",
    )

    def __init__(
        self,
        snapshot: Snapshot,
        *,
        upstream: Upstream,
        clock: Clock,
        timers: Timers,
        ids: Ids,
        signatures: Signatures,
        observer: Observer,
        pressure: Pressure,
    ) -> None:
        self.snapshot = snapshot
        self.tunnels = Tunnels()
        self.upstream = upstream
        self.clock = clock
        self.timers = timers
        self.ids = ids
        self.signatures = signatures
        self.observer = observer
        self.pressure = pressure
