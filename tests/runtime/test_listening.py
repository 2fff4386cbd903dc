"""TLS, client certificates and the PROXY protocol through a whole gateway, as the policies say."""

from __future__ import annotations

import asyncio
import json
import shutil
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from gateway.config.schema import HttpListen, Listen
from gateway.runtime.listening import fixed
from gateway.runtime.policies import read
from tests.fakes.certificates import Authority, Pair
from tests.runtime.running import Backend, Running, backend, echo_page, running, until, write

CURL = shutil.which("curl")
PLAIN = "log: {access: off}\n"


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    folder = tmp_path / "certificates"
    folder.mkdir()
    return Authority(folder)


@pytest.fixture
def policies(tmp_path: Path) -> Path:
    folder = tmp_path / "policies"
    folder.mkdir()
    return folder


def listening(pair: Pair, more: str = "") -> str:
    return f"{PLAIN}listen: {{http: {{address: '127.0.0.1:0', tls: {{{pair.yaml()}{more}}}}}}}\n"


def where(gateway: Running, path: str) -> str:
    return f"https://127.0.0.1:{gateway.worker.http_address[1]}{path}"


async def get(gateway: Running, path: str, context: ssl.SSLContext, **headers: str) -> tuple[int, object]:
    async with (
        aiohttp.ClientSession() as session,
        session.get(where(gateway, path), ssl=context, headers=headers) as answer,
    ):
        return answer.status, json.loads(await answer.read())


# What `headgate check` says


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "listen:\n  http:\n    tls:\n      cert: nothing.pem\n      key: good.key\n",
            "gateway.yaml:4:13: listen.http.tls.cert: expected a readable PEM file, found",
        ),
        (
            "listen:\n  http:\n    tls:\n      cert: good.pem\n      key: other.key\n",
            "gateway.yaml:3:5: listen.http.tls: expected a certificate and its private key, found",
        ),
        ("listen: {http: {tls: {cert: text.pem, key: good.key}}}", "expected a PEM file (`-----BEGIN …`)"),
        (
            "listen: {http: {tls: {cert: good.pem, key: good.key, client_ca: good.key}}}",
            "expected certificates of authorities, found",
        ),
        (
            "listen: {http: {tls: {cert: good.pem, key: good.key, sni: {'a*.test': {cert: good.pem, "
            "key: good.key}}}}}",
            "expected a host name like api.example.org or *.example.org in sni, found 'a*.test'",
        ),
        (
            "listen: {http: {proxy_protocol: required}}",
            "listen.http.proxy_protocol: expected limits.trusted_proxies for `proxy_protocol: required`",
        ),
        ("listen: {http: 127.0.0.1:80, grpc: 127.0.0.1:80}", "found 127.0.0.1:80 for http and grpc"),
        (
            "pools: {p: {instances: ['127.0.0.1:1'], tls: {cert: good.pem, key: other.key}}}",
            "pools.p.tls: expected a certificate and its private key",
        ),
        ("pools: {p: {instances: ['127.0.0.1:1'], tls: {cert: good.pem}}}", "expected both cert and key"),
        (
            "principals: {p: {certificates: [billing]}}",
            "expected a name in a certificate like CN=billing",
        ),
    ],
)
def test_a_mistake_is_named_with_its_line(authority: Authority, policies: Path, text: str, said: str) -> None:
    for name in ("good", "other"):
        pair = authority.server(f"{name}.test")
        shutil.copy(pair.cert, policies / f"{name}.pem")
        shutil.copy(pair.key, policies / f"{name}.key")
    (policies / "text.pem").write_text("hello")
    write(policies, text, "gateway.yaml")
    assert said in read(policies).report()


def test_files_are_found_from_the_policy_folder_and_watched(authority: Authority, policies: Path) -> None:
    pair = authority.server("gateway.test")
    shutil.copy(pair.cert, policies / "a.pem")
    shutil.copy(pair.key, policies / "a.key")
    write(policies, "listen: {http: {tls: {cert: a.pem, key: a.key}}}", "gateway.yaml")
    loaded = read(policies)
    assert loaded.schema is not None, loaded.report()
    assert set(loaded.references) == {policies / "a.pem", policies / "a.key"}


def test_only_tls_may_change_without_a_restart(authority: Authority) -> None:
    before = Listen()
    other_port = Listen(http=HttpListen(http2=False))
    assert fixed(before, other_port) != other_port
    assert fixed(before, before) == before


# Serving


