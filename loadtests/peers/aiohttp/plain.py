"""A proxy as one would write it with aiohttp, its documentation in hand.

    plain.py PORT BACKEND_PORT

One session, bodies streamed both ways, hop-by-hop fields left out. No uvloop, one process.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator

from aiohttp import ClientSession, ClientTimeout, TCPConnector, web
from multidict import CIMultiDict, CIMultiDictProxy

BACKEND = web.AppKey("BACKEND", str)
SESSION = web.AppKey("SESSION", ClientSession)
HOP_BY_HOP = {
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
}


async def forward(request: web.Request) -> web.StreamResponse:
    headers = end_to_end(request.headers)
    headers["X-Forwarded-For"] = request.remote or ""
    headers["X-Forwarded-Proto"] = request.scheme
    headers["X-Forwarded-Host"] = request.host
    async with request.app[SESSION].request(
        request.method,
        request.app[BACKEND] + request.raw_path,
        headers=headers,
        data=request.content if request.can_read_body else None,
        allow_redirects=False,
    ) as upstream:
        response = web.StreamResponse(
            status=upstream.status, reason=upstream.reason, headers=end_to_end(upstream.headers)
        )
        await response.prepare(request)
        async for chunk in upstream.content.iter_any():
            await response.write(chunk)
        await response.write_eof()
        return response


def end_to_end(headers: CIMultiDictProxy[str]) -> CIMultiDict[str]:
    return CIMultiDict((name, value) for name, value in headers.items() if name.lower() not in HOP_BY_HOP)


async def session(app: web.Application) -> AsyncIterator[None]:
    connector = TCPConnector(limit=0)
    async with ClientSession(connector=connector, auto_decompress=False, timeout=ClientTimeout(60)) as app[
        SESSION
    ]:
        yield


def main() -> None:
    port, backend = sys.argv[1:]
    app = web.Application(client_max_size=0)
    app[BACKEND] = f"http://127.0.0.1:{backend}"
    app.cleanup_ctx.append(session)
    app.router.add_route("*", "/{path:.*}", forward)
    web.run_app(app, host="127.0.0.1", port=int(port), access_log=None, print=None, backlog=4096)


if __name__ == "__main__":
    main()
