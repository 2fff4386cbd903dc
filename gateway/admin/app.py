"""The admin API, on a port of its own: health, metrics, what runs, reload, purge, explain, registry.

    GET    /healthz /readyz /metrics            open
    GET    /config /policies /endpoints /pools /instances   what runs (ETag: the policies' digest)
    GET    /workers                             the processes that serve
    GET    /releases                            releases, and what the judge made of them
    GET    /drifts                              alarms of `drift`: what predicts otherwise than it used to
    GET    /quotas?who=…&most=…                 who spent how much of which quota, and what is left until when
    POST   /releases/{name}/{act}               act: promote, rollback, pause, resume
    POST   /reload                              read the policy folder again; If-Match as a guard
    POST   /explain                             decide one request without sending it or spending anything
    DELETE /cache?endpoint=…                    purge cached answers, also by model, tag, url or key
    GET    /registry                            the local registry's leases
    POST   /registry/{service}                  register -> 201 {"lease", "ttl"}
    PUT    /registry/leases/{lease}             renew -> 200, 404 when it is gone
    DELETE /registry/leases/{lease}             deregister

It shows the running objects through views.py and asks the runtime, through `Operations`, for what changes
anything.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping
from typing import Protocol, TypeGuard

import orjson
from aiohttp import web

from gateway.admin import views
from gateway.admin.guard import Guard, problem
from gateway.admin.registry import DEFAULT_TTL, RegistryRoutes
from gateway.config.secret import Secret
from gateway.discovery.local import LocalRegistry
from gateway.discovery.registry import RegistryStatus
from gateway.governance.ramp import Impossible
from gateway.pipeline.snapshot import Snapshot

BODY_LIMIT = 16 * 1024 * 1024


_PURGED_BY = ("endpoint", "model", "tag", "url", "key")


class Operations(Protocol):
    """What the admin API asks of the runtime."""

    @property
    def snapshot(self) -> Snapshot:
        """The running snapshot."""
        ...

    @property
    def draining(self) -> bool:
        """Whether the gateway is about to stop."""
        ...

    def now(self) -> float:
        """Seconds, monotonic."""
        ...

    async def scrape(self) -> Callable[[], bytes]:
        """Read what only the event loop may; returns what writes all as Prometheus text, in any thread."""
        ...

    async def instances(self) -> list[views.View]:
        """Every instance of every pool, as views.instance shows one."""
        ...

    def workers(self) -> list[views.View]:
        """The processes that serve."""
        ...

    def lacking(self) -> list[str]:
        """Why the gateway can't take traffic, besides its pools: nothing while enough workers serve."""
        ...

    def releases(self) -> list[views.View]:
        """Every release: its weight, its phase, its numbers."""
        ...

    def drifts(self) -> list[views.View]:
        """The last alarms of `drift`, the oldest first."""
        ...

    def move_release(self, name: str, word: str) -> views.View:
        """Promote, roll back, pause or resume. Raises KeyError (no such release or act), and Impossible."""
        ...

    async def quotas_left(self, who: str, most: int) -> views.View:
        """Every quota: who spent most of it (or `who` alone), and what is left."""
        ...

    def registry_status(self) -> RegistryStatus | None:
        """How the registry stands."""
        ...

    def last_reload(self) -> Mapping[str, object]:
        """When the policies were last read, and what was wrong with them."""
        ...

    async def reload(self) -> Mapping[str, object]:
        """Read the policies now; `ok` says whether they run."""
        ...

    async def purge(self, what: str | None) -> int:
        """Forget cached answers; returns how many."""
        ...

    def listing(self) -> list[str]:
        """The running policies, a line each."""
        ...

    async def explain(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes
    ) -> Mapping[str, object]:
        """Decide one request as the exchange would, spending and sending nothing."""
        ...


def make_app(
    operations: Operations,
    *,
    host: str,
    token: Secret | None,
    local: LocalRegistry | None,
    ttl: float = DEFAULT_TTL,
) -> web.Application:
    """Make the application.

    host: the name it listens at. local: None when another registry is configured. ttl: s, the lease of a
    registration that names none.
    """
    guard = Guard(host, token)
    app = web.Application(middlewares=[guard.middleware], client_max_size=BODY_LIMIT)
    handlers = _Handlers(operations)
    app.add_routes(
        [
            web.get("/healthz", handlers.healthz),
            web.get("/readyz", handlers.readyz),
            web.get("/metrics", handlers.metrics),
            web.get("/config", handlers.config),
            web.get("/policies", handlers.policies),
            web.get("/endpoints", handlers.endpoints),
            web.get("/pools", handlers.pools),
            web.get("/instances", handlers.instances),
            web.get("/workers", handlers.workers),
            web.get("/releases", handlers.releases),
            web.get("/drifts", handlers.drifts),
            web.get("/quotas", handlers.quotas),
            web.post("/releases/{name}/{act}", handlers.move_release),
            web.post("/reload", handlers.reload),
            web.post("/explain", handlers.explain),
            web.delete("/cache", handlers.purge),
        ]
    )
    if local is not None:
        app.add_routes(RegistryRoutes(local, operations.now, ttl).table())
    return app


