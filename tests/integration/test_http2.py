"""HTTP/2 through a whole gateway: other people's clients, ALPN, HTTP/2 on both sides, and the end."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from aiohttp import web

from tests.fakes.certificates import Authority
from tests.fakes.http2_client import GOAWAY, HEADERS, Http2Client, request
from tests.runtime.running import BASE, Running, backend, echo_page, running, until

pytestmark = pytest.mark.timeout(60)


async def run(*command: str, stdin: bytes | None = None) -> tuple[int, str]:
    """Run another program beside the gateway; returns its exit code and what it said."""
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed")
    process = await asyncio.create_subprocess_exec(
        *command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    said, _ = await process.communicate(stdin)
    assert process.returncode is not None
    return process.returncode, said.decode(errors="replace")


def url(gateway: Running, path: str, scheme: str = "http") -> str:
    return "{}://{}:{}{}".format(scheme, *gateway.worker.http_address, path)


@pytest.mark.service("curl")
async def test_curl_speaks_http2_by_prior_knowledge(tmp_path):
    async with backend() as instance, running(tmp_path, echo_page(instance.port)) as gateway:
        code, said = await run("curl", "-si", "--http2-prior-knowledge", url(gateway, "/echo/a%7Eb?x=1"))
        assert code == 0
        assert said.startswith("HTTP/2 200")
        assert instance.paths == ["/echo/a~b"]
        assert instance.requests[0].headers["via"] == "2 headgate"


@pytest.mark.service("curl")
async def test_curl_uploads_and_downloads_over_http2(tmp_path):
    async def back(request: web.Request) -> web.StreamResponse:
        return web.Response(body=await request.read())

    async with backend() as instance, running(tmp_path, echo_page(instance.port)) as gateway:
        instance.handler = back
        data = bytes(range(256)) * 4096
        (tmp_path / "up").write_bytes(data)
        options = ["-s", "--http2-prior-knowledge", "--data-binary", f"@{tmp_path / 'up'}", "-o"]
        code, said = await run("curl", *options, str(tmp_path / "down"), url(gateway, "/echo/"))
        assert (code, said) == (0, "")
        assert (tmp_path / "down").read_bytes() == data


@pytest.mark.service("curl")
@pytest.mark.parametrize(("offer", "spoken"), [("--http2", "2"), ("--http1.1", "1.1")])
async def test_tls_agrees_on_the_protocol_by_alpn(tmp_path, offer, spoken):
    folder = tmp_path / "policies"
    folder.mkdir()
    authority = Authority(tmp_path)
    pair = authority.server("localhost", "127.0.0.1")
    base = BASE + f"listen: {{http: {{tls: {{cert: {pair.cert}, key: {pair.key}}}}}}}\n"
    async with backend() as instance, running(folder, echo_page(instance.port), base) as gateway:
        told = ["-s", "-o", "/dev/null", "-w", "%{http_version} %{http_code}", offer, "--cacert"]
        code, said = await run("curl", *told, str(authority.file), url(gateway, "/echo/", "https"))
        assert (code, said) == (0, f"{spoken} 200")


async def test_http2_can_be_turned_off(tmp_path):
    base = BASE + "listen: {http: {address: 127.0.0.1:0, http2: false}}\n"
    async with backend() as instance, running(tmp_path, echo_page(instance.port), base) as gateway:
        client = await Http2Client.connect(gateway.worker.http_address)
        said = await asyncio.wait_for(client.reader.read(), 5)
        assert said.startswith(b"HTTP/1.1 400 ")
        client.close()


async def test_instances_may_be_spoken_to_in_http2(tmp_path):
    """A gateway before a gateway: HTTP/2 between the two, HTTP/1 at either end."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    async with backend() as instance, running(tmp_path / "b", echo_page(instance.port)) as inner:
        page = echo_page(inner.worker.http_address[1]).replace("}\nendpoints", ", http2: true}\nendpoints")
        async with running(tmp_path / "a", page) as outer:
            for _ in range(3):
                assert await outer.status("/echo/x") == 200
            async with outer.http.post("/echo/", data=bytes(300_000)) as answer:
                assert answer.status == 200
        assert instance.requests[0].headers.getall("via") == ["1.1 headgate", "2 headgate"]


@pytest.mark.service("h2load")
async def test_h2load_finds_nothing_wrong(tmp_path):
    async with backend() as instance, running(tmp_path, echo_page(instance.port)) as gateway:
        code, said = await run("h2load", "-n", "600", "-c", "4", "-m", "50", url(gateway, "/echo/"))
        assert code == 0, said
        assert "600 succeeded, 0 failed, 0 errored, 0 timeout" in said


@pytest.mark.service("h2load")
async def test_nghttp_reads_trailers_and_fetches_many(tmp_path):
    async with backend() as instance, running(tmp_path, echo_page(instance.port)) as gateway:
        targets = [url(gateway, f"/echo/{number}") for number in range(20)]
        code, said = await run("nghttp", "-v", *targets)
        assert code == 0
        assert said.count(":status: 200") == 20
        assert "GOAWAY frame <length=8, flags=0x00, stream_id=0>" in said


async def test_a_refusal_over_http2_is_as_over_http_1(tmp_path):
    async with backend() as instance, running(tmp_path, echo_page(instance.port)) as gateway:
        client = await Http2Client.connect(gateway.worker.http_address)
        client.send(client.head(1, request(path="/nowhere")))
        assert await client.answer(1) == 404
        fields = dict(client.heads[1][0])
        assert fields["content-type"] == "application/problem+json"
        assert fields["x-headgate-reason"] == "unknown_endpoint"
        assert int(fields["content-length"]) == len(client.bodies[1])
        client.close()


async def test_a_drain_loses_no_request(tmp_path):
    """Clients that send without a pause while the gateway stops: every stream that was begun is answered."""

    async def slowly(request: web.Request) -> web.StreamResponse:
        await asyncio.sleep(0.05)
        return web.Response(text="ok")

    async def client_of(gateway: Running) -> tuple[int, int]:
        """Send on until GOAWAY says which streams count; returns (last that counts, answers)."""
        client = await Http2Client.connect(gateway.worker.http_address)
        answers, stream, last = 0, 1, None
        client.send(client.head(stream, request(path="/echo/")))
        while (got := await client.read(10)) is not None:
            if got.kind == GOAWAY:
                last = int.from_bytes(got.payload[:4], "big")
            elif got.kind == HEADERS:
                assert dict(client.heads[got.stream][0])[":status"] == "200"
                answers += 1
                if last is None or last > stream + 2:
                    stream += 2
                    client.send(client.head(stream, request(path="/echo/")))
        client.close()
        assert last is not None
        return sum(1 for number in range(1, stream + 1, 2) if number <= last), answers

    async with backend() as instance, running(tmp_path, echo_page(instance.port)) as gateway:
        instance.handler = slowly
        clients = [asyncio.create_task(client_of(gateway)) for _ in range(8)]
        await until(lambda: len(instance.requests) > 20)
        broken = await gateway.worker.stop()
        outcomes = await asyncio.gather(*clients)
    assert broken == 0
    assert all(counted == answered for counted, answered in outcomes)


def test_http2_is_not_loaded_where_nobody_speaks_it(tmp_path: Path):
    program = "import sys, gateway.runtime.worker; sys.exit('h2' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
