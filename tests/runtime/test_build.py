"""What a reload keeps and what it makes anew, by identity of the built objects."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from gateway.config.schema import IssuerConfig
from gateway.pipeline.answers import AnswerStore
from gateway.pipeline.filter import Filter
from gateway.pipeline.pool import Facts
from gateway.pipeline.ports import KeySource
from gateway.pipeline.pressure import Pressure
from gateway.runtime.build import Built, Ports, build, discarded
from gateway.runtime.policies import read
from gateway.stores.memory import MemoryCounters
from tests.fakes.clock import ManualClock
from tests.fakes.traffic import SeededIds, Told
from tests.runtime.running import write

KEY = "sha256:" + "ab" * 32
PAGE = f"""
stores: {{counters: {{timeout: 100ms}}}}
plans: {{free: {{importance: sheddable}}}}
principals:
  alice: {{plan: free, keys: ["{KEY}"], may: {{endpoints: [one]}}}}
pools:
  one: {{instances: ["127.0.0.1:9001"]}}
  two: {{instances: ["127.0.0.1:9002"]}}
endpoints:
  one:
    match: /one
    send: one
    throttle: 5/s
    breaker: {{errors: 50%}}
    timeout: 2s
  two:
    match: /two
    send: two
    throttle: 7/s
"""


def no_issuers(configs: Iterable[IssuerConfig]) -> Mapping[str, KeySource]:
    return {}


@pytest.fixture
def ports() -> Ports:
    counters = MemoryCounters()
    return Ports(
        clock=ManualClock(),
        ids=SeededIds(),
        counters=counters,
        local_counters=counters,
        blobs=None,
        answers=AnswerStore(1 << 20, None),
        issuers=no_issuers,
        signatures=Told(),
        pressure=Pressure(),
        gateways=lambda: 1,
    )


class Edits:
    """A page that is edited and built again and again."""

    def __init__(self, folder: Path, ports: Ports) -> None:
        self.folder = folder
        self.ports = ports
        self.previous: Built | None = None

    def build(self, page: str) -> Built:
        write(self.folder, page)
        loaded = read(self.folder)
        assert loaded.schema is not None, loaded.report()
        self.previous = build(loaded.schema, loaded.digest, self.ports, self.previous)
        return self.previous


@pytest.fixture
def edits(tmp_path: Path, ports: Ports) -> Edits:
    return Edits(tmp_path, ports)


def filters_of(built: Built, endpoint: str, verb: str) -> tuple[Filter, ...]:
    return built.filters[endpoint, verb][2]


def edited(*changes: tuple[str, str]) -> str:
    page = PAGE
    for before, after in changes:
        assert before in page
        page = page.replace(before, after)
    return page


def test_the_same_page_keeps_everything(edits: Edits) -> None:
    first, second = edits.build(PAGE), edits.build(PAGE)
    assert second.snapshot.pools == first.snapshot.pools
    assert second.directory is first.directory
    assert second.filters.keys() == first.filters.keys()
    assert all(second.filters[key][2] is first.filters[key][2] for key in first.filters)
    assert discarded(first, second) == []
    assert second.snapshot.version == first.snapshot.version + 1


UNRELATED = [
    pytest.param(("timeout: 2s", "timeout: 3s"), id="another verb of the endpoint"),
    pytest.param(("throttle: 7/s", "throttle: 8/s"), id="another endpoint"),
    pytest.param(("plans:", "# a comment\nplans:"), id="a comment that moves every line"),
    pytest.param(("/two", "/zwei"), id="another endpoint's path"),
    pytest.param(("127.0.0.1:9002", "127.0.0.1:9003"), id="another pool's instances"),
]


@pytest.mark.parametrize("change", UNRELATED)
def test_an_edit_elsewhere_keeps_a_pool_with_its_breakers_and_a_throttle_with_its_buckets(
    edits: Edits, change: tuple[str, str]
) -> None:
    first = edits.build(PAGE)
    pool = first.snapshot.pools["one"]
    second = edits.build(edited(change))
    assert second.snapshot.pools["one"] is pool
    assert filters_of(second, "one", "throttle") is filters_of(first, "one", "throttle")
    assert second.directory is first.directory


def test_an_instances_breaker_lives_through_an_edit_of_its_endpoint(edits: Edits) -> None:
    first = edits.build(PAGE)
    pool = first.snapshot.pools["one"]
    pool.update([Facts("a", "127.0.0.1", 9001)], 0.0)
    (instance,) = pool.members.instances
    second = edits.build(edited(("throttle: 5/s", "throttle: 6/s")))
    pool.update([Facts("a", "127.0.0.1", 9001)], 1.0)
    assert second.snapshot.pools["one"].members.instances == (instance,)
    assert instance.breaker is not None


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(("breaker: {errors: 50%}", "breaker: {errors: 40%}"), id="its breaker"),
        pytest.param(("one: {instances", "one: {speaks: kserve-v2, instances"), id="what it speaks"),
        pytest.param(('one: {instances: ["127.0.0.1:9001"]}', "one: {find: one}"), id="where it is found"),
    ],
)
def test_an_edit_of_a_pool_makes_it_anew_and_its_endpoints_filters_with_it(
    edits: Edits, change: tuple[str, str]
) -> None:
    first = edits.build(PAGE)
    second = edits.build(edited(change))
    assert second.snapshot.pools["one"] is not first.snapshot.pools["one"]
    assert second.snapshot.pools["two"] is first.snapshot.pools["two"]
    assert filters_of(second, "two", "throttle") is filters_of(first, "two", "throttle")


def test_written_instances_change_without_a_new_pool(edits: Edits) -> None:
    first = edits.build(PAGE)
    second = edits.build(edited(("127.0.0.1:9001", "127.0.0.1:9009")))
    assert second.snapshot.pools["one"] is first.snapshot.pools["one"]
    assert second.pool_configs["one"].instances[0].address.port == 9009


def test_an_edited_throttle_is_made_anew_and_the_old_one_is_to_be_closed(edits: Edits) -> None:
    first = edits.build(PAGE)
    second = edits.build(edited(("throttle: 5/s", "throttle: 6/s")))
    assert filters_of(second, "one", "throttle") is not filters_of(first, "one", "throttle")
    assert set(discarded(first, second)) == set(filters_of(first, "one", "throttle"))


def test_an_edited_principal_makes_the_directory_anew_and_whoever_asks_it(edits: Edits) -> None:
    first = edits.build(PAGE)
    second = edits.build(edited(("may: {endpoints: [one]}", "may: {endpoints: [two]}")))
    assert second.directory is not first.directory
    alice = second.directory.principal("alice")
    assert alice is not None
    assert (alice.endpoints, alice.importance) == (frozenset({"two"}), "sheddable")
    assert filters_of(second, "one", "authenticate") is not filters_of(first, "one", "authenticate")


def test_the_earlier_end_of_key_and_principal_is_the_keys_end(edits: Edits) -> None:
    key = f'{{hash: "{KEY}", expires: "2030-01-01"}}'
    page = edited((f'["{KEY}"]', f"[{key}]"), ("may: {endpoints", 'expires: "2029-01-01", may: {endpoints'))
    directory = edits.build(page).directory
    credential = directory._credentials[bytes.fromhex("ab" * 32)]
    assert credential.expires == 1861920000.0  # 2029-01-01


@pytest.mark.parametrize("choice", ["local", "open", "closed"])
def test_what_a_throttle_does_without_its_store_is_said_once_for_all(edits: Edits, choice: str) -> None:
    page = edited(("stores: {", f"stores: {{on_store_failure: {choice}, "))
    parts = edits.build(page).filters["one", "throttle"][0]
    assert parts.on_store_failure == choice


def test_a_change_of_what_throttles_do_without_their_store_makes_them_anew(edits: Edits) -> None:
    first = edits.build(PAGE)
    second = edits.build(edited(("stores: {", "stores: {on_store_failure: closed, ")))
    assert filters_of(second, "one", "throttle") is not filters_of(first, "one", "throttle")


def test_filters_stand_in_the_fixed_order_whatever_the_order_of_the_page(edits: Edits) -> None:
    page = edited(("    throttle: 5/s\n", ""), ("    timeout: 2s\n", "    timeout: 2s\n    throttle: 5/s\n"))
    names = [filter.name for filter in edits.build(page).snapshot.endpoints["one"].chain.filters]
    first = [filter.name for filter in edits.build(PAGE).snapshot.endpoints["one"].chain.filters]
    assert names == first
    assert names.index("authenticate") < names.index("permit") < names.index("throttle")


def test_a_build_that_fails_leaves_the_previous_one_as_it_was(edits: Edits, ports: Ports) -> None:
    first = edits.build(PAGE)
    pools, filters = dict(first.snapshot.pools), dict(first.filters)

    def broken(configs: Iterable[IssuerConfig]) -> Mapping[str, KeySource]:
        raise RuntimeError("no keys")

    write(edits.folder, edited(("throttle: 5/s", "throttle: 6/s")))
    loaded = read(edits.folder)
    assert loaded.schema is not None
    with pytest.raises(RuntimeError):
        build(loaded.schema, loaded.digest, replace(ports, issuers=broken), first)
    assert (first.snapshot.pools, first.filters) == (pools, filters)


@pytest.mark.parametrize(
    "aside", ["mirror: a", "degrade: {steps: [{pool: a}]}"], ids=["copies", "lesser answers"]
)
def test_a_pool_for_copies_or_lesser_answers_is_never_the_endpoints_own(edits: Edits, aside: str) -> None:
    page = (
        "pools: {a: {instances: ['127.0.0.1:9001']}, b: {instances: ['127.0.0.1:9002']}}\n"
        f"endpoints: {{x: {{match: /x, authenticate: none, send: b, {aside}}}}}\n"
    )
    endpoint = edits.build(page).snapshot.endpoints["x"]
    assert endpoint.pool is not None
    assert endpoint.pool.name == "b"
    assert {pool.name for pool in endpoint.pools} == {"a", "b"}


def test_a_hedge_is_built_with_its_pool_and_kept_with_it(edits: Edits) -> None:
    page = edited(('"127.0.0.1:9001"]', '"127.0.0.1:9001"], hedge: p95'))
    first = edits.build(page).snapshot.pools["one"]
    assert first.hedging is not None
    assert edits.build(page).snapshot.pools["one"].hedging is first.hedging
    assert edits.build(PAGE).snapshot.pools["one"].hedging is None
