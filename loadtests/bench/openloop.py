"""Load at a fixed rate, whatever the answers do: what a gateway adds to the latency.

loadtests/peers/openloop.c sends; here its times are read. A request's latency counts from the instant when it
was due, not from when it could be sent: a server that stalls for 200 ms at 500 requests/s is late for all
hundred that were due meanwhile, and all hundred say so (coordinated omission is the mistake of letting the
stall hold back the questions). Source: Tene, How not to measure latency. `direct`, the same load without a
gateway, is the floor: instance, kernel and the generator's own waking up.
"""

from __future__ import annotations

import math
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from loadtests.bench import processes
from loadtests.bench.peers import Running
from loadtests.bench.site import PEERS, TARGET, Site
from loadtests.bench.window import Broken, Window

RATE: Final = 500.0  # requests/s
SECONDS: Final = 1.0
CONNECTIONS: Final = 64


@dataclass(frozen=True, slots=True)
class Times:
    """Of one request, ns since the first was due. status 0: never answered."""

    due: int
    sent: int
    answered: int
    status: int


def schedule(rate: float, count: int) -> list[int]:
    """Return when each request is due, ns since the first."""
    return [int(number * 1e9 / rate) for number in range(count)]


def latency_ms(times: Times) -> float:
    """Return how long after it was due it was answered; infinite where it never was."""
    return (times.answered - times.due) / 1e6 if times.status else math.inf


def percentile(values: Sequence[float], part: float) -> float:
    """Return the smallest value that at least this part (0–1) of them don't exceed (nearest rank)."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(part * len(ordered)) - 1)]


def read(output: str) -> list[Times]:
    """Read what the generator printed."""
    return [Times(*(int(word) for word in line.split())) for line in output.splitlines()]


def as_window(times: Sequence[Times], cpu_ns: float) -> Window:
    """Return the measurement: percentiles in ms, the rate that was reached. Raises Broken."""
    latencies = [latency_ms(one) for one in times]
    failed = sum(1 for one in times if not 200 <= one.status < 300)
    if (unanswered := sum(1 for one in times if not one.status)) > len(times) / 100:
        raise Broken(f"{unanswered} of {len(times)} requests were never answered")
    elapsed = max(one.answered for one in times) / 1e9
    return Window(
        len(times),
        cpu_ns / 1000 / len(times),
        len(times) / elapsed,
        percentile(latencies, 0.5),
        percentile(latencies, 0.99),
        failed,
    )


def lateness_ms(times: Sequence[Times], part: float) -> float:
    """Return a percentile of how late the generator itself was, ms: the floor under every figure."""
    return percentile([(one.sent - one.due) / 1e6 for one in times], part)


def fire(
    port: int, requests: bytes, generator: str, rate: float = RATE, seconds: float = SECONDS
) -> list[Times]:
    """Send at the rate for as long. Raises Broken."""
    command = [generator, str(port), str(rate), str(int(rate * seconds)), str(CONNECTIONS)]
    ran = subprocess.run([*processes.pinned(processes.LOAD), *command], input=requests, capture_output=True)
    if ran.returncode:
        raise Broken(f"the generator ended with {ran.returncode}: {ran.stderr.decode()[-200:].strip()}")
    return read(ran.stdout.decode())


def window(port: int, running: Running | None, site: Site, requests: bytes) -> Window:
    """Load a peer, or the instance itself, once. Raises Broken."""
    before = processes.cpu_ns(running.pid) if running else 0
    times = fire(port, requests, str(site.folder / "openloop"))
    return as_window(times, processes.cpu_ns(running.pid) - before if running else math.nan)


def requests(site: Site, keys: bool) -> bytes:
    """Return the same requests as wrk sends, each followed by a NUL."""
    body = prediction()
    lines = site.turns.read_text().splitlines() if keys else [f"{TARGET} sk-0123456789abcdef0123456789abcdef"]
    return b"".join(map(partial(_request, body), lines))


def prediction() -> bytes:
    """Return the body that request.lua has, from its own text."""
    lua = (PEERS / "request.lua").read_text()
    start = lua.index("local prediction = ")
    parts = lua[start : lua.index("\n\n", start)].split("'")[1::2]
    return "".join(parts).encode()


def _request(body: bytes, line: str) -> bytes:
    target, key = line.split()
    head = (
        f"POST {target} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        f"Accept: application/json\r\nUser-Agent: bench/1.0\r\nX-API-Key: {key}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body + b"\0"
