"""Bandwidth over real workers: what one connection may have, and what many of them have together."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from tests.runtime.crews import crewed
from tests.runtime.running import backend, echo_page

RATE = 1 << 20  # bytes/s
PIECE = 512 << 10  # bytes of an answer that one reading may bring
SECONDS = 6.0


async def stream(request: web.Request) -> web.StreamResponse:
    answer = web.StreamResponse()
    await answer.prepare(request)
    for _ in range(400):
        await answer.write(bytes(65536))
    return answer


async def read(port: int, came: list[tuple[float, int]], started: float) -> None:
    """Read one long answer; notes when how many bytes came."""
    url = f"http://127.0.0.1:{port}/echo/"
    async with aiohttp.ClientSession() as client, client.get(url) as answer:
        while time.monotonic() < started + SECONDS:
            part = await answer.content.readany()
            came.append((time.monotonic() - started, len(part)))


@pytest.mark.parametrize("connections", [1, 8])
async def test_workers_give_the_rate_together_and_a_connection_may_have_it_all(
    connections: int, tmp_path: Path
) -> None:
    async with backend() as server:
        server.handler = stream
        page = echo_page(server.port, "    bandwidth: 1MiB/s\n")
        async with crewed(tmp_path, page, 2) as crew:
            came: list[tuple[float, int]] = []
            started = time.monotonic()
            await asyncio.gather(*(read(crew.port, came, started) for _ in range(connections)))
    everything = sum(size for when, size in came if when < SECONDS)
    assert 0.9 * RATE * SECONDS <= everything <= RATE * SECONDS + connections * PIECE