@pytest.mark.skipif(CURL is None, reason="curl is not installed")
@pytest.mark.parametrize("version", ["1.2", "1.3"])
async def test_curl_is_served(authority: Authority, policies: Path, version: str) -> None:
    base = listening(authority.server("127.0.0.1"))
    async with backend() as behind, running(policies, echo_page(behind.port), base) as gateway:
        assert CURL is not None
        options = [
            "-sS",
            "--http1.1",
            "--cacert",
            str(authority.file),
            f"--tlsv{version}",
            "--tls-max",
            version,
        ]
        process = await asyncio.create_subprocess_exec(
            CURL, *options, where(gateway, "/echo/a"), where(gateway, "/echo/b"),
            stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        output, _ = await process.communicate()
        assert output == b'{"path": "/echo/a"}{"path": "/echo/b"}'
        assert behind.requests[0].headers["x-forwarded-proto"] == "https"
        assert "proto=https" in behind.requests[0].headers["forwarded"]
        text = gateway.worker.metrics().decode()
        assert 'headgate_tls_handshakes_total{listener="http",result="ok"} 1.0' in text


CERTIFIED = """
    authenticate: [certificate, api_key]
principals:
  billing: {tenant: acme, certificates: ["CN=billing,O=Acme,C=DE"], may: {endpoints: [echo]}}
  ops: {certificates: ["URI:spiffe://acme/ops"], may: {endpoints: [echo]}}
"""


async def test_the_upstream_hears_who_showed_a_certificate(authority: Authority, policies: Path) -> None:
    base = listening(authority.server("127.0.0.1"), f", client_ca: {authority.file}, client_cert: optional")
    async with backend() as behind:
        page = echo_page(behind.port).replace("    authenticate: none\n", "").rstrip() + CERTIFIED
        async with running(policies, page, base) as gateway:
            known = authority.trusting(authority.client("billing"))
            status, _ = await get(gateway, "/echo/a", known, **{"x-headgate-principal": "root"})
            assert status == 200
            said = {name.lower(): value for name, value in behind.requests[-1].headers.items()}
            assert [value for name, value in said.items() if "principal" in name] == ["billing"]
            status, _ = await get(
                gateway, "/echo/a", authority.trusting(authority.client("x", "spiffe://acme/ops"))
            )
            assert status == 200
            for context, code in (
                (authority.trusting(authority.client("mallory")), "unknown_certificate"),
                (authority.trusting(), "missing_credentials"),
            ):
                status, answer = await get(gateway, "/echo/a", context)
                assert status == 401
                assert isinstance(answer, dict)
                assert answer["code"] == code


@pytest.mark.skipif(CURL is None, reason="curl is not installed")
async def test_a_certificate_counts_over_http_2_as_well(authority: Authority, policies: Path) -> None:
    base = listening(authority.server("127.0.0.1"), f", client_ca: {authority.file}")
    async with backend() as behind:
        page = echo_page(behind.port).replace("    authenticate: none\n", "").rstrip() + CERTIFIED
        async with running(policies, page, base) as gateway:
            assert CURL is not None
            pair = authority.client("billing")
            options = ["-sS", "--http2", "--cacert", str(authority.file), "--cert", str(pair.cert)]
            process = await asyncio.create_subprocess_exec(
                CURL, *options, "--key", str(pair.key), "-w", " %{http_version}", where(gateway, "/echo/a"),
                stdout=asyncio.subprocess.PIPE,
            )  # fmt: skip
            output, _ = await process.communicate()
            assert output == b'{"path": "/echo/a"} 2'
            assert behind.requests[-1].headers["x-headgate-principal"] == "billing"
            assert behind.requests[-1].headers["x-forwarded-proto"] == "https"


# Renewal


async def hammer(gateway: Running, context: Callable[[], ssl.SSLContext], stop: asyncio.Event) -> int:
    """Ask over ever new connections until told to stop; returns how many answers there were, all good."""
    answers = 0
    while not stop.is_set():
        async with aiohttp.ClientSession() as session:
            for _ in range(3):
                async with session.get(where(gateway, "/echo/a"), ssl=context()) as answer:
                    assert answer.status == 200
                    answers += 1
    return answers


async def test_certificates_are_renewed_under_load_and_no_request_fails(
    authority: Authority, policies: Path
) -> None:
    pair = authority.server("127.0.0.1", file="live")
    trusting = authority.trusting()
    async with (
        backend() as behind,
        running(policies, echo_page(behind.port), listening(pair)) as gateway,
        aiohttp.ClientSession() as kept,
    ):
        stop = asyncio.Event()
        clients = [asyncio.create_task(hammer(gateway, lambda: trusting, stop)) for _ in range(4)]
        renewals = 0
        for _ in range(3):
            before = gateway.worker.policies.reloads
            authority.server(
                "127.0.0.1", file="live"
            )  # written in place: the key first, then the certificate
            await until(lambda seen=before: gateway.worker.policies.reloads > seen)  # type: ignore[misc]
            async with kept.get(where(gateway, "/echo/kept"), ssl=trusting) as answer:
                assert answer.status == 200
            renewals += 1
        stop.set()
        answers = await asyncio.gather(*clients)
        assert renewals == 3
        assert min(answers) > 0


async def test_a_broken_certificate_keeps_the_last_good_one_and_is_reported(
    authority: Authority, policies: Path
) -> None:
    pair = authority.server("127.0.0.1", file="live")
    async with backend() as behind, running(policies, echo_page(behind.port), listening(pair)) as gateway:
        good = pair.cert.read_bytes()
        pair.cert.write_bytes(authority.server("127.0.0.1", file="other").cert.read_bytes())
        await until(lambda: not gateway.worker.policies.report.ok)
        assert any(
            "the key is not this certificate's" in one for one in gateway.worker.policies.report.errors
        )
        assert (await get(gateway, "/echo/a", authority.trusting()))[0] == 200
        pair.cert.write_bytes(good)
        await until(lambda: gateway.worker.policies.report.ok)
        assert gateway.worker.policies.report.notes == ()


async def test_an_authority_that_is_taken_away_lets_nobody_in(
    authority: Authority, policies: Path, tmp_path: Path
) -> None:
    (tmp_path / "clients").mkdir()
    clients = Authority(tmp_path / "clients", "clients")
    base = listening(authority.server("127.0.0.1"), f", client_ca: {clients.file}")
    async with backend() as behind, running(policies, echo_page(behind.port), base) as gateway:
        context = authority.trusting(clients.client("billing"))
        assert (await get(gateway, "/echo/a", context))[0] == 200
        reloads = gateway.worker.policies.reloads
        clients.file.write_bytes(authority.file.read_bytes())
        await until(lambda: gateway.worker.policies.reloads > reloads)
        with pytest.raises(aiohttp.ClientError):
            await get(gateway, "/echo/a", context)


# The way to the instances


@asynccontextmanager
async def tls_backend(pair: Pair) -> AsyncIterator[Backend]:
    made = Backend()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", made.answer)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.cert, pair.key)
    async with TestServer(app, host="127.0.0.1") as server:
        await server.close()
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
        await site.start()
        made.port = runner.addresses[0][1]
        yield made
        await runner.cleanup()


async def test_an_instance_is_asked_and_checked_over_tls(authority: Authority, policies: Path) -> None:
    async with tls_backend(authority.server("models.internal")) as behind:
        tls = f"tls: {{ca: {authority.file}, server_name: models.internal}}"
        page = echo_page(behind.port).replace(
            "]}\n", f"], {tls}, health: {{path: /well, every: 100ms}}}}\n", 1
        )
        async with running(policies, page) as gateway:
            assert await gateway.status("/echo/a") == 200
            await until(lambda: "/well" in behind.paths)
            (instance,) = gateway.worker.snapshot.pools["echo"].members.instances
            assert instance.healthy


async def test_an_instance_that_is_not_trusted_is_a_502_with_a_code(
    authority: Authority, policies: Path
) -> None:
    async with tls_backend(authority.server("models.internal")) as behind:
        page = echo_page(behind.port).replace("]}\n", f"], tls: {{ca: {authority.file}}}, retry: off}}\n", 1)
        async with running(policies, page) as gateway, gateway.http.get("/echo/a") as answer:
            assert answer.status == 502
            assert (await answer.json())["code"] == "upstream_tls"
        assert behind.paths == []


# PROXY protocol


async def test_a_proxied_client_is_the_one_in_the_fields(policies: Path) -> None:
    base = PLAIN + (
        "listen: {http: {address: '127.0.0.1:0', proxy_protocol: required}}\n"
        "limits: {trusted_proxies: [127.0.0.0/8]}\n"
    )
    async with backend() as behind, running(policies, echo_page(behind.port), base) as gateway:
        reader, writer = await asyncio.open_connection(*gateway.worker.http_address)
        writer.write(
            b"PROXY TCP4 192.0.2.7 192.0.2.1 1 2\r\nGET /echo/a HTTP/1.1\r\nhost: a\r\n"
            b"x-forwarded-for: 198.51.100.9\r\nconnection: close\r\n\r\n"
        )
        assert (await reader.read()).startswith(b"HTTP/1.1 200")
        writer.close()
        assert behind.requests[0].headers["x-forwarded-for"] == "192.0.2.7", "the client may not say more"
