"""Load as fast as it is answered: wrk, one thread, on the load's core."""

from __future__ import annotations

import math
import re
import subprocess
from dataclasses import dataclass
from functools import partial
from typing import Final

from loadtests.bench import processes
from loadtests.bench.peers import Running
from loadtests.bench.site import PEERS, TARGET, Site
from loadtests.bench.window import Broken, Window

_UNITS: Final = {"us": 0.001, "ms": 1.0, "s": 1000.0, "m": 60_000.0}


@dataclass(frozen=True, slots=True)
class Load:
    """What wrk sends. body: bytes of the request's body, 0: the prediction. seconds: of one window.

    keys: whether requests carry API keys in turn. close: whether each takes a new connection.
    """

    method: str = "POST"
    target: str = TARGET
    body: int = 0
    keys: bool = False
    close: bool = False
    tls: bool = False
    connections: int = 64
    seconds: int = 1


def window(running: Running, load: Load, site: Site, turns: str | None = None) -> Window:
    """Load a peer once. turns: a file of its own with what to send in turn. Raises Broken."""
    command = wrk(load, running.port, turns or (str(site.turns) if load.keys else "-"))
    before = processes.cpu_ns(running.pid)
    ran = subprocess.run([*processes.pinned(processes.LOAD), *command], capture_output=True, text=True)
    spent = processes.cpu_ns(running.pid) - before
    if ran.returncode:
        raise Broken(f"wrk ended with {ran.returncode}: {(ran.stderr or ran.stdout)[-200:].strip()}")
    return read(ran.stdout, spent, load.close)


def wrk(load: Load, port: int, turns: str) -> list[str]:
    """Return the command."""
    url = f"{'https' if load.tls else 'http'}://127.0.0.1:{port}{load.target}"
    script = ["-s", str(PEERS / "request.lua"), url, "--", load.method, load.target, str(load.body), turns]
    return [
        *("wrk", "-t1", f"-c{load.connections}", f"-d{load.seconds}s", "--timeout", "10s", "--latency"),
        *script,
        "close" if load.close else "keep",
    ]


def read(output: str, cpu_ns: int, closes: bool = False) -> Window:
    """Read what wrk printed. closes: the end of a connection is the plan, not a failure. Raises Broken."""
    requests = int(re.findall(r"(\d+) requests in", output)[0])
    if not requests:
        raise Broken("nothing was answered")
    rate = float(re.findall(r"Requests/sec:\s+([\d.]+)", output)[0])
    percentile = partial(_percentile, output)
    p50, p99 = percentile(50), percentile(99)
    failed = sum(int(count) for count in re.findall(r"Non-2xx or 3xx responses: (\d+)", output))
    sockets = re.findall(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", output)
    failed += sum(int(count) for errors in sockets for count in (errors[:1] if closes else errors))
    return Window(requests, cpu_ns / 1000 / requests, rate, p50, p99, failed)


def _percentile(output: str, part: int) -> float:
    """Return a percentile of the latency in ms; nan where wrk has none."""
    found = re.search(rf"\s{part}%\s+([\d.]+)(us|ms|s|m)\b", output)
    return round(float(found[1]) * _UNITS[found[2]], 6) if found else math.nan
