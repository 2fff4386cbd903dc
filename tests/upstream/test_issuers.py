from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import aiohttp
import orjson
import pytest
from aiohttp import web
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from gateway.config.schema import IssuerConfig
from gateway.pipeline.ports import StoreUnavailable
from gateway.pipeline.promise import Eventual, Promise
from gateway.upstream.issuers import (
    COOL_DOWN,
    LIMIT,
    REFRESH,
    RETRY,
    Issuers,
    Jwks,
    UnusableKeySet,
    read_key_set,
)
from tests.fakes.clock import ManualClock
from tests.fakes.issuer import private_key


def jwk(name: str, kid: str | None = None, **more: object) -> dict[str, object]:
    """Return a public key as its issuer publishes it."""
    public = private_key(name).public_key()
    kinds = {
        "rsa": RSAAlgorithm,
        "weak": RSAAlgorithm,
        "p256": ECAlgorithm,
        "p384": ECAlgorithm,
        "ed": OKPAlgorithm,
    }
    made: dict[str, object] = kinds[name.split("-")[0]].to_jwk(public, as_dict=True)
    made.pop("key_ops", None)
    return {**made, **({} if kid is None else {"kid": kid}), **more}


def key_set(*keys: object) -> bytes:
    return orjson.dumps({"keys": list(keys)})


# Reading a key set


def test_usable_keys_are_read_in_order() -> None:
    keys = read_key_set(
        key_set(jwk("rsa", "r", use="sig", alg="RS256"), jwk("p256", "e"), jwk("ed", "o", alg="Ed25519"))
    )
    assert [(key.kid, key.algorithm) for key in keys] == [("r", "RS256"), ("e", None), ("o", "EdDSA")]
    assert keys[0].public == private_key("rsa").public_key()


@pytest.mark.parametrize(
    "bad",
    [
        pytest.param(jwk("rsa", "x", use="enc"), id="for encryption"),
        pytest.param(jwk("rsa", "x", key_ops=["encrypt"]), id="for other operations"),
        pytest.param(RSAAlgorithm.to_jwk(private_key("rsa"), as_dict=True), id="a private key"),
        pytest.param({"kty": "oct", "k": "c2VjcmV0", "kid": "x"}, id="a secret"),
        pytest.param(jwk("weak", "x"), id="too weak"),
        pytest.param({"kty": "OKP", "crv": "X25519", "x": "A" * 43}, id="for key agreement"),
        pytest.param({"kty": "RSA", "kid": "x"}, id="no modulus"),
        pytest.param({"kty": "RSA", "n": 5, "e": "AQAB"}, id="modulus a number"),
        pytest.param({"kty": "RSA", "n": "AQ", "e": "AA"}, id="exponent zero"),
        pytest.param({**jwk("p256"), "y": "AA"}, id="not on the curve"),
        pytest.param({**jwk("p256"), "crv": "P-999"}, id="unknown curve"),
        pytest.param({"kty": ["RSA"]}, id="type a list"),
        pytest.param(jwk("rsa", alg=7), id="algorithm a number"),
        pytest.param({**jwk("rsa"), "kid": 7}, id="kid a number"),
        pytest.param("RSA", id="a text"),
    ],
)
def test_a_key_that_cannot_be_used_is_skipped(bad: object) -> None:
    assert [key.kid for key in read_key_set(key_set(bad, jwk("ed", "good")))] == ["good"]
    with pytest.raises(UnusableKeySet):
        read_key_set(key_set(bad))


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"[]", b"{}", b'{"keys": {}}', b'{"keys": []}', b'{"keys": [1, null]}']
)
def test_what_is_no_key_set_is_refused(body: bytes) -> None:
    with pytest.raises(UnusableKeySet):
        read_key_set(body)


# A real issuer


class Issuer:
    """A real HTTP server that publishes what it is told to, and counts."""

    def __init__(self) -> None:
        self.body = key_set(jwk("rsa", "r"), jwk("ed", "o"))
        self.status = 200
        self.headers: dict[str, str] = {}
        self.asked: list[str] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.url = ""

    async def answer(self, request: web.Request) -> web.Response:
        self.asked.append(request.path)
        await self.gate.wait()
        answer = web.Response(status=self.status, body=self.body, headers=self.headers)
        answer.enable_compression()  # where the client takes it
        return answer


