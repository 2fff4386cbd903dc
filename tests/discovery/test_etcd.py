from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from gateway.discovery.etcd import (
    Compacted,
    EtcdClient,
    EtcdError,
    EtcdSettings,
    EtcdUnreachable,
    TlsFiles,
    parse_etcd_url,
    prefix_end,
)
from tests.services.etcd import EtcdServers, free_port


def at(servers: EtcdServers) -> EtcdSettings:
    return EtcdSettings(servers=servers.urls, timeout=1.0)


# Pure


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("etcd://h", EtcdSettings(("http://h:2379",), timeout=1.0)),
        ("etcd://h:1,g:2/blue", EtcdSettings(("http://h:1", "http://g:2"), "blue", timeout=1.0)),
        ("etcd://u:p%40@h:1", EtcdSettings(("http://h:1",), user="u", password="p@", timeout=1.0)),
        ("etcd://[::1]", EtcdSettings(("http://[::1]:2379",), timeout=1.0)),
        ("etcds://h:1", EtcdSettings(("https://h:1",), tls=TlsFiles(), timeout=1.0)),
        (
            "etcds://h:1?ca=/a&cert=/b&key=/c",
            EtcdSettings(("https://h:1",), tls=TlsFiles("/a", "/b", "/c"), timeout=1.0),
        ),
    ],
    ids=["port", "several", "login", "IPv6", "TLS", "TLS files"],
)
def test_urls_are_read(url: str, expected: EtcdSettings) -> None:
    assert parse_etcd_url(url, timeout=1.0) == expected


@pytest.mark.parametrize("url", ["http://h", "etcd://", "etcd://h,", "etcd://h?what=1", "etcd://h?ca"])
def test_urls_that_make_no_sense_are_errors(url: str) -> None:
    with pytest.raises(ValueError, match=r"etcd|bad query"):
        parse_etcd_url(url)


@given(st.binary(max_size=4), st.binary(max_size=4))
def test_the_end_of_a_prefix_is_above_every_key_with_it_and_no_other(prefix: bytes, suffix: bytes) -> None:
    end = prefix_end(prefix)
    if end != b"\0":
        assert prefix + suffix < end
        assert not (end <= suffix and suffix.startswith(prefix))


# Against a real server


@pytest.mark.service("etcd")
async def test_pages_are_pinned_to_the_revision_of_the_first(etcd: EtcdServers) -> None:
    """While pages are fetched, every key is rewritten: the list still shows one moment."""
    for index in range(10):
        etcd.put(f"/p/{index}", "old")
    async with EtcdClient(at(etcd)) as client:
        call = client._call
        calls = 0

        async def call_while_others_write(path: str, body: dict[str, object]) -> dict[str, object]:
            nonlocal calls
            answer = await call(path, body)
            calls += 1
            for index in range(10):
                await asyncio.to_thread(etcd.put, f"/p/{index}", "new")
            return answer

        client._call = call_while_others_write  # type: ignore[method-assign]
        listing = await client.list_keys("/p/", page=3)
    assert calls == 4
    assert [entry.value for entry in listing.entries] == [b"old"] * 10
    assert listing.revision == max(entry.mod_revision for entry in listing.entries)


@pytest.mark.service("etcd")
async def test_a_put_under_a_lease_lives_as_long_as_the_lease(etcd: EtcdServers) -> None:
    async with EtcdClient(at(etcd)) as client:
        lease = await client.grant(30)
        await client.put("/k", b"v", lease=lease)
        (entry,) = (await client.list_keys("/k")).entries
        assert (entry.value, entry.lease) == (b"v", lease)
        assert await client.keep_alive(lease) == 30
        await client.revoke(lease)
        assert (await client.list_keys("/k")).entries == ()
        assert await client.keep_alive(lease) == 0
        await client.revoke(lease)


@pytest.mark.service("etcd")
async def test_a_key_is_written_once_by_a_transaction(etcd: EtcdServers) -> None:
    async with EtcdClient(at(etcd)) as client:
        assert await client.put_if_absent("/k", b"first")
        assert not await client.put_if_absent("/k", b"second")
        assert await client.delete("/k") == 1
        assert await client.delete("/k") == 0


@pytest.mark.service("etcd")
async def test_the_first_message_of_a_watch_is_no_progress_and_history_follows(etcd: EtcdServers) -> None:
    first = etcd.put("/w/a", "1")
    last = etcd.put("/w/b", "2")
    async with EtcdClient(at(etcd)) as client, aclosing(client.watch("/w/", first)) as messages:
        created = await anext(messages)
        assert (created.created, created.events, created.revision) == (True, (), last)
        history = await anext(messages)
        assert [event.mod_revision for event in history.events] == [first, last]


@pytest.mark.service("etcd")
async def test_a_watch_from_compacted_history_says_so(etcd: EtcdServers) -> None:
    revision = [etcd.put("/w/a", str(index)) for index in range(5)][-1]
    etcd.compact(revision)
    async with EtcdClient(at(etcd)) as client:
        with pytest.raises(Compacted) as caught:
            async for _ in client.watch("/w/", 1):
                pass
    assert caught.value.revision == revision


