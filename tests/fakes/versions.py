"""Two versions of a model behind a whole gateway: the candidate breaks, slows down or predicts otherwise."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

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
