"""Two versions of a model behind a whole gateway: the candidate breaks, slows down or predicts otherwise."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from itertools import cycle

import aiohttp
from aiohttp import web
from aiohttp.test_utils import TestServer


@dataclass
class Version:
    """A model server that answers KServe V2: rows in, two probabilities per row out.

    broken, corrupted: shares of the answers that are a 500, or another prediction. slow: s before each.
    """

    name: str
    broken: float = 0.0
    corrupted: float = 0.0
    slow: float = 0.0
    asked: int = 0
    mirrored: int = 0
    port: int = 0
    rng: random.Random = field(default_factory=lambda: random.Random(5))

    async def answer(self, request: web.Request) -> web.StreamResponse:
        if request.method == "GET":
            return web.json_response(
                {
                    "name": "m",
                    "platform": "test",
                    "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}],
                    "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1, 2]}],
                }
            )
        rows = (await request.json())["inputs"][0]["shape"][0]
        copied = "x-headgate-mirror" in request.headers
        self.mirrored += copied
        self.asked += not copied
        if self.slow:
            await asyncio.sleep(self.slow)
        if self.rng.random() < self.broken:
            return web.json_response({"error": "broken"}, status=500)
        value = 0.7 if self.rng.random() < self.corrupted else 0.2
        data = [value, 1 - value] * rows
        output = {"name": "y", "datatype": "FP32", "shape": [rows, 2], "data": data}
        return web.json_response({"model_name": "m", "outputs": [output]}, headers={"x-served-by": self.name})


@asynccontextmanager
async def version(name: str, **how: float) -> AsyncIterator[Version]:
    """Serve one version on a free port."""
    made = Version(name)
    for what, value in how.items():
        setattr(made, what, value)
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", made.answer)
    async with TestServer(app, host="127.0.0.1") as server:
        assert server.port is not None
        made.port = server.port
        yield made


@asynccontextmanager
async def load(*addresses: str, rate: float = 60.0) -> AsyncIterator[Counter[tuple[int, str]]]:
    """Ask gateways in turn, `rate` times a second whatever comes of it, until the block is left.

    Counts status and version; status 0: no answer.
    """
    seen: Counter[tuple[int, str]] = Counter()
    body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}]}
    tasks: set[asyncio.Task[None]] = set()

    async def ask(http: aiohttp.ClientSession) -> None:
        try:
            async with http.post("/v2/models/m/infer", json=body) as answer:
                await answer.read()
                seen[answer.status, answer.headers.get("x-served-by", "")] += 1
        except aiohttp.ClientError:
            seen[0, ""] += 1

    async def drive(clients: list[aiohttp.ClientSession]) -> None:
        for http in cycle(clients):
            tasks.add(asyncio.create_task(ask(http)))
            await asyncio.sleep(1 / rate)

    async with AsyncExitStack() as stack:
        # A connection per request: all workers of a gateway get some.
        clients = [
            await stack.enter_async_context(
                aiohttp.ClientSession(one, connector=aiohttp.TCPConnector(force_close=True))
            )
            for one in addresses
        ]
        driving = asyncio.create_task(drive(clients))
        try:
            yield seen
        finally:
            driving.cancel()
            await asyncio.gather(driving, *tasks, return_exceptions=True)


ROLLING = (
    "pools:\n  m1: {find: m-1, speaks: kserve-v2}\n  m2: {find: m-2, speaks: kserve-v2}\n"
    "endpoints:\n  m:\n    model: m\n    authenticate: none\n    versions: {1: m1, 2: m2}\n"
    "    labels: {stable: 1}\n    release: {kind: rolling, pause: 200ms}\n"
)
"""One endpoint `m` whose instances register: version 1 as m-1, version 2 as m-2."""


class Fleet:
    """Registers instances at every gateway, by their admin APIs, and takes them away."""

    def __init__(self, *admins: aiohttp.ClientSession) -> None:
        self._admins = admins
        self._leases: dict[int, list[tuple[aiohttp.ClientSession, str]]] = {}

    async def add(self, service: str, one: Version) -> None:
        told = {"id": f"{service}-{one.port}", "address": f"127.0.0.1:{one.port}"}
        for admin in self._admins:
            async with admin.post(f"/registry/{service}", json=told) as answer:
                self._leases.setdefault(one.port, []).append((admin, str((await answer.json())["lease"])))

    async def remove(self, one: Version) -> None:
        for admin, lease in self._leases.pop(one.port):
            async with admin.delete(f"/registry/leases/{lease}"):
                pass


def page(stable: Version, candidate: Version, release: str) -> str:
    """One endpoint `m` with version 1, and version 2 to be released."""
    return (
        f"pools:\n"
        f"  m1: {{instances: ['127.0.0.1:{stable.port}'], speaks: kserve-v2}}\n"
        f"  m2: {{instances: ['127.0.0.1:{candidate.port}'], speaks: kserve-v2}}\n"
        f"endpoints:\n  m:\n    model: m\n    authenticate: none\n"
        f"    versions: {{1: m1, 2: m2}}\n    labels: {{stable: 1}}\n"
        f"    release: {release}\n"
    )