@pytest.fixture
async def issuer() -> AsyncIterator[Issuer]:
    server = Issuer()
    app = web.Application()
    app.router.add_get("/{path:.*}", server.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    server.url = f"http://{host}:{port}/jwks.json"
    yield server
    server.gate.set()
    await runner.cleanup()


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as client:
        yield client


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def jwks(issuer: Issuer, session: aiohttp.ClientSession, clock: ManualClock) -> AsyncIterator[Jwks]:
    source = Jwks("corp", issuer.url, lambda: session, clock.now)
    yield source
    await source.close()


async def later(value: Eventual[object | None]) -> object | None:
    """Wait for a key; raises what the promise was rejected with."""
    if not isinstance(value, Promise):
        return value
    future: asyncio.Future[object | None] = asyncio.get_running_loop().create_future()
    value.then(future.set_result, future.set_exception)
    return await asyncio.wait_for(future, 10)


async def settle(jwks: Jwks) -> None:
    """Wait for the fetch under way."""
    assert jwks._task is not None
    await asyncio.wait((jwks._task,))


async def test_the_first_question_waits_for_the_fetch(jwks: Jwks, issuer: Issuer) -> None:
    asked = jwks.key("r", "RS256")
    assert isinstance(asked, Promise)

    assert await later(asked) == private_key("rsa").public_key()
    assert not isinstance(jwks.key("r", "RS256"), Promise)
    assert len(issuer.asked) == 1


async def test_keys_fetched_beforehand_are_there_at_once(jwks: Jwks, issuer: Issuer) -> None:
    await jwks.warm()
    assert jwks.key("o", "EdDSA") == private_key("ed").public_key()


async def test_everyone_who_asks_meanwhile_shares_one_fetch(jwks: Jwks, issuer: Issuer) -> None:
    issuer.gate.clear()
    asked = [jwks.key("r", "RS256") for _ in range(50)] + [jwks.key("x", "RS256")]
    issuer.gate.set()

    found = [await later(one) for one in asked]
    assert found == [private_key("rsa").public_key()] * 50 + [None]
    assert len(issuer.asked) == 1


@pytest.mark.parametrize(
    ("kid", "algorithm"),
    [
        pytest.param("r", "ES256", id="key of another type"),
        pytest.param("o", "RS256", id="the other way round"),
        pytest.param("r", "HS256", id="no algorithm of public keys"),
    ],
)
async def test_a_known_key_that_does_not_fit_asks_nobody(
    jwks: Jwks, issuer: Issuer, kid: str, algorithm: str
) -> None:
    await jwks.warm()
    jwks._tried = -1000.0
    assert jwks.key(kid, algorithm) is None
    assert len(issuer.asked) == 1


async def test_a_key_is_for_the_algorithm_that_its_issuer_says(jwks: Jwks, issuer: Issuer) -> None:
    issuer.body = key_set(jwk("rsa", "r", alg="PS256"))
    await jwks.warm()
    assert jwks.key("r", "RS256") is None
    assert jwks.key("r", "PS256") is not None


async def test_without_a_kid_only_the_only_fitting_key_is_meant(jwks: Jwks, issuer: Issuer) -> None:
    await jwks.warm()
    assert jwks.key(None, "RS256") == private_key("rsa").public_key()

    issuer.body = key_set(jwk("rsa", "r"), jwk("rsa-other", "s"))
    await jwks.warm()
    assert await later(jwks.key(None, "RS256")) is None


async def test_a_flood_of_made_up_key_ids_costs_one_fetch_per_cool_down(
    jwks: Jwks, issuer: Issuer, clock: ManualClock
) -> None:
    await jwks.warm()
    for number in range(1000):
        clock.advance(0.03)  # 30 s in all
        assert await later(jwks.key(f"made-up-{number}", "RS256")) is None
    assert 3 <= len(issuer.asked) <= 4


async def test_a_rotated_key_is_found_after_the_cool_down(
    jwks: Jwks, issuer: Issuer, clock: ManualClock
) -> None:
    await jwks.warm()
    issuer.body = key_set(jwk("rsa-other", "new"))
    assert jwks.key("new", "RS256") is None

    clock.advance(COOL_DOWN)
    assert await later(jwks.key("new", "RS256")) == private_key("rsa-other").public_key()
    clock.advance(COOL_DOWN)
    assert await later(jwks.key("r", "RS256")) is None  # what the issuer withdrew is gone


async def test_old_keys_are_refreshed_behind_the_answer(
    jwks: Jwks, issuer: Issuer, clock: ManualClock
) -> None:
    await jwks.warm()
    clock.advance(REFRESH)
    issuer.body = key_set(jwk("rsa-other", "r"))

    assert jwks.key("r", "RS256") == private_key("rsa").public_key()
    await settle(jwks)
    assert jwks.key("r", "RS256") == private_key("rsa-other").public_key()
    assert len(issuer.asked) == 2


@pytest.mark.parametrize("trouble", ["error", "html", "empty", "huge", "redirect", "gone"])
async def test_the_last_good_keys_go_on_while_the_issuer_is_in_trouble(
    jwks: Jwks, issuer: Issuer, clock: ManualClock, trouble: str, caplog: pytest.LogCaptureFixture
) -> None:
    await jwks.warm()
    match trouble:
        case "error":
            issuer.status = 500
        case "html":
            issuer.body = b"<html>"
        case "empty":
            issuer.body = key_set()
        case "huge":
            issuer.body = key_set(jwk("rsa-other", "r")) + b" " * LIMIT
        case "redirect":
            issuer.status, issuer.headers = 302, {"location": "/elsewhere"}
        case "gone":
            jwks._url = "http://127.0.0.1:1/"
    clock.advance(REFRESH)

    assert jwks.key("r", "RS256") is not None
    await settle(jwks)
    assert jwks.key("r", "RS256") == private_key("rsa").public_key()
    assert "/elsewhere" not in issuer.asked
    assert "issuer corp" in caplog.text


async def test_an_unknown_key_is_no_forgery_while_the_issuer_is_away(
    jwks: Jwks, issuer: Issuer, clock: ManualClock
) -> None:
    await jwks.warm()
    issuer.status = 503
    clock.advance(COOL_DOWN)
    for _ in range(20):
        with pytest.raises(StoreUnavailable):
            await later(jwks.key("new", "RS256"))
    assert len(issuer.asked) == 2


async def test_an_issuer_that_never_answered_is_unavailable_and_asked_once_a_second(
    jwks: Jwks, issuer: Issuer, clock: ManualClock
) -> None:
    issuer.status = 500
    for _ in range(20):
        with pytest.raises(StoreUnavailable, match="corp"):
            await later(jwks.key("r", "RS256"))
    assert len(issuer.asked) == 1

    issuer.status = 200
    clock.advance(RETRY)
    assert await later(jwks.key("r", "RS256")) is not None


async def test_closing_gives_up_the_fetch(jwks: Jwks, issuer: Issuer) -> None:
    issuer.gate.clear()
    asked = jwks.key("r", "RS256")
    await asyncio.sleep(0)
    await jwks.close()

    with pytest.raises(StoreUnavailable):
        await later(asked)


async def test_keys_are_asked_for_uncompressed(issuer: Issuer, clock: ManualClock) -> None:
    async with aiohttp.ClientSession(auto_decompress=False) as plain:
        jwks = Jwks("corp", issuer.url, lambda: plain, clock.now)
        assert await later(jwks.key("r", "RS256")) is not None
        await jwks.close()


# All issuers of a configuration


def corp(jwks: str, name: str = "corp") -> IssuerConfig:
    return IssuerConfig(name=name, issuer="https://id.example", audiences=("gateway",), jwks=jwks)


async def test_an_unchanged_issuer_keeps_its_keys_over_a_reload(
    issuer: Issuer, session: aiohttp.ClientSession, clock: ManualClock
) -> None:
    issuers = Issuers(lambda: session, clock.now)
    first = issuers.follow([corp(issuer.url), corp("gone.json", "old")])
    await issuers.warm()

    second = issuers.follow([replace(corp(issuer.url), audiences=("other",)), corp(issuer.url, "new")])
    assert second.keys() == {"corp", "new"}
    assert second["corp"] is first["corp"]
    assert not isinstance(second["corp"].key("r", "RS256"), Promise)

    third = issuers.follow([corp(issuer.url + "?v=2")])
    assert third["corp"] is not first["corp"]
    assert first["corp"].key("r", "RS256") is not None  # for requests that began before the reload
    await issuers.close()


# A file, and where keys must not come from


async def test_keys_come_from_a_file_of_the_policy_folder(tmp_path: Path, clock: ManualClock) -> None:
    (tmp_path / "keys.json").write_bytes(key_set(jwk("p256", "e")))

    def nobody() -> aiohttp.ClientSession:
        pytest.fail("a file needs no HTTP client")

    jwks = Jwks("corp", "keys.json", nobody, clock.now, folder=tmp_path)
    assert await later(jwks.key("e", "ES256")) == private_key("p256").public_key()
    await jwks.close()


async def test_a_missing_file_is_an_issuer_that_is_away(tmp_path: Path, clock: ManualClock) -> None:
    jwks = Jwks("corp", "keys.json", lambda: pytest.fail("no"), clock.now, folder=tmp_path)
    with pytest.raises(StoreUnavailable):
        await later(jwks.key("e", "ES256"))
    assert repr(jwks) == "<Jwks corp | 0 keys, failed>"
    await jwks.close()


@pytest.mark.parametrize(
    "source",
    [
        "http://id.example/jwks.json",
        "ftp://id.example/keys",
        "http://127.0.0.1.evil.example/",
        "file:///etc/keys",
    ],
)
def test_keys_are_not_taken_over_lines_that_anybody_may_change(source: str) -> None:
    with pytest.raises(ValueError, match="https"):
        Jwks("corp", source, lambda: pytest.fail("no"), ManualClock().now)
