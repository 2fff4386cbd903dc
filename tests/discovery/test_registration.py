from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from gateway.discovery.etcd import EtcdSettings
from gateway.discovery.registration import (
    CLOSE_WITHIN,
    Registration,
    RegistryRefused,
    RegistryUnavailable,
    instance_id,
    registry_at,
)
from tests.discovery.watching import eventually
from tests.fakes.admin_registry import AdminRegistry, admin_registry
from tests.services.etcd import EtcdServers, free_port

ADDRESS = "127.0.0.1:9001"


@pytest.fixture
async def gateway() -> AsyncIterator[AdminRegistry]:
    async with admin_registry() as registry:
        yield registry


# In a gateway's registry


async def test_everything_that_is_said_arrives(gateway: AdminRegistry) -> None:
    registration = await Registration.open(
        gateway.url,
        "digits",
        ADDRESS,
        version="v1",
        models=[("digits", "1")],
        labels={"lane": "canary"},
        weight=50,
        wait=True,
    )
    (entry,) = gateway.local.listing(time.monotonic())["digits"]
    assert entry["id"] == registration.id
    assert (entry["address"], entry["version"], entry["weight"]) == (ADDRESS, "v1", 50)
    assert (entry["models"], entry["labels"]) == ([{"name": "digits", "version": "1"}], {"lane": "canary"})
    assert registration.is_registered
    assert repr(registration).endswith("| registered>")
    await registration.close()


async def test_closing_deregisters_at_once_and_may_be_called_twice(gateway: AdminRegistry) -> None:
    registration = await Registration.open(gateway.url, "digits", ADDRESS, wait=True)
    await registration.close()
    await registration.close()
    assert gateway.ids() == []
    assert not registration.is_registered


async def test_the_lease_is_renewed_in_thirds_of_its_time(gateway: AdminRegistry) -> None:
    registration = await Registration.open(gateway.url, "digits", ADDRESS, ttl=1.0, wait=True)
    await eventually(lambda: gateway.calls.count("PUT") >= 4)
    assert gateway.ids() == [registration.id]
    assert gateway.calls.count("POST") == 1
    await registration.close()


async def test_a_lost_lease_is_opened_anew(gateway: AdminRegistry) -> None:
    registration = await Registration.open(gateway.url, "digits", ADDRESS, ttl=1.0, wait=True)
    gateway.local.sweep(time.monotonic() + 100.0)
    assert gateway.ids() == []
    await eventually(lambda: gateway.ids() == [registration.id])
    await registration.close()


async def test_a_registry_that_is_down_does_not_keep_a_server_from_starting() -> None:
    gateway = AdminRegistry()
    gateway.port = free_port()
    begin = time.monotonic()
    registration = await Registration.open(gateway.url, "digits", ADDRESS)
    assert time.monotonic() - begin < 0.5
    await eventually(lambda: registration.reason is not None)
    assert not registration.is_registered
    await gateway.start()
    await eventually(lambda: gateway.ids() == [registration.id])
    assert registration.reason is None
    await registration.close()
    await gateway.stop()


async def test_a_registry_that_restarts_empty_is_told_again(gateway: AdminRegistry) -> None:
    registration = await Registration.open(gateway.url, "digits", ADDRESS, ttl=1.0, wait=True)
    await gateway.stop()
    await eventually(lambda: not registration.is_registered)
    gateway.local = AdminRegistry().local
    await gateway.start()
    await eventually(lambda: gateway.ids() == [registration.id])
    await registration.close()


async def test_closing_while_the_registry_is_down_takes_at_most_a_second(gateway: AdminRegistry) -> None:
    registration = await Registration.open(gateway.url, "digits", ADDRESS, wait=True)
    await gateway.stop()
    begin = time.monotonic()
    await registration.close()
    assert time.monotonic() - begin < CLOSE_WITHIN + 0.3
    assert "lease must run out" in str(registration.reason)


