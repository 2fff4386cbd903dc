"""The example of docs/tls.md is served as it stands: with certificates, addresses of its own, and clients."""

from __future__ import annotations

import json
import shutil
import ssl
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from gateway.runtime.policies import read
from gateway.runtime.serve import overrule
from gateway.runtime.worker import Worker
from tests.fakes.certificates import Authority, Pair

EXAMPLE = Path(__file__).parents[2] / "policies" / "examples" / "tls"


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """One authority for everybody, and the example's files in the folder."""
    folder = tmp_path / "policies"
    shutil.copytree(EXAMPLE, folder)
    (folder / "certificates").mkdir()
    made = Authority(folder / "certificates")
    made.server("localhost", "127.0.0.1", file="gateway")
    made.server("*.models.example", file="models")
    made.client("gateway", file="gateway-client")
    for name in ("clients-ca", "instances-ca"):
        shutil.copy(made.file, folder / "certificates" / f"{name}.pem")
    return made


async def test_the_example_does_what_its_page_says(authority: Authority) -> None:
    seen: list[tuple[str, object]] = []

    async def answer(request: web.Request) -> web.Response:
        assert request.transport is not None
        certificate = request.transport.get_extra_info("peercert")
        seen.append((request.headers["x-headgate-principal"], certificate["subject"][-1]))
        return web.json_response({"ok": True})

    app = web.Application()
    app.router.add_get("/models/{name}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=_strict(authority)).start()
    folder = authority.folder.parent
    page = (
        (folder / "gateway.yaml").read_text().replace("127.0.0.1:9443", f"127.0.0.1:{runner.addresses[0][1]}")
    )
    (folder / "gateway.yaml").write_text(page)
    loaded = read(folder)
    assert loaded.schema is not None, loaded.report()
    worker = Worker(folder, loaded, overrule(loaded.schema, "127.0.0.1:0", "127.0.0.1:0", None, "off"))
    await worker.start()
    try:
        assert await _ask(worker, authority, authority.client("billing")) == (200, None)
        assert await _ask(worker, authority, authority.client("x", "spiffe://acme/reports")) == (200, None)
        assert await _ask(worker, authority, authority.client("mallory")) == (401, "unknown_certificate")
        assert await _ask(worker, authority, None) == (401, "missing_credentials")
    finally:
        await worker.stop()
        await runner.cleanup()
    assert seen == [("billing", (("commonName", "gateway"),)), ("reports", (("commonName", "gateway"),))]


async def _ask(worker: Worker, authority: Authority, pair: Pair | None) -> tuple[int, str | None]:
    url = f"https://127.0.0.1:{worker.http_address[1]}/models/digits"
    async with (
        aiohttp.ClientSession() as session,
        session.get(url, ssl=authority.trusting(pair)) as answer,
    ):
        return answer.status, json.loads(await answer.read()).get("code")


def _strict(authority: Authority) -> ssl.SSLContext:
    """An instance that asks for the gateway's certificate."""
    pair = authority.server("models.internal")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.cert, pair.key)
    context.load_verify_locations(authority.file)
    context.verify_mode = ssl.CERT_REQUIRED
    return context
