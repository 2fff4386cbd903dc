"""TLS as clients meet it: versions, names, protocols, certificates of their own, and all that goes wrong."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta

import pytest

from gateway.config.schema import Certificate, ListenTls
from gateway.http.message import Request, Response
from gateway.pipeline.errors import GatewayError
from gateway.pipeline.ports import Downstream, Peer
from gateway.server.listener import Listener
from gateway.server.settings import ServerSettings
from gateway.server.timers import SweptTimers
from gateway.server.tls import ServerTls, TlsUnusable
from tests.fakes.certificates import DAY, Authority, Pair
from tests.fakes.relay import SystemClock
from tests.fakes.wires import until

REQUEST = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"
LAST = b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n"


class Answering:
    """Answers with what is known of the peer; to a body with its length; to /big with a large body."""

    def __init__(self, request: Request, peer: Peer, down: Downstream) -> None:
        self._request, self._peer, self._down = request, peer, down
        self._size = 0

    def start(self) -> None:
        if self._request.path == b"/big":
            self._down.reply(Response(200, [], b"x" * 1_000_000))
        elif self._request.body is None:
            self._down.proceed()
        else:
            self._answer(len(self._request.body))

    def _answer(self, size: int) -> None:
        peer = self._peer
        names = [] if peer.certificate is None else list(peer.certificate.names)
        told = {"address": peer.address, "scheme": peer.scheme, "names": names, "size": size}
        self._down.reply(Response(200, [], json.dumps(told).encode()))

    def on_body(self, data: bytes, last: bool) -> None:
        self._size += len(data)
        if last:
            self._answer(self._size)

    def on_body_error(self, error: GatewayError) -> None:
        raise error

    def on_writable(self, ready: bool) -> None:
        pass

    def on_client_gone(self) -> None:
        pass

    def crash(self, bug: Exception) -> None:
        raise bug


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Another authority, with the same name as the one that is believed."""
    return Authority(tmp_path_factory.mktemp("stranger"))


@dataclass
class Secure:
    """A listener with TLS, and how to talk to it."""

    listener: Listener
    authority: Authority

    @property
    def port(self) -> int:
        return self.listener.address[1]

    async def connect(
        self, context: ssl.SSLContext | None = None, name: str = "gateway.test"
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        context = context or self.authority.trusting()
        return await asyncio.open_connection("127.0.0.1", self.port, ssl=context, server_hostname=name)

    async def ask(
        self, context: ssl.SSLContext | None = None, name: str = "gateway.test"
    ) -> dict[str, object]:
        reader, writer = await self.connect(context, name)
        try:
            writer.write(LAST)
            answer = await reader.read()
        finally:
            writer.transport.abort()
        assert answer.startswith(b"HTTP/1.1 200"), answer
        told = json.loads(answer.partition(b"\r\n\r\n")[2])
        assert isinstance(told, dict)
        return told

    @property
    def results(self) -> dict[str, int]:
        return dict(self.listener.results)


def settings(pair: Pair, **more: object) -> ListenTls:
    cert, key = pair.files
    return ListenTls(cert, key, **more)  # type: ignore[arg-type]  # keywords of the struct


@asynccontextmanager
async def secure(
    authority: Authority, tls: ListenTls | None = None, limits: ServerSettings | None = None
) -> AsyncIterator[Secure]:
    timers = SweptTimers(asyncio.get_running_loop())
    tls = tls or settings(authority.server("gateway.test"))
    listener = Listener(Answering, timers, SystemClock(), limits, tls=ServerTls(tls, http2=False))
    await listener.start("127.0.0.1", 0)
    try:
        yield Secure(listener, authority)
    finally:
        listener.close()
        timers.close()
        await asyncio.sleep(0.01)


# Versions, names, protocols


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["1.2", "1.3"])
async def test_both_versions_are_spoken(authority: Authority, version: ssl.TLSVersion) -> None:
    async with secure(authority) as gateway:
        context = authority.trusting()
        context.minimum_version = context.maximum_version = version
        told = await gateway.ask(context)
        assert told == {"address": "127.0.0.1", "scheme": "https", "names": [], "size": 0}
        assert gateway.results == {"ok": 1}