async def test_closing_while_the_registry_hangs_takes_at_most_a_second() -> None:
    called, hung = asyncio.Event(), asyncio.Event()

    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        called.set()
        await hung.wait()
        writer.close()

    server = await asyncio.start_server(hang, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    registration = await Registration.open(f"http://127.0.0.1:{port}", "digits", ADDRESS)
    await called.wait()
    begin = time.monotonic()
    await registration.close()
    assert time.monotonic() - begin < CLOSE_WITHIN + 0.3
    hung.set()
    server.close()
    await server.wait_closed()


async def test_an_update_replaces_the_entry(gateway: AdminRegistry) -> None:
    registration = await Registration.open(gateway.url, "digits", ADDRESS, wait=True)
    await registration.update(state="draining", models=[("digits", "2")])
    (entry,) = gateway.local.listing(0.0)["digits"]
    assert (entry["state"], entry["models"]) == ("draining", [{"name": "digits", "version": "2"}])
    await registration.close()
    assert gateway.ids() == []


async def test_an_update_while_the_registry_is_away_goes_out_later(gateway: AdminRegistry) -> None:
    registration = await Registration.open(gateway.url, "digits", ADDRESS, ttl=1.0, wait=True)
    gateway.fail_with = 503
    await registration.update(weight=7)
    gateway.fail_with = None
    await eventually(lambda: [entry["weight"] for entry in gateway.local.listing(0.0)["digits"]] == [7])
    await registration.close()


async def test_the_token_is_sent_and_a_wrong_one_is_an_error_when_waiting() -> None:
    async with admin_registry(token="right") as gateway:
        registration = await Registration.open(gateway.url, "digits", ADDRESS, token="right", wait=True)
        await registration.close()
        with pytest.raises(RegistryRefused, match="401: a token is needed"):
            await Registration.open(gateway.url, "digits", ADDRESS, token="wrong", wait=True)


@pytest.mark.parametrize("status", [429, 500, 503])
async def test_a_registry_in_trouble_is_unavailable_and_not_a_refusal(
    gateway: AdminRegistry, status: int
) -> None:
    gateway.fail_with = status
    registry = registry_at(gateway.url)
    with pytest.raises(RegistryUnavailable, match=f"{status}: as told") as caught:
        await registry.renew("x")
    assert not isinstance(caught.value, RegistryRefused)
    await registry.close()


# In etcd


@pytest.mark.service("etcd")
async def test_an_etcd_that_was_wiped_is_told_again(etcd: EtcdServers) -> None:
    url = f"etcd://127.0.0.1:{etcd.nodes[0].port}/blue"
    registration = await Registration.open(url, "digits", ADDRESS, ttl=2.0, wait=True)
    key = f"/services/blue/digits/{registration.id}"
    assert etcd.keys("/services/") == {key}
    etcd.nodes[0].kill()
    etcd.restart(wipe=True)
    await asyncio.to_thread(etcd.wait)
    await eventually(lambda: etcd.keys("/services/") == {key})
    await registration.close()
    assert etcd.keys("/services/") == set()


@pytest.mark.service("etcd")
async def test_the_same_lease_goes_on_when_etcd_restarts(etcd: EtcdServers) -> None:
    url = f"etcd://127.0.0.1:{etcd.nodes[0].port}"
    registration = await Registration.open(url, "digits", ADDRESS, ttl=4.0, wait=True)
    lease = registration._lease
    etcd.nodes[0].kill()
    await eventually(lambda: registration.reason is not None)
    etcd.restart()
    await eventually(lambda: registration.reason is None)
    assert registration._lease == lease
    assert len(etcd.keys("/services/")) == 1
    await registration.close()


@pytest.mark.service("etcd")
async def test_a_late_goodbye_of_the_old_process_leaves_the_new_one_alone(etcd: EtcdServers) -> None:
    url = f"etcd://127.0.0.1:{etcd.nodes[0].port}"
    old = await Registration.open(url, "digits", ADDRESS, wait=True)
    new = await Registration.open(url, "digits", ADDRESS, wait=True)
    await old.close()
    assert etcd.keys("/services/") == {f"/services/default/digits/{new.id}"}
    await new.close()


# Mistakes


@pytest.mark.parametrize(
    ("url", "service", "address", "why"),
    [
        ("ftp://127.0.0.1", "digits", ADDRESS, "starts with http"),
        ("http://127.0.0.1:1", "a/b", ADDRESS, "a service is"),
        ("http://127.0.0.1:1", "digits", "9001", "host:port"),
        ("http://127.0.0.1:1", "digits", "0.0.0.0:9001", "where others reach it"),
        ("etcd://u:secret@", "digits", ADDRESS, "expected etcd://"),
        ("etcd://127.0.0.1/a/b", "digits", ADDRESS, "a namespace is"),
    ],
    ids=["scheme", "service", "address", "any address", "no host", "namespace"],
)
async def test_mistakes_are_errors_at_once(url: str, service: str, address: str, why: str) -> None:
    with pytest.raises(ValueError, match=why) as caught:
        await Registration.open(url, service, address)
    assert "secret" not in str(caught.value)


async def test_a_time_to_live_below_a_second_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least 1 s"):
        await Registration.open("http://127.0.0.1:1", "digits", ADDRESS, ttl=0.5)


def test_ids_are_readable_and_new_at_every_start() -> None:
    assert instance_id("10.0.0.5", 8000, "ab12") == "10.0.0.5-8000-ab12"
    assert instance_id("2001:db8::1", 80, "ab12") == "2001.db8..1-80-ab12"


def test_settings_do_not_show_their_password() -> None:
    assert "secret" not in repr(EtcdSettings(user="u", password="secret"))
