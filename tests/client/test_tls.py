"""The clients over https, against a whole gateway with a certificate of an authority of one's own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest

from gateway.cli.main import main
from gateway.client.aio import AsyncClient
from gateway.client.errors import Unreachable
from gateway.client.sync import Client
from tests.fakes.certificates import Authority
from tests.runtime.running import BASE, backend, kserve, model_page, running

X = np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], np.float32)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
async def url(tmp_path: Path, authority: Authority) -> AsyncIterator[str]:
    pair = authority.server("localhost", "127.0.0.1")
    base = f"{BASE}listen: {{http: {{tls: {{{pair.yaml()}}}}}}}\n"
    folder = tmp_path / "policies"
    folder.mkdir()
    async with backend() as instance:
        instance.handler = kserve
        async with running(folder, model_page(instance.port), base) as gateway:
            yield "https://{}:{}".format(*gateway.worker.http_address)


async def ask(kind: str, url: str, dialect: str, ca: str) -> list[int]:
    if kind == "aio":
        async with AsyncClient(url, dialect=dialect, ca=ca, timeout=5.0, retries=0) as client:
            return (await client.predict("m", X))["y"].tolist()

    def plainly() -> list[int]:
        with Client(url, dialect=dialect, ca=ca, timeout=5.0, retries=0) as client:
            return client.predict("m", X)["y"].tolist()

    return await asyncio.to_thread(plainly)


@pytest.mark.parametrize("dialect", ["kserve-v2", "kserve-v2-grpc"])
@pytest.mark.parametrize("kind", ["sync", "aio"])
async def test_an_authority_of_ones_own_is_believed_and_no_other(
    kind: str, dialect: str, url: str, authority: Authority, tmp_path: Path
) -> None:
    assert await ask(kind, url, dialect, str(authority.file)) == [3]
    stranger = Authority(tmp_path, "stranger")
    for ca in (str(stranger.file), ""):
        with pytest.raises(Unreachable):
            await ask(kind, url, dialect, ca)


@pytest.mark.parametrize("kind", ["sync", "aio"])
async def test_what_is_no_authority_is_told_before_anything_is_asked(kind: str, tmp_path: Path) -> None:
    (tmp_path / "text.pem").write_text("hello")
    for file, why in (("none.pem", "No such file"), ("text.pem", "expected a PEM file")):
        for dialect in ("kserve-v2", "kserve-v2-grpc"):
            with pytest.raises(ValueError, match=f"{file}: {why}"):
                await ask(kind, "https://127.0.0.1:1", dialect, str(tmp_path / file))


async def test_predict_takes_the_file_too(
    url: str, authority: Authority, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "x.npy", X)
    typed = ["predict", "m", "--input", str(tmp_path / "x.npy"), "--url", url]
    assert await asyncio.to_thread(main, [*typed, "--ca", str(authority.file), "--json"]) == 0
    assert capsys.readouterr().out == '{"y": [3]}\n'
    assert await asyncio.to_thread(main, [*typed, "--ca", str(tmp_path / "x.npy")]) == 2
    assert "expected a PEM file" in capsys.readouterr().err
    assert await asyncio.to_thread(main, [*typed, "--timeout", "3"]) == 3
    assert "certificate verify failed" in capsys.readouterr().err.lower()
