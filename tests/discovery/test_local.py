from __future__ import annotations

import time
from itertools import count
from math import inf
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.discovery import local
from gateway.discovery.local import LocalRegistry, RegistryFull
from gateway.discovery.members import AddressRules, Member
from gateway.discovery.snapshot import Snapshot, SnapshotFile
from tests.discovery.watching import eventually, following

A = Member("a", ("127.0.0.1", 9001), version="v1")
B = Member("b", ("127.0.0.1", 9002))


def shown(registry: LocalRegistry) -> set[str]:
    return {entry["id"] for entries in registry.listing(0.0).values() for entry in entries}  # type: ignore[misc]


def test_a_registered_member_is_listed_with_the_time_it_has_left() -> None:
    registry = LocalRegistry()
    registry.register("digits", A, 10.0, 100.0)
    assert registry.listing(103.0) == {
        "digits": [
            {
                "id": "a",
                "address": "127.0.0.1:9001",
                "ttl": 10.0,
                "expires_in": 7.0,
                "weight": 100,
                "protocol": "http",
                "state": "up",
                "version": "v1",
            }
        ]
    }


def test_a_lease_that_is_renewed_stays() -> None:
    registry = LocalRegistry()
    lease = registry.register("digits", A, 10.0, 0.0)
    assert registry.renew(lease, 9.0)
    assert registry.sweep(18.9) == []
    assert registry.next_expiry() == 19.0


def test_a_lease_that_is_not_renewed_is_swept_when_its_time_is_over() -> None:
    registry = LocalRegistry()
    registry.register("digits", A, 10.0, 0.0)
    assert registry.sweep(9.99) == []
    assert [lease.member for lease in registry.sweep(10.0)] == [A]
    assert shown(registry) == set()
    assert registry.next_expiry() == inf


def test_a_lease_that_is_over_cannot_be_renewed_even_before_the_sweep() -> None:
    registry = LocalRegistry()
    lease = registry.register("digits", A, 10.0, 0.0)
    assert not registry.renew(lease, 10.0)


def test_an_unknown_lease_is_neither_renewed_nor_removed() -> None:
    registry = LocalRegistry()
    assert not registry.renew("nobody", 0.0)
    assert not registry.remove("nobody", 0.0)
    assert registry.ttl("nobody") is None


def test_a_removed_member_is_gone_at_once() -> None:
    registry = LocalRegistry()
    lease = registry.register("digits", A, 10.0, 0.0)
    assert registry.remove(lease, 1.0)
    assert shown(registry) == set()


def test_registering_the_same_id_again_replaces_the_entry_and_ends_the_old_lease() -> None:
    registry = LocalRegistry()
    old = registry.register("digits", A, 10.0, 0.0)
    new = registry.register("digits", Member("a", ("127.0.0.1", 9009)), 10.0, 5.0)
    assert not registry.renew(old, 6.0)
    assert registry.renew(new, 6.0)
    assert [entry["address"] for entry in registry.listing(6.0)["digits"]] == ["127.0.0.1:9009"]


def test_the_same_id_in_two_services_is_two_members() -> None:
    registry = LocalRegistry()
    registry.register("digits", A, 10.0, 0.0)
    registry.register("faces", A, 10.0, 0.0)
    assert set(registry.listing(0.0)) == {"digits", "faces"}


@pytest.mark.parametrize(("asked", "given"), [(0.0, 1.0), (10.0, 10.0), (1e9, 3600.0)])
def test_times_to_live_are_clamped(asked: float, given: float) -> None:
    registry = LocalRegistry()
    assert registry.ttl(registry.register("digits", A, asked, 0.0)) == given


