"""The HTTP client for questions beside the traffic: metadata, health, keys. Not for requests of clients."""

from __future__ import annotations

import ssl
from typing import TypedDict

import aiohttp

from gateway.pipeline.ports import Destination
from gateway.upstream.tls import ClientTls


def make_session() -> aiohttp.ClientSession:
    """Make the one session of a worker. Answers come as they are: nobody is asked to compress them."""
    return aiohttp.ClientSession(
        auto_decompress=False,
        connector=aiohttp.TCPConnector(limit=64, keepalive_timeout=15),
        headers={"Accept-Encoding": "identity", "User-Agent": "headgate"},
    )


class Encrypted(TypedDict, total=False):
    """What aiohttp needs to ask an instance over TLS."""

    ssl: ssl.SSLContext
    server_hostname: str


def address_of(instance: Destination, client_tls: ClientTls) -> tuple[str, Encrypted]:
    """Return `http://host:port` or `https://…` and what goes with it. Raises OSError: files are gone."""
    tls, authority = instance.tls, instance.authority.decode()
    if tls is None:
        return f"http://{authority}", {}
    encrypted: Encrypted = {"ssl": client_tls.context(tls)}
    if tls.server_name:
        encrypted["server_hostname"] = tls.server_name
    return f"https://{authority}", encrypted


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
