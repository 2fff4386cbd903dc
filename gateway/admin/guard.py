"""Who may use the admin API: open paths for anyone, the rest for a token's holder or for this machine.

A browser on an operator's machine must not be a way in: a request whose Host is not one of ours (DNS
rebinding) or whose Origin is another site's (cross-site request forgery) is refused, whatever else it
brings.
"""

from __future__ import annotations

import hmac
import logging
from ipaddress import ip_address

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from gateway.config.secret import Secret

OPEN = frozenset({"/healthz", "/readyz", "/metrics"})
LOCAL_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})

log = logging.getLogger("headgate.admin")


class Guard:
    """The check before every handler. token None: only loopback may ask."""

    def __init__(self, host: str, token: Secret | None) -> None:
        self._names = LOCAL_NAMES | {host}
        self._token = token

    @property
    def middleware(self) -> Middleware:
        """The check as aiohttp wants it."""

        @web.middleware
        async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
            refused = None if request.path in OPEN else self.refuse(request)
            return refused if refused is not None else await _answer(request, handler)

        return check

    def refuse(self, request: web.Request) -> web.Response | None:
        """Return why this request may not pass, or None."""
        if not self._known_host(request):
            return problem(403, "unknown_host", "the Host field names none of this gateway's names")
        if not self._same_site(request):
            return problem(403, "cross_origin", "requests of other sites are not taken")
        if self._token is not None:
            scheme, _, presented = request.headers.get("Authorization", "").partition(" ")
            expected = self._token.reveal().encode()
            token = presented.strip().encode("utf-8", "surrogateescape")  # as aiohttp decodes odd bytes
            if scheme.lower() != "bearer" or not hmac.compare_digest(token, expected):
                response = problem(401, "admin_token", "a bearer token is needed here")
                response.headers["WWW-Authenticate"] = 'Bearer realm="headgate admin"'
                return response
        elif not _is_loopback(request.remote):
            return problem(403, "not_loopback", "without listen.admin.token only this machine may ask")
        return None

    def _known_host(self, request: web.Request) -> bool:
        if self._token is not None:  # a rebound name brings no token
            return True
        host = request.host
        name = host[1 : host.find("]")] if host.startswith("[") else host.partition(":")[0]
        return name.lower() in self._names

    @staticmethod
    def _same_site(request: web.Request) -> bool:
        origin = request.headers.get("Origin")
        if origin is None:
            return request.headers.get("Sec-Fetch-Site", "none") in ("none", "same-origin")
        return origin.partition("://")[2] == request.host


async def _answer(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Run the handler; what aiohttp refuses (404, 405, 413) and bugs of ours read as all errors here do."""
    try:
        return await handler(request)
    except web.HTTPException as refused:
        code = refused.reason.lower().replace(" ", "_")
        response = problem(refused.status, code, refused.reason)
        if "Allow" in refused.headers:
            response.headers["Allow"] = refused.headers["Allow"]
        return response
    except Exception:  # the operator finds the stack in the log; whoever asked gets none
        log.exception("bug while answering %s %s", request.method, request.path)
        return problem(500, "internal", "the gateway failed to answer this; its log says why")


def _is_loopback(remote: str | None) -> bool:
    try:
        return remote is not None and ip_address(remote.partition("%")[0]).is_loopback
    except ValueError:
        return False


def problem(status: int, code: str, detail: str, **more: object) -> web.Response:
    """Answer an error as RFC 9457 has it, with our stable code."""
    body = {"type": f"urn:headgate:{code}", "status": status, "code": code, "detail": detail, **more}
    return web.json_response(
        body, status=status, content_type="application/problem+json", headers={"Cache-Control": "no-store"}
    )
