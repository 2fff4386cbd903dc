"""The local registry's routes: register, renew, deregister, list. The leases: discovery/local.py."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import orjson
from aiohttp import web

from gateway.admin.guard import problem
from gateway.discovery.local import LocalRegistry, RegistryFull
from gateway.discovery.members import Rejected, member_from_fields

DEFAULT_TTL = 10.0  # s, where the policies' `registry.local.ttl` says nothing else


class RegistryRoutes:
    """One method per route. ttl: s, the lease of a registration that names none."""

    def __init__(self, registry: LocalRegistry, now: Callable[[], float], ttl: float = DEFAULT_TTL) -> None:
        self._registry = registry
        self._now = now
        self._ttl = ttl

    def table(self) -> list[web.RouteDef]:
        """The routes."""
        return [
            web.get("/registry", self.listing),
            web.post("/registry/{service}", self.register),
            web.put("/registry/leases/{lease}", self.renew),
            web.delete("/registry/leases/{lease}", self.remove),
        ]

    async def listing(self, request: web.Request) -> web.Response:
        """Show every service's instances."""
        return web.json_response(self._registry.listing(self._now()))

    async def register(self, request: web.Request) -> web.Response:
        """Open a lease."""
        try:
            fields = orjson.loads(await request.read())
        except orjson.JSONDecodeError as error:
            return problem(400, "malformed_json", f"the body is not JSON: {error}")
        if not isinstance(fields, dict) or not isinstance(fields.get("id"), str) or not fields["id"]:
            return problem(422, "malformed_request", 'expected an object with "id" and "address"')
        ttl = fields.get("ttl", self._ttl)
        if isinstance(ttl, bool) or not isinstance(ttl, int | float):
            return problem(422, "malformed_request", f"expected ttl in seconds, found {ttl!r}")
        return self._open(request.match_info["service"], fields, float(ttl))

    def _open(self, service: str, fields: Mapping[str, object], ttl: float) -> web.Response:
        member = member_from_fields(str(fields["id"]), fields)
        if isinstance(member, Rejected):
            return problem(422, "rejected", member.reason)
        try:
            lease = self._registry.register(service, member, ttl, self._now())
        except RegistryFull as full:
            return problem(503, "registry_full", str(full))
        return web.json_response({"lease": lease, "ttl": self._registry.ttl(lease)}, status=201)

    async def renew(self, request: web.Request) -> web.Response:
        """Give a lease its time again."""
        lease = request.match_info["lease"]
        if not self._registry.renew(lease, self._now()):
            return problem(404, "unknown_lease", "there is no such lease (any more): register again")
        return web.json_response({"ttl": self._registry.ttl(lease)})

    async def remove(self, request: web.Request) -> web.Response:
        """End a lease."""
        if not self._registry.remove(request.match_info["lease"], self._now()):
            return problem(404, "unknown_lease", "there is no such lease")
        return web.Response(status=204)