async def test_an_older_version_than_the_least_is_refused_with_an_alert(authority: Authority) -> None:
    tls = settings(authority.server("gateway.test"), min_version="1.3")
    async with secure(authority, tls) as gateway:
        context = authority.trusting()
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        with pytest.raises(ssl.SSLError, match="PROTOCOL_VERSION"):
            await gateway.connect(context)
        assert gateway.results == {"no_shared_version": 1}


@pytest.mark.parametrize(
    ("asked", "shown"),
    [
        ("gateway.test", "gateway.test"),
        ("api.test", "api.test"),
        ("API.test", "api.test"),
        ("a.wild.test", "*.wild.test"),
        ("a.b.wild.test", "gateway.test"),
        ("wild.test", "gateway.test"),
        ("unknown.test", "gateway.test"),
    ],
)
async def test_the_name_chooses_the_certificate(authority: Authority, asked: str, shown: str) -> None:
    more = {name: Certificate(*authority.server(name).files) for name in ("api.test", "*.wild.test")}
    async with secure(authority, settings(authority.server("gateway.test"), sni=more)) as gateway:
        context = authority.trusting()
        context.check_hostname = False
        _, writer = await gateway.connect(context, asked)
        certificate = writer.get_extra_info("peercert")
        writer.transport.abort()
        assert certificate["subject"] == ((("commonName", shown),),)


@pytest.mark.parametrize(
    ("http2", "offered", "agreed"),
    [
        (True, ["h2", "http/1.1"], "h2"),
        (True, ["http/1.1"], "http/1.1"),
        (True, [], None),
        (True, ["spdy/3"], None),
        (False, ["h2", "http/1.1"], "http/1.1"),
    ],
)
def test_alpn_prefers_http_2_where_it_is_on(
    authority: Authority, http2: bool, offered: list[str], agreed: str | None
) -> None:
    server = ServerTls(settings(authority.server("gateway.test")), http2)
    context = authority.trusting()
    if offered:
        context.set_alpn_protocols(offered)
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        context.wrap_bio(to_client, to_server, server_hostname="gateway.test"),
        server.open(to_server, to_client),
    ]
    for _ in range(3):
        for end in ends:
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
    assert ends[0].selected_alpn_protocol() == ends[1].selected_alpn_protocol() == agreed


def test_files_that_do_not_fit_are_named(authority: Authority, stranger: Authority) -> None:
    cert, _ = authority.server("gateway.test").files
    _, key = stranger.server("gateway.test").files
    with pytest.raises(TlsUnusable, match=r"gateway\.test\.pem.*KEY_VALUES_MISMATCH"):
        ServerTls(ListenTls(cert, key))


# Traffic


async def test_a_connection_is_kept_alive_and_requests_may_be_pipelined(authority: Authority) -> None:
    async with secure(authority) as gateway:
        reader, writer = await gateway.connect()
        writer.write(REQUEST * 3 + LAST)
        assert (await reader.read()).count(b"HTTP/1.1 200") == 4
        writer.close()
        assert gateway.results == {"ok": 1}