class _Handlers:
    """One method per path."""

    def __init__(self, operations: Operations) -> None:
        self._runtime = operations
        self._was_ready = False

    async def healthz(self, request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def readyz(self, request: web.Request) -> web.Response:
        """Ready once every pool was: one model that dies later must not take the gateway from all others."""
        reasons = views.not_ready(self._runtime.snapshot, self._runtime.now())
        self._was_ready = self._was_ready or not reasons
        if self._runtime.draining:
            return _json({"ready": False, "reasons": ["the gateway is stopping", *reasons]}, status=503)
        lacking = self._runtime.lacking()
        if lacking or not self._was_ready:
            return _json({"ready": False, "reasons": [*lacking, *reasons]}, status=503)
        return _json({"ready": True, "troubles": reasons} if reasons else {"ready": True})

    async def metrics(self, request: web.Request) -> web.Response:
        text = await asyncio.to_thread(await self._runtime.scrape())
        return web.Response(body=text, headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})

    async def config(self, request: web.Request) -> web.Response:
        snapshot = self._runtime.snapshot
        shown = {
            "version": snapshot.version,
            "digest": snapshot.digest,
            "endpoints": [views.endpoint(one) for one in snapshot.endpoints.values()],
            "pools": [views.pool(one, self._runtime.now()) for one in snapshot.pools.values()],
            "registry": views.registry(self._runtime.registry_status()),
            "last_reload": dict(self._runtime.last_reload()),
        }
        return _json(shown, headers={"ETag": f'"{snapshot.digest}"'})

    async def policies(self, request: web.Request) -> web.Response:
        return _json({"digest": self._runtime.snapshot.digest, "listing": self._runtime.listing()})

    async def endpoints(self, request: web.Request) -> web.Response:
        return _json([views.endpoint(one) for one in self._runtime.snapshot.endpoints.values()])

    async def pools(self, request: web.Request) -> web.Response:
        now = self._runtime.now()
        return _json([views.pool(one, now) for one in self._runtime.snapshot.pools.values()])

    async def instances(self, request: web.Request) -> web.Response:
        return _json(await self._runtime.instances())

    async def workers(self, request: web.Request) -> web.Response:
        return _json(self._runtime.workers())

    async def releases(self, request: web.Request) -> web.Response:
        return _json(self._runtime.releases())

    async def drifts(self, request: web.Request) -> web.Response:
        return _json(self._runtime.drifts())

    async def quotas(self, request: web.Request) -> web.Response:
        unknown = request.query.keys() - {"who", "most"}
        most = request.query.get("most", "20")
        if unknown or not re.fullmatch("[0-9]{1,5}", most):
            return problem(400, "unknown_question", "expected ?who=NAME and ?most=NUMBER, or neither")
        return _json(await self._runtime.quotas_left(request.query.get("who", ""), int(most)))

    async def move_release(self, request: web.Request) -> web.Response:
        name, act = request.match_info["name"], request.match_info["act"]
        if act not in ("promote", "rollback", "pause", "resume"):
            return problem(404, "unknown_act", f"expected promote, rollback, pause or resume, found '{act}'")
        try:
            return _json(self._runtime.move_release(name, act))
        except KeyError as error:
            return problem(404, "unknown_release", str(error.args[0]))
        except Impossible as error:
            return problem(409, "impossible", f"release '{name}' can't do that: {error}")

    async def reload(self, request: web.Request) -> web.Response:
        wanted = request.headers.get("If-Match")
        if wanted is not None and not _matches(wanted, self._runtime.snapshot.digest):
            return problem(412, "changed_meanwhile", "other policies run by now than If-Match names")
        result = await self._runtime.reload()
        return _json(result, status=200 if result.get("ok") else 422)

    async def purge(self, request: web.Request) -> web.Response:
        chosen = [(name, value) for name, value in request.query.items() if name in _PURGED_BY]
        if len(chosen) > 1 or len(chosen) < len(request.query):
            known = ", ".join(_PURGED_BY)
            return problem(400, "unknown_purge", f"expected nothing, for all answers, or one of {known}")
        if not chosen:
            return _json({"purged": await self._runtime.purge(None)})
        ((name, value),) = chosen
        if name == "endpoint" and value not in self._runtime.snapshot.endpoints:
            return problem(404, "unknown_endpoint", f"there is no endpoint '{value}'")
        if name == "key" and not re.fullmatch("[0-9a-f]{32}", value):
            return problem(400, "unknown_purge", "a key is 32 hex digits, as explain shows it")
        return _json({"purged": await self._runtime.purge(f"{name}:{value}")})

    async def explain(self, request: web.Request) -> web.Response:
        try:
            asked = orjson.loads(await request.read())
        except orjson.JSONDecodeError:
            asked = None
        match asked:
            case {"url": str(url), **rest}:
                method, headers, body = (
                    rest.get("method", "GET"),
                    rest.get("headers", {}),
                    rest.get("body", ""),
                )
                if isinstance(method, str) and isinstance(body, str) and _are_fields(headers):
                    return _json(await self._runtime.explain(method, url, headers, body.encode()))
        return problem(400, "malformed", 'expected {"method": "…", "url": "…", "headers": {…}, "body": "…"}')


def _matches(field: str, digest: str) -> bool:
    """Tell whether an If-Match field names this entity tag (RFC 9110 §13.1.1)."""
    tags = [tag.strip().removeprefix("W/").strip('"') for tag in field.split(",")]
    return field.strip() == "*" or digest in tags


def _are_fields(headers: object) -> TypeGuard[dict[str, str]]:
    return isinstance(headers, dict) and all(isinstance(value, str) for value in headers.values())


def _json(value: object, *, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    body = orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE, default=str)
    return web.Response(body=body, status=status, content_type="application/json", headers=headers)
