"""How hard this process is pressed: the lateness of its event loop, and how full it and its pools are."""

from __future__ import annotations

import asyncio
import time

from gateway.governance.overload import Gauge
from gateway.pipeline.gateway import Gateway
from gateway.pipeline.ports import Clock

LOOK = 0.05  # s between two looks at the event loop's lag
LAGS = 20  # looks of which the p90 counts
TOLERABLE_LAG = 0.1  # s: a machine that stutters is no reason to refuse anybody


async def sense(gateway: Gateway, limit: int, clock: Clock) -> None:
    """Keep the gateway's pressure up to date, for ever. limit: client connections of this process."""
    gauge = Gauge(tolerable_lag=TOLERABLE_LAG, relief=0.5)
    lags = [0.0] * LAGS
    turn = 0
    pressure = gateway.pressure
    while True:
        before, worked = clock.now(), time.thread_time()
        await asyncio.sleep(LOOK)
        now = clock.now()
        # Our own work only: a machine that gave the processor to others is no overload of ours.
        lags[turn % LAGS] = max(0.0, min(now - before - LOOK, time.thread_time() - worked))
        turn += 1
        pressure.lag = sorted(lags)[int(0.9 * (LAGS - 1))]
        pools = gateway.snapshot.pools.values()
        # A pool with a queue sorts its own by importance and tenant: chance is not to thin them out before.
        full = [pool.in_flight / pool.limit for pool in pools if pool.settings.queue.size == 0]
        fullest = max(full, default=0.0)
        pressure.level = gauge.sense(pressure.lag, pressure.in_flight, limit, now, fullest)
