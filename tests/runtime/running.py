"""A whole gateway in this process, on free ports, with an HTTP server behind it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
from aiohttp import web
from aiohttp.test_utils import TestServer

from gateway.runtime.policies import read
from gateway.runtime.serve import overrule
from gateway.runtime.worker import Worker

PATIENCE = 5.0  # s: for what should take a moment
BASE = "log: {access: off}\n"


@dataclass
class Backend:
    """Answers every request with its path, and remembers it."""

    requests: list[web.Request] = field(default_factory=list)
    port: int = 0
    handler: Callable[[web.Request], Awaitable[web.StreamResponse]] | None = None

    async def answer(self, request: web.Request) -> web.StreamResponse:
        await request.read()
        self.requests.append(request)
        if self.handler is not None:
            return await self.handler(request)
        return web.json_response({"path": request.path})

    @property
    def paths(self) -> list[str]:
        return [request.path for request in self.requests]


@asynccontextmanager
async def backend() -> AsyncIterator[Backend]:
    made = Backend()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", made.answer)
    async with TestServer(app, host="127.0.0.1") as server:
        assert server.port is not None
        made.port = server.port
        yield made


def write(folder: Path, policies: str, name: str = "page.yaml") -> None:
    """Save a policy file as a careful editor does: a whole new file in place of the old one."""
    new = folder / f".{name}.new"
    new.write_text(policies)
    new.rename(folder / name)


@dataclass
class Running:
    """A worker, and clients of both its ports."""

    worker: Worker
    folder: Path
    http: aiohttp.ClientSession
    admin: aiohttp.ClientSession

    async def status(self, path: str, **headers: str) -> int:
        async with self.http.get(path, headers=headers) as answer:
            await answer.read()
            return answer.status

    @property
    def admin_url(self) -> str:
        host, port = self.worker.admin_address
        return f"http://{host}:{port}"


@asynccontextmanager
async def running(folder: Path, policies: str, base: str = BASE) -> AsyncIterator[Running]:
    """Serve a folder with these policies until the block is left."""
    write(folder, base, "gateway.yaml")
    write(folder, policies)
    loaded = read(folder)
    assert loaded.schema is not None, loaded.report()
    worker = Worker(folder, loaded, overrule(loaded.schema, "127.0.0.1:0", "127.0.0.1:0", None, None))
    try:
        await worker.start()
        async with (
            aiohttp.ClientSession("http://{}:{}".format(*worker.http_address)) as http,
            aiohttp.ClientSession("http://{}:{}".format(*worker.admin_address)) as admin,
        ):
            yield Running(worker, folder, http, admin)
    finally:
        await worker.stop()


def echo_page(port: int, verbs: str = "") -> str:
    """One endpoint `echo` in front of a backend: everything below /echo/."""
    return (
        f"pools:\n  echo: {{instances: ['127.0.0.1:{port}']}}\n"
        f"endpoints:\n  echo:\n    match: /echo/**\n    authenticate: none\n    send: echo\n{verbs}"
    )


async def until(condition: Callable[[], object], patience: float = PATIENCE) -> float:
    """Wait for what must come soon; returns after how long, s."""
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < patience, "it did not come"
        await asyncio.sleep(0.01)
    return time.monotonic() - started


async def kserve(request: web.Request) -> web.StreamResponse:
    """A model server in two lines: `m` takes two numbers a row and returns how many rows there were."""
    if request.method == "GET":
        tensor = {"name": "x", "datatype": "FP32", "shape": [-1, 2]}
        output = {"name": "y", "datatype": "INT64", "shape": [1]}
        return web.json_response({"name": "m", "platform": "test", "inputs": [tensor], "outputs": [output]})
    rows = (await request.json())["inputs"][0]["shape"][0]
    output = {"name": "y", "datatype": "INT64", "shape": [1], "data": [rows]}
    return web.json_response({"model_name": "m", "outputs": [output]})


def model_page(port: int, verbs: str = "") -> str:
    """One endpoint `m` for the model that `kserve` serves."""
    return (
        f"pools:\n  m: {{instances: ['127.0.0.1:{port}'], speaks: kserve-v2}}\n"
        f"endpoints:\n  m:\n    model: m\n    versions: {{1: m}}\n    authenticate: none\n{verbs}"
    )


def question(*row: float) -> dict[str, object]:
    """Two numbers for each row for `m`, in KServe V2."""
    return {"inputs": [{"name": "x", "datatype": "FP32", "shape": [len(row) // 2, 2], "data": list(row)}]}
