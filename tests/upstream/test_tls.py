"""Connections to instances over TLS: verified, or refused with a reason."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest

from gateway.config.pem_file import read_pem_file
from gateway.http.message import Request, Response
from gateway.pipeline.errors import GatewayError, UpstreamReset, UpstreamTlsError
from gateway.pipeline.pool_verbs import Tls
from gateway.server.timers import SweptTimers
from gateway.upstream.upstream import HttpUpstream
from tests.fakes.certificates import Authority, Pair
from tests.fakes.relay import Address

HEAD = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n"


class Sink:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.done: asyncio.Future[Response | GatewayError] = asyncio.get_running_loop().create_future()
        self.response: Response | None = None
        self.body = b""

    def on_ready(self) -> None:
        pass

    def on_interim(self, response: Response) -> None:
        pass

    def on_response(self, response: Response) -> None:
        self.response = response
        if response.body is not None:
            self.body = response.body
            self.done.set_result(response)

    def on_chunk(self, data: bytes, last: bool) -> None:
        self.body += data
        if last:
            assert self.response is not None
            self.done.set_result(self.response)

    def on_error(self, error: GatewayError) -> None:
        self.done.set_result(error)

    def on_writable(self, ready: bool) -> None:
        pass


class Backend:
    """A TLS server that answers each request with what it is told to; `sni`: the names it was asked for."""

    def __init__(self, answer: bytes, ends: str = "") -> None:
        self.answer = answer
        self.ends = ends
        self.connections = 0
        self.peers: list[object] = []
        self.sni: list[str | None] = []

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.peers.append(writer.get_extra_info("peercert"))
        try:
            while True:
                await reader.readuntil(b"\r\n\r\n")
                writer.write(self.answer)
                await writer.drain()
                if self.ends:
                    break
            if self.ends == "cut":
                await asyncio.sleep(0.05)
                writer.transport.abort()
            else:
                writer.close()
                await writer.wait_closed()
        except (asyncio.IncompleteReadError, ConnectionError, ssl.SSLError):
            writer.close()


@asynccontextmanager
async def serving(backend: Backend, pair: Pair, clients: Authority | None = None) -> AsyncIterator[int]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.cert, pair.key)
    context.sni_callback = lambda connection, name, _: backend.sni.append(name)
    if clients is not None:
        context.load_verify_locations(clients.file)
        context.verify_mode = ssl.CERT_REQUIRED
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
    server = await asyncio.start_server(backend.handle, "127.0.0.1", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await asyncio.sleep(0.01)


@asynccontextmanager
async def upstream() -> AsyncIterator[HttpUpstream]:
    loop = asyncio.get_running_loop()
    timers = SweptTimers(loop)
    made = HttpUpstream(loop, timers)
    try:
        yield made
    finally:
        made.close()
        timers.close()
        await asyncio.sleep(0.01)


async def ask(through: HttpUpstream, port: int, tls: Tls | None, host: str = "127.0.0.1") -> Sink:
    sink = Sink()
    request = Request(b"GET", b"/", [], body=b"")
    instance = Address(host, port, b"instance", tls)
    through.send(instance, request, asyncio.get_running_loop().time() + 5.0, sink)
    async with asyncio.timeout(5):
        await sink.done
    return sink


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("instances"))


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("strangers"))


async def test_a_verified_connection_is_kept_alive(authority: Authority) -> None:
    backend = Backend(HEAD + b"ok")
    async with serving(backend, authority.server("127.0.0.1")) as port, upstream() as through:
        for _ in range(3):
            assert (await ask(through, port, Tls(ca=authority.pem))).body == b"ok"
        assert backend.connections == 1
        assert [(one.active, one.idle) for one in through.counts()] == [(0, 1)]


async def test_the_name_that_is_expected_is_asked_for(authority: Authority) -> None:
    backend = Backend(HEAD + b"ok")
    pair = authority.server("models.internal")
    async with serving(backend, pair) as port, upstream() as through:
        tls = Tls(ca=authority.pem, server_name="models.internal")
        assert (await ask(through, port, tls)).body == b"ok"
        assert backend.sni == ["models.internal"]


async def test_connections_of_other_settings_are_never_shared(authority: Authority) -> None:
    backend = Backend(HEAD + b"ok")
    pair = authority.server("127.0.0.1", "models.internal")
    async with serving(backend, pair) as port, upstream() as through:
        await ask(through, port, Tls(ca=authority.pem))
        await ask(through, port, Tls(ca=authority.pem, server_name="models.internal"))
        assert backend.connections == 2
        await ask(through, port, Tls(ca=authority.pem))
        assert backend.connections == 2


async def test_our_own_certificate_is_shown(authority: Authority, stranger: Authority) -> None:
    backend = Backend(HEAD + b"ok")
    pair = authority.server("127.0.0.1")
    ours = Tls(authority.pem, "", *stranger.client("gateway").files)
    async with serving(backend, pair, clients=stranger) as port, upstream() as through:
        assert (await ask(through, port, ours)).body == b"ok"
        (peer,) = backend.peers
        assert isinstance(peer, dict)
        assert ((("commonName", "gateway"),)) in peer["subject"]
        refused = await ask(through, port, Tls(ca=authority.pem))
        assert isinstance(refused.done.result(), GatewayError)


@pytest.mark.parametrize("kind", ["another name", "expired", "unknown authority", "no TLS"])
async def test_an_instance_that_is_not_trusted_gets_no_request(
    authority: Authority, stranger: Authority, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    backend = Backend(HEAD + b"ok")
    pair = {
        "another name": authority.server("models.internal"),
        "expired": authority.server("127.0.0.1", file="expired", ends=timedelta(seconds=-1)),
        "unknown authority": stranger.server("127.0.0.1"),
        "no TLS": authority.server("127.0.0.1", file="unused"),
    }[kind]
    caplog.set_level(logging.WARNING, "headgate.upstream")
    async with upstream() as through:
        if kind == "no TLS":
            server = await asyncio.start_server(_speak_plainly, "127.0.0.1", 0)
            sinks = [await ask(through, server.sockets[0].getsockname()[1], Tls(ca=authority.pem))]
            server.close()
        else:
            async with serving(backend, pair) as port:
                sinks = [await ask(through, port, Tls(ca=authority.pem)) for _ in range(3)]
    for sink in sinks:
        error = sink.done.result()
        assert isinstance(error, UpstreamTlsError)
        assert (error.status, error.code) == (502, "upstream_tls")
    assert backend.peers == []
    assert len(caplog.records) == 1, "one line, however many were refused"


async def _speak_plainly(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    writer.close()


async def test_verify_false_believes_anybody(stranger: Authority) -> None:
    backend = Backend(HEAD + b"ok")
    async with serving(backend, stranger.server("x.test")) as port, upstream() as through:
        assert (await ask(through, port, Tls(verify=False))).body == b"ok"


@pytest.mark.parametrize(("ends", "whole"), [("close_notify", True), ("cut", False)])
async def test_an_answer_without_length_is_whole_only_where_the_instance_says_so(
    authority: Authority, ends: str, whole: bool
) -> None:
    backend = Backend(b"HTTP/1.1 200 OK\r\n\r\nhello", ends)
    async with serving(backend, authority.server("127.0.0.1")) as port, upstream() as through:
        sink = await ask(through, port, Tls(ca=authority.pem))
        assert sink.body == b"hello"
        assert isinstance(sink.done.result(), Response) is whole
        assert isinstance(sink.done.result(), UpstreamReset) is not whole


def test_a_renewed_file_is_another_setting(authority: Authority) -> None:
    before = Tls(ca=authority.pem)
    with authority.file.open("ab") as file:
        file.write(b"\n")
    assert Tls(ca=read_pem_file(authority.folder, authority.file.name)) != before
