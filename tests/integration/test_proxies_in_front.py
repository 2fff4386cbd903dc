"""A real HAProxy in front, speaking the PROXY protocol to a port with and without TLS."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.fakes.certificates import Authority
from tests.runtime.running import backend, echo_page, running

HAPROXY = shutil.which("haproxy", path=f"{os.environ.get('PATH', '')}:/usr/sbin")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        port: int = found.getsockname()[1]
        return port


@asynccontextmanager
async def process(port: int, *command: str) -> AsyncIterator[None]:
    """A server that is ready once its port takes connections."""
    running = await asyncio.create_subprocess_exec(*command)
    try:
        async with asyncio.timeout(5):
            while True:
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                    writer.close()
                    break
                except ConnectionRefusedError:
                    await asyncio.sleep(0.02)
        yield
    finally:
        running.terminate()
        await running.wait()


def haproxy(folder: Path, port: int, target: int, send: str) -> tuple[str, ...]:
    (folder / "haproxy.cfg").write_text(
        "defaults\n mode tcp\n timeout connect 2s\n timeout client 5s\n timeout server 5s\n"
        f"listen front\n bind 127.0.0.1:{port}\n server gateway 127.0.0.1:{target} {send}\n"
    )
    assert HAPROXY is not None
    return (HAPROXY, "-q", "-db", "-f", str(folder / "haproxy.cfg"))


@pytest.mark.service("haproxy")
@pytest.mark.skipif(HAPROXY is None, reason="haproxy is not installed")
@pytest.mark.parametrize("encrypted", [False, True], ids=["plain", "TLS"])
@pytest.mark.parametrize("send", ["send-proxy", "send-proxy-v2", "send-proxy-v2-ssl"])
async def test_a_real_proxy_says_who_the_client_is(tmp_path: Path, send: str, encrypted: bool) -> None:
    folder = tmp_path / "policies"
    folder.mkdir()
    authority = Authority(tmp_path)
    tls = f", tls: {{{authority.server('127.0.0.1').yaml()}}}" if encrypted else ""
    base = (
        f"log: {{access: off}}\nlisten: {{http: {{address: '127.0.0.1:0', proxy_protocol: required{tls}}}}}\n"
        "limits: {trusted_proxies: [127.0.0.1]}\n"
    )
    async with backend() as behind, running(folder, echo_page(behind.port), base) as gateway:
        port, target = free_port(), gateway.worker.http_address[1]
        async with process(port, *haproxy(tmp_path, port, target, send)):
            context: ssl.SSLContext | None = authority.trusting() if encrypted else None
            # 127.0.0.2 is this machine, too, but not a trusted proxy: it can only come from the header.
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", port, ssl=context, local_addr=("127.0.0.2", 0)
            )
            writer.write(
                b"GET /echo/a HTTP/1.1\r\nhost: a\r\nx-forwarded-for: 9.9.9.9\r\nconnection: close\r\n\r\n"
            )
            answer = await reader.read()
            writer.close()
    assert answer.startswith(b"HTTP/1.1 200"), answer
    assert behind.requests[0].headers["x-forwarded-for"] == "127.0.0.2"
    assert behind.requests[0].headers["x-forwarded-proto"] == ("https" if encrypted else "http")