async def test_large_bodies_pass_both_ways(authority: Authority) -> None:
    async with secure(authority) as gateway:
        reader, writer = await gateway.connect()
        size = 3_000_001
        writer.write(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n" % size + b"x" * size)
        assert b'"size": 3000001' in await reader.readuntil(b"}")
        writer.write(b"GET /big HTTP/1.1\r\nhost: a\r\n\r\n")
        await reader.readuntil(b"\r\n\r\n")
        assert len(await reader.readexactly(1_000_000)) == 1_000_000
        writer.close()


async def test_a_request_that_ends_the_stream_is_still_answered(authority: Authority) -> None:
    def talk(port: int) -> bytes:
        with (
            socket.create_connection(("127.0.0.1", port)) as plain,
            authority.trusting().wrap_socket(plain, server_hostname="gateway.test") as secured,
        ):
            secured.sendall(LAST)
            with socket.socket(fileno=os.dup(secured.fileno())) as same:
                same.shutdown(socket.SHUT_WR)
            return secured.recv(4096)

    async with secure(authority) as gateway:
        answer = await asyncio.to_thread(talk, gateway.port)
        assert answer.startswith(b"HTTP/1.1 200")


async def test_bytes_that_are_no_record_end_the_connection_and_nothing_else(authority: Authority) -> None:
    async with secure(authority) as gateway:
        _, writer = await gateway.connect()
        raw = writer.get_extra_info("socket")
        await until(lambda: gateway.listener.connections == 1)
        os.write(raw.fileno(), b"\x17\x03\x03\x00\x05junk!")
        await until(lambda: gateway.listener.connections == 0)
        writer.transport.abort()
        assert gateway.results == {"ok": 1, "broken": 1}
        await gateway.ask()


# Certificates of clients


@pytest.fixture(params=["1.2", "1.3"])
def version(request: pytest.FixtureRequest) -> ssl.TLSVersion:
    return {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}[request.param]


async def test_a_client_is_known_by_its_verified_certificate(
    authority: Authority, version: ssl.TLSVersion
) -> None:
    pair = authority.client("billing", "billing.internal", "spiffe://acme/billing")
    tls = settings(authority.server("gateway.test"), client_ca=authority.pem)
    async with secure(authority, tls) as gateway:
        context = authority.trusting(pair)
        context.maximum_version = version
        assert (await gateway.ask(context))["names"] == [
            "CN=billing,O=Acme,C=DE",
            "CN=billing",
            "DNS:billing.internal",
            "URI:spiffe://acme/billing",
        ]


@pytest.mark.parametrize(
    ("kind", "result"),
    [
        ("none", "no_certificate"),
        ("expired", "bad_certificate"),
        ("other", "bad_certificate"),
        ("server", "bad_certificate"),
    ],
)
async def test_a_bad_client_certificate_gets_an_alert_and_no_connection(
    authority: Authority, stranger: Authority, version: ssl.TLSVersion, kind: str, result: str
) -> None:
    pairs = {
        "none": None,
        "expired": authority.client("late", ends=timedelta(seconds=-1)),
        "other": stranger.client("billing"),
        "server": authority.server("gateway.test", file="a-server"),
    }
    tls = settings(authority.server("gateway.test"), client_ca=authority.pem)
    async with secure(authority, tls) as gateway:
        context = authority.trusting(pairs[kind])
        context.maximum_version = version
        with pytest.raises((ssl.SSLError, AssertionError), match=r"(?i)alert|b''") as caught:
            await gateway.ask(context)
        assert isinstance(caught.value, ssl.SSLError), "the alert did not arrive"
        assert gateway.results == {result: 1}
        assert gateway.listener.connections == 0


async def test_an_optional_certificate_may_be_left_out_but_not_be_wrong(
    authority: Authority, stranger: Authority
) -> None:
    tls = settings(authority.server("gateway.test"), client_ca=authority.pem, client_cert="optional")
    async with secure(authority, tls) as gateway:
        assert (await gateway.ask())["names"] == []
        assert (await gateway.ask(authority.trusting(authority.client("billing"))))["names"] != []
        with pytest.raises(ssl.SSLError):
            await gateway.ask(authority.trusting(stranger.client("billing")))


# What isn't TLS


async def test_plain_http_is_told_so(authority: Authority) -> None:
    async with secure(authority) as gateway:
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        writer.write(REQUEST)
        answer = await reader.read()
        writer.close()
        assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\n")
        assert b'"code": "tls_required"' in answer
        assert gateway.results == {"plain_http": 1}


@pytest.mark.parametrize(
    ("sent", "result"),
    [(b"\x00\x01\x02", "not_tls"), (b"\x16\x03\x01\x00\x05hello", "malformed"), (b"", "left")],
    ids=["junk", "a broken hello", "nothing"],
)
async def test_junk_is_closed_without_a_line_in_the_log(
    authority: Authority, caplog: pytest.LogCaptureFixture, sent: bytes, result: str
) -> None:
    async with secure(authority) as gateway:
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        writer.write(sent)
        writer.write_eof()
        with suppress(ConnectionResetError):
            await reader.read()
        writer.close()
        await until(lambda: gateway.results)
        assert gateway.results == {result: 1}
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


async def test_a_handshake_that_never_ends_is_given_up(authority: Authority) -> None:
    tls = settings(authority.server("gateway.test"), handshake_timeout=0.1)
    async with secure(authority, tls) as gateway:
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        writer.write(b"\x16\x03\x01\x02\x00\x01")
        with suppress(ConnectionResetError):  # a FIN or a reset: both are an end
            assert await reader.read() == b""
        writer.close()
        assert gateway.results == {"timeout": 1}
        assert gateway.listener.handshakes.running == 0


# Bounds


async def test_only_so_many_handshakes_are_under_way_and_the_others_wait(authority: Authority) -> None:
    tls = settings(authority.server("gateway.test"), handshakes=2, handshake_timeout=5.0)
    async with secure(authority, tls) as gateway:
        stalled = [await asyncio.open_connection("127.0.0.1", gateway.port) for _ in range(2)]
        for _, writer in stalled:
            writer.write(b"\x16\x03\x01\x02\x00\x01")
        await until(lambda: gateway.listener.handshakes.running == 2)
        waiting = asyncio.create_task(gateway.ask())
        await until(lambda: gateway.listener.handshakes.waiting == 1)
        assert not waiting.done()
        stalled[0][1].transport.abort()
        assert (await waiting)["scheme"] == "https"
        stalled[1][1].transport.abort()
        await until(lambda: gateway.listener.handshakes.running == 0)


async def test_connections_are_limited_before_their_handshakes(authority: Authority) -> None:
    async with secure(authority, limits=ServerSettings(connections_per_address=2)) as gateway:
        held = [await asyncio.open_connection("127.0.0.1", gateway.port) for _ in range(2)]
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        writer.write(b"\x16")
        with suppress(ConnectionResetError):
            assert await reader.read() == b""
        for _, one in (*held, (reader, writer)):
            one.transport.abort()
        await until(lambda: gateway.results.get("left") == 2)
        assert gateway.results == {"too_many": 1, "left": 2}
        await gateway.ask()


async def test_connections_that_stand_outlive_a_change_of_certificates(
    authority: Authority, stranger: Authority
) -> None:
    async with secure(authority) as gateway:
        reader, writer = await gateway.connect()
        gateway.listener.set_tls(ServerTls(settings(stranger.server("gateway.test")), http2=False))
        with pytest.raises(ssl.SSLCertVerificationError):
            await gateway.ask()
        await gateway.ask(stranger.trusting())
        writer.write(LAST)
        assert (await reader.read()).startswith(b"HTTP/1.1 200")
        writer.close()


async def test_a_drain_lets_a_client_that_is_shaking_hands_have_its_answer(authority: Authority) -> None:
    async with secure(authority) as gateway:
        asked = [asyncio.create_task(gateway.ask()) for _ in range(20)]
        await until(lambda: gateway.listener._arrivals)
        assert await gateway.listener.drain(5.0) == 0
        answers = await asyncio.gather(*asked, return_exceptions=True)
        refused = [one for one in answers if isinstance(one, Exception)]
        assert all(isinstance(one, ConnectionError) for one in refused)
        assert len(refused) < 20
        assert gateway.results == {"ok": 20 - len(refused)}


def test_expiry_is_no_reason_not_to_start(authority: Authority) -> None:
    ServerTls(settings(authority.server("gateway.test", file="expired", ends=-DAY)))