@pytest.mark.service("etcd")
async def test_a_probe_tells_whether_the_store_is_ahead(etcd: EtcdServers) -> None:
    revision = etcd.put("/w/a", "1")
    etcd.put("/other", "1")
    async with EtcdClient(at(etcd)) as client:
        assert not await client.probe("/w/", revision)
        assert await client.probe("/w/", revision - 1)


@pytest.mark.service("etcd")
async def test_a_dead_server_is_passed_over(etcd: EtcdServers) -> None:
    settings = EtcdSettings(servers=(f"http://127.0.0.1:{free_port()}", *etcd.urls), timeout=1.0)
    async with EtcdClient(settings) as client:
        await client.put("/k", b"v")
        assert client.server == etcd.urls[0]


@pytest.mark.service("etcd")
async def test_a_large_value_arrives_whole_over_the_watch(etcd: EtcdServers) -> None:
    """A message larger than any read of the socket: pieces are joined, lines are not lost."""
    value = "x" * 700_000
    async with EtcdClient(at(etcd)) as client, aclosing(client.watch("/w/", 2)) as messages:
        await anext(messages)
        await asyncio.to_thread(etcd.put, "/w/a", value)
        message = await anext(messages)
        assert message.events[0].value == value.encode()


# Against servers that are not etcd, or not well (fakes: they prove our reading, not etcd's behaviour)


@asynccontextmanager
async def answering(status: int, text: str) -> AsyncIterator[EtcdClient]:
    async def answer(request: web.Request) -> web.Response:
        return web.Response(status=status, text=text)

    app = web.Application()
    app.router.add_route("*", "/{any:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    settings = EtcdSettings(servers=(f"http://127.0.0.1:{runner.addresses[0][1]}",), timeout=1.0)
    try:
        async with EtcdClient(settings) as client:
            yield client
    finally:
        await runner.cleanup()


@pytest.mark.parametrize(
    ("status", "text", "why"),
    [
        (404, "404 page not found", "enable-grpc-gateway: true"),
        (200, "<html>", "not JSON"),
        (200, "[]", "not a JSON object"),
        (200, "{}", "not as etcd does"),
        (502, "bad gateway", "HTTP 502"),
    ],
    ids=["gateway off", "a web page", "a list", "another API", "a proxy"],
)
async def test_what_is_not_etcd_is_named(status: int, text: str, why: str) -> None:
    async with answering(status, text) as client:
        with pytest.raises(EtcdError, match=why):
            await client.list_keys("/services/")
        with pytest.raises(EtcdError):
            async for _ in client.watch("/services/", 1):
                pass


@pytest.mark.parametrize(
    "text",
    [
        '{"header": {}}',
        '{"header": {"revision": "1"}, "kvs": [{}]}',
        '{"header": {"revision": "1", "cluster_id": "1"}, "kvs": [{"key": "%"}]}',
        '{"header": {"revision": "1", "cluster_id": "1"}, "more": true}',
        '{"header": 7}',
    ],
    ids=["no revision", "no key", "no base64", "no kvs", "no header"],
)
async def test_answers_of_another_shape_are_no_answers(text: str) -> None:
    async with answering(200, text) as client:
        with pytest.raises(EtcdUnreachable, match="not as etcd does"):
            await client.list_keys("/services/")


@pytest.mark.parametrize(
    "text", ['{"result": {}}', '{"result": 7}', "{}", '{"result": {"header": {"revision": "x"}}}']
)
async def test_watch_messages_of_another_shape_end_the_watch(text: str) -> None:
    async with answering(200, text + "\n") as client:
        with pytest.raises(EtcdUnreachable):
            async for _ in client.watch("/services/", 1):
                pass


@pytest.mark.parametrize(
    ("code", "message", "is_auth"),
    [
        (16, "etcdserver: invalid auth token", True),
        (3, "etcdserver: revision of auth store is old", True),
        (3, "etcdserver: authentication failed, invalid user ID or password", False),
        (7, "etcdserver: permission denied", False),
    ],
)
def test_which_errors_a_new_sign_in_cures(code: int, message: str, is_auth: bool) -> None:
    assert EtcdError(code, message).is_auth is is_auth


async def test_an_error_of_etcd_keeps_its_code() -> None:
    error = json.dumps(
        {"error": "etcdserver: permission denied", "message": "etcdserver: permission denied", "code": 7}
    )
    async with answering(403, error) as client:
        with pytest.raises(EtcdError, match="permission denied") as caught:
            await client.put("/k", b"v")
    assert caught.value.code == 7
    assert not isinstance(caught.value, EtcdUnreachable)


async def test_when_no_server_answers_the_error_names_the_last() -> None:
    ports = (free_port(), free_port())
    async with EtcdClient(
        EtcdSettings(tuple(f"http://127.0.0.1:{port}" for port in ports), timeout=0.5)
    ) as client:
        with pytest.raises(EtcdUnreachable, match=r"127\.0\.0\.1"):
            await client.put("/k", b"v")


def test_a_client_needs_a_server() -> None:
    with pytest.raises(ValueError, match="at least one server"):
        EtcdClient(EtcdSettings(servers=()))
