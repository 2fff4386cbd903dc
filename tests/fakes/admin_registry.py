"""The admin API's /registry routes, on a real `LocalRegistry` behind a real HTTP server.

It proves what the registering side sends and understands; the admin API's own tests prove the routes.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web

from gateway.discovery.local import LocalRegistry
from gateway.discovery.members import Member, member_from_fields


class AdminRegistry:
    """The three routes that change something, on a port that survives `stop` and `start`.

    token: the one that is required, None = none. fail_with: answer every call with this status.
    """

    def __init__(self, token: str | None = None) -> None:
        self.local = LocalRegistry()
        self.token = token
        self.fail_with: int | None = None
        self.port = 0
        self.calls: list[str] = []
        self._runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ids(self, service: str = "digits") -> list[object]:
        return [entry["id"] for entry in self.local.listing(0.0).get(service, [])]

    async def start(self) -> None:
        app = web.Application(middlewares=[self._guard])
        app.router.add_post("/registry/{service}", self._register)
        app.router.add_put("/registry/leases/{lease}", self._renew)
        app.router.add_delete("/registry/leases/{lease}", self._remove)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port, reuse_address=True)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    @web.middleware
    async def _guard(self, request: web.Request, handler: object) -> web.StreamResponse:
        self.calls.append(request.method)
        assert callable(handler)
        if self.fail_with is not None:
            return web.json_response({"detail": "as told"}, status=self.fail_with)
        if self.token is not None and request.headers.get("Authorization") != f"Bearer {self.token}":
            return web.json_response({"detail": "a token is needed"}, status=401)
        response = await handler(request)
        assert isinstance(response, web.StreamResponse)
        return response

    async def _register(self, request: web.Request) -> web.Response:
        fields = await request.json()
        member = member_from_fields(str(fields["id"]), fields)
        if not isinstance(member, Member):
            return web.json_response({"detail": member.reason}, status=422)
        service, ttl = request.match_info["service"], float(fields["ttl"])
        lease = self.local.register(service, member, ttl, time.monotonic())
        return web.json_response({"lease": lease, "ttl": ttl}, status=201)

    async def _renew(self, request: web.Request) -> web.Response:
        lease = request.match_info["lease"]
        if not self.local.renew(lease, time.monotonic()):
            return web.json_response({"detail": "no such lease"}, status=404)
        return web.json_response({"ttl": self.local.ttl(lease)})

    async def _remove(self, request: web.Request) -> web.Response:
        self.local.remove(request.match_info["lease"], time.monotonic())
        return web.Response(status=204)


@asynccontextmanager
async def admin_registry(token: str | None = None) -> AsyncIterator[AdminRegistry]:
    """A running one."""
    registry = AdminRegistry(token)
    await registry.start()
    try:
        yield registry
    finally:
        await registry.stop()
