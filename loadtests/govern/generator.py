"""Requests at the instants they are due, whatever the answers do.

A request is sent when it is due over any idle connection, or a new one: it never waits for the answer of
another, and its latency counts from the instant when it was due (coordinated omission would be to let a
stalled server hold back the questions). Arrivals are Poisson, seeded.
"""

from __future__ import annotations

import asyncio
from random import Random
from typing import Final, NamedTuple

MIX: Final = (("critical", 0.25), ("normal", 0.5), ("sheddable", 0.25))
"""Importance of the calls, and each one's share at twice the capacity; beyond, critical ones stay as many."""
TENANTS: Final = 5


class Sent(NamedTuple):
    """One request: importance, tenant, s since the start, s until its answer, status (0: none)."""

    importance: str
    tenant: int
    due: float
    latency: float
    status: int


class Plan(NamedTuple):
    """calm, surge: s. capacity: calls/s in the surge; times: it is offered so often; 60 % of it while calm.

    flood: the last tenant makes all the calls above half of the capacity.
    """

    capacity: float
    times: float
    calm: float
    surge: float
    flood: bool = False


def schedule(plan: Plan, rng: Random) -> list[tuple[float, str, int]]:
    """Return when whose calls are due."""
    calls: list[tuple[float, str, int]] = []
    at = 0.0
    while True:
        in_surge = at >= plan.calm
        rate = plan.capacity * (plan.times if in_surge else 0.6)
        at += rng.expovariate(rate)
        if at >= plan.calm + plan.surge:
            return calls
        times = plan.times if at >= plan.calm else 0.6
        if plan.flood:
            polite = rng.random() < 0.5 / max(0.5, times)
            calls.append((at, "normal", rng.randrange(TENANTS - 1) if polite else TENANTS - 1))
            continue
        critical = min(0.25, 0.5 / times)
        drawn = rng.random()
        rest = (drawn - critical) / (1.0 - critical)
        name = "critical" if drawn < critical else "normal" if rest < 2 / 3 else "sheddable"
        calls.append((at, name, rng.randrange(TENANTS)))


class _Connection(asyncio.Protocol):
    """One request at a time."""

    def __init__(self, idle: list[_Connection]) -> None:
        self._idle = idle
        self._read = b""
        self._answered: asyncio.Future[int] | None = None
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It stands."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def ask(self, request: bytes) -> asyncio.Future[int]:
        """Send; the status comes with the whole answer."""
        assert self._transport is not None
        self._answered = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return self._answered

    def data_received(self, data: bytes) -> None:
        """A part of the answer."""
        self._read += data
        head, end, body = self._read.partition(b"\r\n\r\n")
        if not end:
            return
        length = next(
            int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")
        )
        if len(body) >= length and self._answered is not None and not self._answered.done():
            self._read = b""
            self._answered.set_result(int(head[9:12]))
            self._idle.append(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Whoever waits gets no answer."""
        if self in self._idle:
            self._idle.remove(self)
        if self._answered is not None and not self._answered.done():
            self._answered.set_result(0)

    def close(self) -> None:
        """Leave."""
        if self._transport is not None:
            self._transport.abort()


async def fire(port: int, calls: list[tuple[float, str, int]], began: float) -> list[Sent]:
    """Send each when it is due. began: loop time of the first instant."""
    loop = asyncio.get_running_loop()
    idle: list[_Connection] = []
    everybody: list[_Connection] = []
    sent: list[Sent] = []

    async def one(due: float, importance: str, tenant: int) -> None:
        if idle:
            connection = idle.pop()
        else:
            _, connection = await loop.create_connection(lambda: _Connection(idle), "127.0.0.1", port)
            everybody.append(connection)
        key = b"sk-govern-%d-0123456789abcdef0123456789" % tenant
        path = importance.encode()
        status = await connection.ask(
            b"GET /%b HTTP/1.1\r\nhost: govern\r\nx-api-key: %b\r\n\r\n" % (path, key)
        )
        sent.append(Sent(importance, tenant, due, loop.time() - began - due, status))

    async with asyncio.TaskGroup() as tasks:
        for due, importance, tenant in calls:
            pause = began + due - loop.time()
            if pause > 0.0:
                await asyncio.sleep(pause)
            tasks.create_task(one(due, importance, tenant))
    for connection in everybody:
        connection.close()
    return sent
