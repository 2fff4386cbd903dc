"""Pools that follow a registry, and pools whose instances stand in the YAML."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator

import pytest

from gateway.config.schema import InstanceConfig, PoolConfig
from gateway.config.units import Address
from gateway.discovery.local import LocalRegistry
from gateway.discovery.members import Member, Rejected, member_from_fields
from gateway.pipeline.pool import Pool
from gateway.pipeline.pool_verbs import PoolSettings
from gateway.runtime.membership import Membership, facts_of, fits, written
from tests.fakes.traffic import SeededIds
from tests.runtime.running import until

FOUND = PoolConfig(name="p", find="digits")


def member(id: str, **fields: object) -> Member:
    made = member_from_fields(id, {"address": "127.0.0.1:9001", **fields})
    assert not isinstance(made, Rejected)
    return made


def pool() -> Pool:
    return Pool("p", PoolSettings(), SeededIds())


def ids(of: Pool) -> set[str]:
    return {instance.id for instance in of.members.instances}


class Following:
    """A local registry and the pools that follow it."""

    def __init__(self) -> None:
        self.registry = LocalRegistry()
        self.membership = Membership(self.registry, lambda: 0.0)

    def register(self, id: str, **fields: object) -> str:
        return self.registry.register("digits", member(id, **fields), 3600.0, time.monotonic())


@pytest.fixture
async def following() -> AsyncIterator[Following]:
    made = Following()
    await made.registry.start()
    yield made
    await made.membership.close()
    await made.registry.close()


async def test_a_pool_gets_who_registers_and_loses_who_leaves(following: Following) -> None:
    one = pool()
    following.membership.follow([(one, FOUND)])
    lease = following.register("a")
    following.register("b")
    await until(lambda: ids(one) == {"a", "b"})
    following.registry.remove(lease, time.monotonic())
    await until(lambda: ids(one) == {"b"})


async def test_a_pool_of_one_version_gets_that_version_alone(following: Following) -> None:
    one = pool()
    following.membership.follow([(one, PoolConfig(name="p", find="digits", version="v2"))])
    following.register("a", version="v1")
    following.register("b", version="v2")
    following.register("c")
    await until(lambda: ids(one))
    assert ids(one) == {"b"}


async def test_an_instance_that_stays_keeps_what_is_known_of_it(following: Following) -> None:
    one = pool()
    following.membership.follow([(one, FOUND)])
    following.register("a")
    await until(lambda: ids(one) == {"a"})
    (kept,) = one.members.instances
    following.register("b")
    await until(lambda: ids(one) == {"a", "b"})
    assert kept in one.members.instances


async def test_a_kept_pool_keeps_its_task_and_a_new_pool_of_that_name_gets_its_own(
    following: Following,
) -> None:
    one, other = pool(), pool()
    following.register("a")
    following.membership.follow([(one, FOUND)])
    task = following.membership._tasks["p"][1]
    following.membership.follow([(one, FOUND)])
    assert following.membership._tasks["p"][1] is task
    following.membership.follow([(other, FOUND)])
    await until(lambda: ids(other) == {"a"})
    assert task.cancelled()


async def test_a_pool_that_left_the_policies_is_followed_no_more(following: Following) -> None:
    one = pool()
    following.membership.follow([(one, FOUND)])
    task = following.membership._tasks["p"][1]
    following.membership.follow([])
    await until(task.done)
    assert following.membership._tasks == {}


async def test_written_instances_are_there_at_once_and_change_with_the_page() -> None:
    one, membership = pool(), Membership(None, lambda: 0.0)
    for port in (9001, 9002):
        config = PoolConfig(name="p", instances=(InstanceConfig(Address("127.0.0.1", port)),))
        membership.follow([(one, config)])
        assert ids(one) == {f"127.0.0.1:{port}"}
    await membership.close()


async def test_without_a_registry_a_pool_to_be_found_stays_empty() -> None:
    one, membership = pool(), Membership(None, lambda: 0.0)
    membership.follow([(one, FOUND)])
    assert (ids(one), membership._tasks) == (set(), {})
    await membership.close()


def test_weights_in_yaml_are_shares_of_a_full_instance() -> None:
    config = PoolConfig(
        name="p",
        instances=(
            InstanceConfig(Address("h", 1)),
            InstanceConfig(Address("h", 2), weight=0.25, zone="eu-1a"),
            InstanceConfig(Address("h", 3), weight=0.0),
        ),
    )
    assert [(facts.weight, facts.zone) for facts in written(config)] == [(100, ""), (25, "eu-1a"), (0, "")]


def test_a_members_facts_are_what_it_registered() -> None:
    facts = facts_of(member("a", version="v1", zone="eu", weight=50, state="draining"))
    assert (facts.id, facts.host, facts.port) == ("a", "127.0.0.1", 9001)
    assert (facts.version, facts.zone, facts.weight, facts.draining) == ("v1", "eu", 50, True)


@pytest.mark.parametrize(
    ("wanted", "has", "belongs"),
    [(None, "v1", True), (None, None, True), ("v1", "v1", True), ("v1", "v2", False), ("v1", None, False)],
)
def test_a_version_that_is_asked_for_must_be_had(wanted: str | None, has: str | None, belongs: bool) -> None:
    fields = {} if has is None else {"version": has}
    assert fits(member("a", **fields), PoolConfig(name="p", find="d", version=wanted)) is belongs
