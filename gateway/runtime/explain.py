"""`explain`: one request decided by the running exchange, with its record kept and nothing spent or sent.

The same code decides as for real traffic, on the same state: a dry exchange gives back at once what it
takes, joins no flight and stops before the upstream. What it says is therefore what would happen now, not
what a model of it would do.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from gateway.http.message import Headers, Response
from gateway.http.parse import BadRequest, HeadLimits, parse_request
from gateway.pipeline.context import Context
from gateway.pipeline.errors import GatewayError
from gateway.pipeline.exchange import begin
from gateway.pipeline.gateway import Gateway
from gateway.pipeline.ports import Peer

PATIENCE = 5.0  # s: for a signature or a store


class Captured:
    """Implements ports.Downstream: keeps the answer."""

    def __init__(self) -> None:
        self.answered = asyncio.Event()
        self.response: Response | None = None

    def proceed(self) -> None:
        """The body is whole already."""

    def pause_body(self) -> None:
        """There is nothing to pause."""

    def resume_body(self) -> None:
        """There is nothing to resume."""

    def reply(self, response: Response) -> None:
        """Keep it."""
        self.response = response
        self.answered.set()

    def interim(self, response: Response) -> None:
        """Nothing is said before the answer."""

    def upgrade(self, response: Response, protocol: bytes) -> None:
        """Nothing is sent, so nobody agrees to another protocol."""

    def begin(self, response: Response) -> None:
        """Keep its head; a dry exchange streams nothing."""
        self.reply(response)

    def write(self, data: bytes) -> None:
        """Nothing is streamed."""

    def end(self, trailers: Headers | None = None) -> None:
        """Nothing is streamed."""

    def abort(self, error: GatewayError | None = None) -> None:
        """It ended without an answer."""
        self.answered.set()


async def explain(
    gateway: Gateway, method: str, url: str, headers: Mapping[str, str], body: bytes
) -> Mapping[str, object]:
    """Return the record of one request: the endpoint, each decision with its numbers, and the outcome."""
    try:
        request = parse_request(_head(method, url, headers, body), HeadLimits())
    except BadRequest as bad:
        return {
            "method": method,
            "path": url,
            "status": bad.status,
            "reason": bad.code,
            "trail": [],
            "why": str(bad),
        }
    request.body, request.length = body, len(body)
    down = Captured()
    exchange = begin(gateway, request, Peer("127.0.0.1", 0), down)
    exchange.ctx.dry = True
    exchange.ctx.trail = []
    exchange.start()
    try:
        async with asyncio.timeout(PATIENCE):
            await down.answered.wait()
    except TimeoutError:
        exchange.on_client_gone()
    return _told(exchange.ctx, down.response)


def _head(method: str, url: str, headers: Mapping[str, str], body: bytes) -> bytes:
    """Write the head as a client would, so that the same parser judges it."""
    _, separator, rest = url.partition("://")
    host, _, path = rest.partition("/") if separator else ("", "", "")
    target = f"/{path}" if separator else url
    lines = [f"{method} {target} HTTP/1.1"]
    given = {name.lower() for name in headers}
    if "host" not in given:
        lines.append(f"Host: {host or 'localhost'}")
    if body and "content-length" not in given:
        lines.append(f"Content-Length: {len(body)}")
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("utf-8", "replace")


def _told(ctx: Context, response: Response | None) -> dict[str, object]:
    endpoint = ctx.endpoint
    told: dict[str, object] = {
        "method": ctx.request.method.decode("latin-1"),
        "path": ctx.request.path.decode("latin-1"),
        "endpoint": None if endpoint is None else endpoint.name,
        "defined_at": None if endpoint is None else endpoint.origin,
        "filters": [] if endpoint is None else [filter.name for filter in endpoint.chain.filters],
        "principal": None if ctx.principal is None else ctx.principal.name,
        "version": ctx.version or None,
        "status": ctx.status,
        "pool": None if ctx.pool is None else ctx.pool.name,
        "instance": None if ctx.instance is None else ctx.instance.id,
        "cache": ctx.cache_status.decode("latin-1") or None,
        "trail": [
            {
                "filter": decision.filter,
                "verdict": decision.verdict,
                "policy": decision.policy,
                "origin": decision.origin,
                "numbers": dict(decision.numbers),
            }
            for decision in ctx.trail or ()
        ],
    }
    if response is not None:
        reason = response.header(b"x-headgate-reason")
        told["reason"] = None if reason is None else reason.decode("latin-1")
    if ctx.refusal is not None:
        told["why"] = ctx.refusal.message
        if ctx.refusal.retry_after is not None:
            told["passes_if"] = f"sent again in {ctx.refusal.retry_after:.1f} s"
    elif ctx.error is not None:
        told["why"] = str(ctx.error)
    return told
