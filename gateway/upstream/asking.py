"""The HTTP client for questions beside the traffic: metadata, health, keys. Not for requests of clients."""

from __future__ import annotations

import aiohttp


def make_session() -> aiohttp.ClientSession:
    """Make the one session of a worker. Answers come as they are: nobody is asked to compress them."""
    return aiohttp.ClientSession(
        auto_decompress=False,
        connector=aiohttp.TCPConnector(limit=64, keepalive_timeout=15),
        headers={"Accept-Encoding": "identity", "User-Agent": "headgate"},
    )


async def read_bounded(response: aiohttp.ClientResponse, limit: int) -> bytes:
    """Return the body, at most its first `limit` bytes: nobody can make us keep more."""
    pieces: list[bytes] = []
    size = 0
    async for piece in response.content.iter_any():
        pieces.append(piece)
        size += len(piece)
        if size >= limit:
            break
    return b"".join(pieces)[:limit]
