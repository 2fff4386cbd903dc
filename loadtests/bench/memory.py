"""Bytes of a gateway's memory per idle connection: opened, asked once, answered, left alone.

PSS of the process tree before and after 2,000 and 10,000 connections; what the kernel keeps for a socket
(some KiB, the same for all) is not in it. A gateway that sets its tables aside at the start shows them in `at
rest`.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Final

from loadtests.bench import openloop, processes
from loadtests.bench.peers import Running
from loadtests.bench.site import Site
from loadtests.bench.summary import Figures

STEPS: Final = (2_000, 10_000)
BATCH: Final = 50  # asked at once
CALM: Final = 1.0  # s until a gateway has let go of what it only needed for the requests


class Refused(Exception):
    """A connection that was not served."""


def measure(up: Mapping[str, Running], site: Site, said: Callable[[str], None]) -> dict[str, Figures]:
    """Return each peer's memory at rest, and what a connection adds."""
    measured = {}
    for name, running in up.items():
        try:
            measured[name] = _one(running, site)
        except (OSError, Refused) as error:
            said(f"{name}: memory not measured: {error}")
        else:
            said(f"{name}: done")
    return measured


def _one(running: Running, site: Site) -> Figures:
    request = openloop.requests(site, keys=False).rstrip(b"\0")
    with contextlib.ExitStack() as stack:  # warm up: what the first requests make is not a connection's
        _open(running.port, BATCH, request, stack)
        for _ in range(5):
            _open(running.port, BATCH, request, stack)
    time.sleep(CALM)
    base = processes.pss(running.pid)
    figures = Figures(base_mib=round(base / 2**20, 1))
    with contextlib.ExitStack() as stack:
        small, large = STEPS
        _open(running.port, small, request, stack)
        time.sleep(CALM)
        figures["kib_2000"] = _kib(processes.pss(running.pid) - base, small)
        _open(running.port, large - small, request, stack)
        time.sleep(CALM)
        figures["kib_10000"] = _kib(processes.pss(running.pid) - base, large)
    return figures


def _kib(more: int, connections: int) -> float:
    return round(max(0, more) / connections / 1024, 2)


@contextlib.contextmanager
def idle(port: int, count: int, request: bytes) -> Iterator[None]:
    """Hold so many connections open, each of them once asked. Raises Refused, OSError."""
    with contextlib.ExitStack() as stack:
        _open(port, count, request, stack)
        yield


def _open(port: int, count: int, request: bytes, stack: contextlib.ExitStack) -> None:
    for start in range(0, count, BATCH):
        batch = [
            stack.enter_context(socket.create_connection(("127.0.0.1", port), 10))
            for _ in range(min(BATCH, count - start))
        ]
        for one in batch:
            one.sendall(request)
        for one in batch:
            _await_answer(one)


def _await_answer(connection: socket.socket) -> None:
    data = b""
    while not _whole(data):
        more = connection.recv(65536)
        if not more:
            raise Refused(f"closed after {data[:60]!r}")
        data += more
    if not data.startswith(b"HTTP/1.1 200"):
        raise Refused(f"answered {data[:60]!r}")


def _whole(data: bytes) -> bool:
    head, end, body = data.partition(b"\r\n\r\n")
    if not end:
        return False
    fields = {
        name.lower(): value for name, _, value in (line.partition(b":") for line in head.split(b"\r\n"))
    }
    if b"content-length" in fields:
        return len(body) >= int(fields[b"content-length"])
    return body.endswith(b"0\r\n\r\n")
