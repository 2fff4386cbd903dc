"""WebSockets through the gateway: a real client, a real server, and the policies between them. RFC 6455."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed, ConnectionClosedError, InvalidStatus
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.http11 import Request, Response
from websockets.typing import Subprotocol

from tests.fakes.certificates import Authority
from tests.runtime.running import Running, running, until

Handler = Callable[[ServerConnection], Awaitable[None]]
Handshake = Callable[[ServerConnection, Request], Response | None]

PAGE = """
pools:
  chat: {{instances: ['127.0.0.1:{port}']}}
endpoints:
  chat:
    match: /chat/**
    authenticate: none
    send: chat
{verbs}
"""
BASE = "{listen}log: {{access: {log}}}\nlimits: {{tunnel_idle: {idle}, drain: 500ms}}\n"
ALLOWED = "    upgrade: [websocket]\n"


@dataclass
class Stage:
    gateway: Running
    server: Server
    log: Path
    heads: list[Request]

    def url(self, path: str = "/chat/room") -> str:
        host, port = self.gateway.worker.http_address
        return f"ws://{host}:{port}{path}"

    def logged(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in self.log.read_text().splitlines()] if self.log.exists() else []

    @property
    def in_flight(self) -> int:
        return self.gateway.worker.gateway.pressure.in_flight


async def echo(socket: ServerConnection) -> None:
    async for message in socket:
        await socket.send(message)


@asynccontextmanager
async def stage(
    folder: Path,
    handler: Handler = echo,
    *,
    verbs: str = ALLOWED,
    idle: str = "30s",
    handshake: Handshake | None = None,
    subprotocols: list[Subprotocol] | None = None,
    compression: str | None = None,
    listen: str = "",
) -> AsyncIterator[Stage]:
    heads: list[Request] = []

    def seen(socket: ServerConnection, request: Request) -> Response | None:
        heads.append(request)
        return None if handshake is None else handshake(socket, request)

    folder.joinpath("policies").mkdir()
    log = folder / "access.log"
    async with serve(
        handler,
        "127.0.0.1",
        0,
        process_request=seen,
        subprotocols=subprotocols,
        compression=compression,
        max_size=None,
        ping_interval=None,
    ) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        async with running(
            folder / "policies",
            PAGE.format(port=port, verbs=verbs),
            BASE.format(log=log, idle=idle, listen=listen),
        ) as gateway:
            yield Stage(gateway, server, log, heads)


def client(s: Stage, **options: object) -> connect:
    settings: dict[str, object] = {"compression": None, "ping_interval": None, "max_size": None, **options}
    return connect(s.url(), **settings)  # type: ignore[arg-type]


async def test_text_and_binary_messages_come_back(tmp_path: Path) -> None:
    async with stage(tmp_path) as s, client(s) as socket:
        for message in ("hello", "grüße \U0001f44b", b"\x00\xff" * 10, "", b""):
            await socket.send(message)
            assert await socket.recv() == message


async def test_a_fragmented_message_stays_one(tmp_path: Path) -> None:
    async with stage(tmp_path) as s, client(s) as socket:
        await socket.send(["one ", "two ", "three"])
        assert await socket.recv() == "one two three"


async def test_ping_and_pong_pass_both_ways(tmp_path: Path) -> None:
    async def ping(socket: ServerConnection) -> None:
        await (await socket.ping())
        await socket.send("ponged")
        await socket.wait_closed()

    async with stage(tmp_path, ping) as s, client(s) as socket:
        assert await socket.recv() == "ponged"
        async with asyncio.timeout(5):
            await (await socket.ping(b"data"))


@pytest.mark.parametrize(("code", "reason"), [(1000, "bye"), (1001, ""), (3000, "ours"), (4999, "yours")])
async def test_close_codes_of_the_client_reach_the_server(tmp_path: Path, code: int, reason: str) -> None:
    got: list[tuple[int | None, str | None]] = []

    async def wait(socket: ServerConnection) -> None:
        await socket.wait_closed()
        got.append((socket.close_code, socket.close_reason))

    async with stage(tmp_path, wait) as s:
        async with client(s) as socket:
            await socket.close(code, reason)
        await until(lambda: got)
        assert got == [(code, reason)]
        await until(lambda: s.in_flight == 0)


async def test_the_close_code_of_the_server_reaches_the_client(tmp_path: Path) -> None:
    async def leave(socket: ServerConnection) -> None:
        await socket.close(1013, "later")

    async with stage(tmp_path, leave) as s, client(s) as socket:
        with pytest.raises(ConnectionClosed):
            await socket.recv()
        assert (socket.close_code, socket.close_reason) == (1013, "later")


@pytest.mark.parametrize("size", [125, 126, 65535, 65536, 8 << 20])
async def test_messages_of_all_lengths(tmp_path: Path, size: int) -> None:
    async with stage(tmp_path) as s, client(s) as socket:
        message = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
        sent = asyncio.ensure_future(socket.send(message))
        assert await socket.recv() == message
        await sent


async def test_many_messages_keep_their_order(tmp_path: Path) -> None:
    async with stage(tmp_path) as s, client(s) as socket:

        async def send() -> None:
            for number in range(2000):
                await socket.send(str(number))

        sending = asyncio.ensure_future(send())
        assert [await socket.recv() for _ in range(2000)] == [str(number) for number in range(2000)]
        await sending


async def test_a_subprotocol_is_agreed_on_end_to_end(tmp_path: Path) -> None:
    async with (
        stage(tmp_path, subprotocols=[Subprotocol("b"), Subprotocol("c")]) as s,
        client(s, subprotocols=[Subprotocol("a"), Subprotocol("b")]) as socket,
    ):
        assert socket.subprotocol == "b"


async def test_extensions_are_agreed_on_end_to_end(tmp_path: Path) -> None:
    async with (
        stage(tmp_path, compression="deflate") as s,
        client(s, compression="deflate") as socket,
    ):
        assert [type(one) for one in socket.protocol.extensions] == [PerMessageDeflate]
        await socket.send("a" * 100_000)
        assert await socket.recv() == "a" * 100_000


async def test_the_instance_sees_who_asks_and_nothing_of_this_hop(tmp_path: Path) -> None:
    async with stage(tmp_path) as s, client(s, additional_headers={"X-Headgate-Principal": "me"}) as socket:
        headers = s.heads[0].headers
        assert (headers["connection"], headers["upgrade"]) == ("upgrade", "websocket")
        assert headers["x-forwarded-for"] == "127.0.0.1"
        assert headers["via"] == "1.1 headgate"
        assert "x-headgate-principal" not in headers
        assert socket.response is not None
        assert socket.response.headers["x-request-id"] == headers["x-request-id"]


async def test_without_the_verb_nobody_is_asked_to_change_the_protocol(tmp_path: Path) -> None:
    async with stage(tmp_path, verbs="") as s:
        with pytest.raises(InvalidStatus) as refused:
            await client(s)
        assert refused.value.response.status_code == 426  # what the server says to a request without Upgrade
        assert not {"upgrade", "connection"} & set(s.heads[0].headers)
        assert s.in_flight == 0


async def test_the_handshake_is_signed_in_like_any_request(tmp_path: Path) -> None:
    verbs = ALLOWED + "    throttle: 1/h\n"
    async with stage(tmp_path, verbs=verbs) as s:
        async with client(s):
            with pytest.raises(InvalidStatus) as refused:
                await client(s)
            assert refused.value.response.status_code == 429
            assert "retry-after" in refused.value.response.headers
        assert len(s.heads) == 1


async def test_who_is_unknown_gets_no_tunnel(tmp_path: Path) -> None:
    verbs = ALLOWED.replace("    upgrade", "    allow: [192.0.2.0/24]\n    upgrade")
    async with stage(tmp_path, verbs=verbs) as s:
        with pytest.raises(InvalidStatus) as refused:
            await client(s)
        assert refused.value.response.status_code == 403
        assert s.heads == []


async def test_a_server_that_declines_gives_an_answer_like_any_other(tmp_path: Path) -> None:
    def decline(socket: ServerConnection, request: Request) -> Response:
        return socket.respond(HTTPStatus.FORBIDDEN, "not you")

    async with stage(tmp_path, handshake=decline) as s:
        with pytest.raises(InvalidStatus) as refused:
            await client(s)
        assert refused.value.response.status_code == 403
        assert refused.value.response.body == b"not you"
        await until(lambda: s.in_flight == 0)


async def test_a_server_that_dies_ends_the_tunnel(tmp_path: Path) -> None:
    async def die(socket: ServerConnection) -> None:
        await socket.send("last words")
        await asyncio.sleep(0.05)
        socket.transport.abort()

    async with stage(tmp_path, die) as s, client(s) as socket:
        assert await socket.recv() == "last words"
        async with asyncio.timeout(5):
            with pytest.raises(ConnectionClosedError):
                await socket.recv()
        await until(lambda: s.in_flight == 0)
        assert s.gateway.worker.gateway.tunnels.open == 0


async def test_a_client_that_vanishes_ends_the_tunnel(tmp_path: Path) -> None:
    ended = asyncio.Event()

    async def wait(socket: ServerConnection) -> None:
        await socket.wait_closed()
        ended.set()

    async with stage(tmp_path, wait) as s:
        socket = await client(s)
        socket.transport.abort()
        async with asyncio.timeout(5):
            await ended.wait()
        await until(lambda: s.in_flight == 0)
        await socket.wait_closed()


async def test_silence_ends_a_tunnel_and_a_ping_keeps_it(tmp_path: Path) -> None:
    async with stage(tmp_path, idle="400ms") as s:
        async with client(s) as quiet, client(s) as busy:
            for _ in range(8):
                await asyncio.sleep(0.1)
                await (await busy.ping())
            await busy.send("still here")
            assert await busy.recv() == "still here"
            async with asyncio.timeout(5):
                with pytest.raises(ConnectionClosedError):
                    await quiet.recv()
        await until(lambda: len(s.logged()) == 2)
        assert sorted(str(line.get("reason")) for line in s.logged()) == ["None", "upstream_timeout"]


async def test_a_tunnel_outlives_the_timeout_of_requests(tmp_path: Path) -> None:
    async with stage(tmp_path, verbs=ALLOWED + "    timeout: 1s\n") as s, client(s) as socket:
        await asyncio.sleep(1.3)
        await socket.send("late")
        assert await socket.recv() == "late"


async def test_the_timeout_holds_for_the_handshake(tmp_path: Path) -> None:
    async def never(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    silent = await asyncio.start_server(never, "127.0.0.1", 0)
    port = silent.sockets[0].getsockname()[1]
    page = PAGE.format(port=port, verbs=ALLOWED + "    timeout: 200ms\n")
    async with silent, running(tmp_path, page) as gateway:
        host, at = gateway.worker.http_address
        with pytest.raises(InvalidStatus) as refused:
            await connect(f"ws://{host}:{at}/chat/room")
        assert refused.value.response.status_code == 504


async def test_slow_readers_hold_back_fast_writers(tmp_path: Path) -> None:
    written = 0

    async def flood(socket: ServerConnection) -> None:
        nonlocal written
        for _ in range(4000):
            await socket.send(b"x" * 16384)
            written += 1
        await socket.wait_closed()

    async with stage(tmp_path, flood) as s, client(s, max_queue=2) as socket:
        await asyncio.sleep(0.5)
        held = written
        assert held < 1500  # of 4000: kernels' buffers, and 64 KiB here
        for _ in range(4000):
            await socket.recv()
        assert written == 4000


async def test_the_log_has_one_line_at_the_end_with_the_bytes_of_each_way(tmp_path: Path) -> None:
    async with stage(tmp_path) as s:
        async with client(s) as socket:
            await socket.send("x" * 1000)
            await socket.recv()
            assert s.gateway.worker.gateway.tunnels.open == 1
            assert s.in_flight == 1
            assert s.logged() == []
        await until(s.logged)
        (line,) = s.logged()
        assert (line["status"], line["endpoint"], line["pool"]) == (101, "chat", "chat")
        # frames: 4 or 8 bytes of head, 2 of a close code; only the client masks
        assert line["bytes_in"] == 1000 + 8 + 8
        assert line["bytes_out"] == 1000 + 4 + 4
        assert s.gateway.worker.gateway.tunnels.open == 0


async def test_shutdown_gives_tunnels_their_grace_and_closes_them(tmp_path: Path) -> None:
    async with stage(tmp_path) as s:
        socket: ClientConnection = await client(s)
        stopping = asyncio.ensure_future(s.gateway.worker.stop())
        await asyncio.sleep(0.2)
        await socket.send("within the grace")
        assert await socket.recv() == "within the grace"
        async with asyncio.timeout(5):
            with pytest.raises(ConnectionClosed):
                await socket.recv()
            assert await stopping == 1
        assert s.in_flight == 0


async def test_a_tunnel_through_tls_ends_as_one_without(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    pair = authority.server("127.0.0.1")
    listen = f"listen: {{http: {{address: '127.0.0.1:0', tls: {{{pair.yaml()}}}}}}}\n"
    async with stage(tmp_path, listen=listen) as s:
        url = s.url().replace("ws://", "wss://")
        async with connect(url, ssl=authority.trusting(), ping_interval=None, max_size=None) as socket:
            message = b"x" * (1 << 20)
            sent = asyncio.ensure_future(socket.send(message))
            assert await socket.recv() == message
            await sent
        assert socket.close_code == 1000
        await until(lambda: s.in_flight == 0)
        await until(s.logged)
        assert s.logged()[0]["status"] == 101


async def test_a_server_that_wants_an_upgrade_says_which_to_the_client(tmp_path: Path) -> None:
    """RFC 9110 §15.5.22: a 426 must name the protocols, though Upgrade is a field of one hop."""
    async with stage(tmp_path) as s:
        reader, writer = await asyncio.open_connection(*s.gateway.worker.http_address)
        writer.write(b"GET /chat/room HTTP/1.1\r\nHost: a\r\n\r\n")
        head = (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)).lower()
        assert head.startswith(b"http/1.1 426 ")
        assert b"\r\nupgrade: websocket\r\n" in head
        assert b"\r\nconnection: upgrade" in head
        writer.close()
