from __future__ import annotations

import pytest

from gateway.config.load import load
from gateway.config.resolve import (
    Candidate,
    Rank,
    Who,
    candidates,
    newest_version,
    pool_verbs,
    reach,
    target_pool,
)
from gateway.config.schema import EndpointConfig
from tests.config import examples
from tests.config.sample_kinds import KINDS, Timeout

EVERY_RANK = """
pools: {a: {find: a}, b: {find: b}}
plans: {free: {}}
principals: {al: {plan: free, tenant: acme, timeout: 7s}}
endpoints: {d: {model: d, send: a, timeout: 3s}, e: {model: e, send: b}}
policies:
  glob: {applies_to: "*", timeout: 1s}
  named: {applies_to: [d, e], timeout: 2s}
  plan: {applies_to: {plans: free}, timeout: 4s}
  plan-at-d: {applies_to: {plans: free, endpoints: d}, timeout: 5s}
  tenant: {applies_to: {tenants: acme, plans: free}, timeout: 6s}
"""


def read(folder, **files):
    loaded = load(examples.write(folder, **files), KINDS, examples.ENV)
    assert loaded.report() == ""
    return loaded.schema


def test_the_most_specific_comes_first(tmp_path):
    schema = read(tmp_path, a=EVERY_RANK, overrides="d: {timeout: 8s, until: 2030-01-01}")
    found = candidates(schema, KINDS, "d")["timeout"]
    assert [one.value.total for one in found] == [8, 7, 6, 5, 4, 3, 2, 1]
    assert [one.rank for one in found] == [
        Rank.OVERRIDE,
        Rank.PRINCIPAL,
        Rank.TENANT,
        Rank.PLAN,
        Rank.PLAN,
        Rank.ENDPOINT,
        Rank.NAMED,
        Rank.GLOB,
    ]
    assert found[0].until == 1893456000.0
    assert found[1].who == Who(principals=frozenset({"al"}))
    assert found[2].who == Who(plans=frozenset({"free"}), tenants=frozenset({"acme"}))
    assert [one.policy for one in found[3:]] == ["plan-at-d", "plan", "endpoints.d", "named", "glob"]


def test_what_is_for_one_endpoint_does_not_hold_for_another(tmp_path):
    schema = read(tmp_path, a=EVERY_RANK)
    assert [one.value.total for one in candidates(schema, KINDS, "e")["timeout"]] == [7, 6, 4, 2, 1]


def test_throttles_are_all_kept(tmp_path):
    loaded = load(examples.write_all(tmp_path), KINDS, examples.ENV)
    assert len(candidates(loaded.schema, KINDS, "digits")["throttle"]) == 5


def test_pool_verbs_are_no_request_verbs(tmp_path):
    loaded = load(examples.write_all(tmp_path), KINDS, examples.ENV)
    assert "breaker" not in candidates(loaded.schema, KINDS, "digits")


@pytest.mark.parametrize(
    ("who", "includes"),
    [
        (Who(), True),
        (Who(plans=frozenset({"free"})), True),
        (Who(plans=frozenset({"pro"})), False),
        (Who(plans=frozenset({"free"}), tenants=frozenset({"other"})), False),
        (Who(principals=frozenset({"al", "bo"}), tenants=frozenset({"acme"})), True),
    ],
    ids=["everybody", "plan", "other-plan", "other-tenant", "both"],
)
def test_who_means_one_of_each_list_that_is_written(who, includes):
    assert who.includes("al", "free", "acme") is includes


def test_a_candidate_holds_from_its_start_to_before_its_end():
    one = Candidate("timeout", Timeout(1.0), Rank.GLOB, "p", from_=10.0, until=20.0)
    assert [one.holds(wall) for wall in (9.9, 10.0, 19.9, 20.0)] == [False, True, True, False]


@pytest.mark.parametrize(
    ("target", "pool"),
    [("stable", "a"), ("2", "b"), ("newest", "b"), ("lite", "lite"), ("v2", "b"), ("v9", None)],
)
def test_a_target_is_a_label_a_version_newest_a_pool_or_the_registrys_version(tmp_path, target, pool):
    text = """
pools: {a: {find: a, version: v1}, b: {find: b, version: v2}, lite: {find: lite}}
endpoints: {d: {model: d, versions: {1: a, 2: b}, labels: {stable: 1}}}
"""
    schema = read(tmp_path, a=text)
    assert target_pool(schema, schema.endpoints["d"], target) == pool


def test_versions_are_compared_as_numbers():
    assert newest_version(EndpointConfig(model="d", versions={"1.9": "a", "1.10": "b", "1.2": "c"})) == "1.10"
    assert newest_version(EndpointConfig(model="d")) is None


def test_pools_are_reached_by_versions_weights_and_fallbacks(tmp_path):
    schema = load(examples.write_all(tmp_path), KINDS, examples.ENV).schema
    assert reach(schema, "digits") == ("digits-lite", "digits-v1", "digits-v2")
    assert reach(schema, "digits", fallback=False) == ("digits-v1", "digits-v2")
    assert reach(schema, "digits", fallback=True) == ("digits-lite",)


@pytest.mark.parametrize(
    ("pool", "endpoint", "policy", "calls"),
    [
        ("", "", "breaker: {min_calls: 1}", 1),
        ("", "breaker: {min_calls: 2}", "breaker: {min_calls: 1}", 2),
        ("breaker: {min_calls: 3}", "", "breaker: {min_calls: 1}", 3),
        ("breaker: {min_calls: 3}", "breaker: {min_calls: 3}", "breaker: {min_calls: 1}", 3),
    ],
    ids=["policy", "endpoint", "pool", "agreeing"],
)
def test_a_pool_verb_goes_to_every_pool_in_reach_and_the_most_specific_wins(
    tmp_path, pool, endpoint, policy, calls
):
    schema = read(
        tmp_path,
        a=f"""
pools: {{a: {{find: a, {pool}}}, other: {{find: o}}}}
endpoints: {{d: {{model: d, send: a, {endpoint}}}}}
policies: {{p: {{applies_to: "*", timeout: 1s, {policy}}}}}
""",
    )
    assert pool_verbs(schema, KINDS, "a")["breaker"].value.min_calls == calls
    assert pool_verbs(schema, KINDS, "other") == {}