def test_a_full_registry_refuses_new_members_but_not_known_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "MAX_LEASES", 1)
    registry = LocalRegistry()
    registry.register("digits", A, 10.0, 0.0)
    registry.register("digits", A, 10.0, 1.0)
    with pytest.raises(RegistryFull):
        registry.register("digits", B, 10.0, 1.0)


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["put", "renew", "remove"]), st.floats(0, 5)))
)
def test_what_is_shown_is_always_exactly_the_leases_that_run(steps: list[tuple[str, str, float]]) -> None:
    numbers = count()
    registry = LocalRegistry(new_id=lambda: str(next(numbers)))
    leases: dict[str, tuple[str, float]] = {}
    now = 0.0
    for name, verb, pause in steps:
        now += pause
        lease, expires = leases.get(name, ("", -inf))
        if verb == "put":
            leases[name] = (registry.register("s", Member(name, ("127.0.0.1", 1)), 4.0, now), now + 4.0)
        elif verb == "renew":
            assert registry.renew(lease, now) == (expires > now)
            leases[name] = (lease, now + 4.0 if expires > now else -inf)
        else:
            assert registry.remove(lease, now) == (expires > now)
            leases[name] = ("", -inf)
        registry.sweep(now)
        assert shown(registry) == {name for name, (_, expires) in leases.items() if expires > now}


# Running


async def test_watchers_follow_and_expired_leases_are_swept_by_the_clock() -> None:
    registry = LocalRegistry()
    async with following(registry) as watcher:
        await watcher.until(set())
        registry.register("digits", A, 1.0, time.monotonic())
        lease = registry.register("digits", B, 60.0, time.monotonic())
        await watcher.until({9001, 9002})
        assert 0.5 < await watcher.until({9002}) < 2.0
        registry.remove(lease, time.monotonic())
        await watcher.until(set())


async def test_a_restarted_gateway_keeps_its_instances_and_their_leases(tmp_path: Path) -> None:
    file = tmp_path / "local.json"
    async with following(LocalRegistry(snapshot=file)) as watcher:
        pass
    first = LocalRegistry(snapshot=file)
    async with following(first) as watcher:
        lease = first.register("digits", A, 30.0, time.monotonic())
        await watcher.until({9001})
    second = LocalRegistry(snapshot=file)
    async with following(second) as watcher:
        await watcher.until({9001})
        assert watcher.seen == [frozenset({A})]
        assert second.renew(lease, time.monotonic())
        assert second.ttl(lease) == 30.0


async def test_leases_are_on_disk_without_a_proper_close(tmp_path: Path) -> None:
    file = tmp_path / "local.json"
    registry = LocalRegistry(snapshot=file)
    async with following(registry):
        registry.register("digits", A, 30.0, time.monotonic())
        await eventually(file.exists)
        snapshot = SnapshotFile(file).load(time.time(), 60.0)
        assert snapshot is not None
        assert set(snapshot.services["digits"]) == {"a"}


async def test_a_snapshot_is_read_by_the_present_address_rules(tmp_path: Path) -> None:
    file = tmp_path / "local.json"
    async with following(LocalRegistry(snapshot=file)):
        pass
    registry = LocalRegistry(snapshot=file)
    await registry.start()
    registry.register("digits", A, 30.0, time.monotonic())
    await registry.close()
    strict = LocalRegistry(snapshot=file, addresses=AddressRules.within("10.0.0.0/8"))
    async with following(strict) as watcher:
        await watcher.until(set())


@pytest.mark.parametrize(
    "content",
    [
        Snapshot(1, "etcd", time.time(), {"digits": {"a": '{"Addr":"127.0.0.1:9001"}'}}),
        Snapshot(1, "local", time.time() - 1e6, {"digits": {"a": '{"Addr":"127.0.0.1:9001"}'}}),
    ],
    ids=["of another registry", "too old"],
)
async def test_a_snapshot_that_does_not_fit_brings_nobody_back(tmp_path: Path, content: Snapshot) -> None:
    file = tmp_path / "local.json"
    SnapshotFile(file).save(content)
    async with following(LocalRegistry(snapshot=file)) as watcher:
        await watcher.until(set())


async def test_a_disk_that_cannot_be_written_is_reported_and_harms_nothing() -> None:
    registry = LocalRegistry(snapshot="/dev/null/local.json")
    async with following(registry) as watcher:
        registry.register("digits", A, 30.0, time.monotonic())
        await watcher.until({9001})
        await eventually(lambda: registry.status().snapshot_error is not None)
        assert registry.status().live
