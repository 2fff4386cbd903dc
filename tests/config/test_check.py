from __future__ import annotations

import sys

import pytest

from gateway.config.check import find_loop, weights_problem
from gateway.config.load import load
from tests.config import examples
from tests.config.sample_kinds import KINDS

POOLS = "pools: {a: {find: a, version: v1}, b: {find: b, version: v2}, lite: {find: lite}}\n"


def errors(folder, text, **files):
    loaded = load(examples.write(folder, a=POOLS + text, **files), KINDS)
    return loaded.report().replace(f"{folder}/", "").splitlines()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            "endpoints: {d: {model: d, versions: {1: aa}}}",
            "a.yaml:2:41: endpoints.d.versions.1: expected a pool: one of a, b or lite; found 'aa'",
        ),
        (
            "endpoints: {d: {model: d, versions: {1: a}, labels: {stable: 2}}}",
            "a.yaml:2:62: endpoints.d.labels.stable: expected a version: one of 1; found '2'",
        ),
        (
            "endpoints: {d: {model: d, versions: {1: a}, labels: {stable: 1}, send: stabel}}",
            "a.yaml:2:72: endpoints.d.send: expected a pool, version, label or newest of d: "
            "one of stable, 1, a, b, lite or newest; found 'stabel'; did you mean 'stable'?",
        ),
        (
            "endpoints: {d: {model: d, send: {a: 95%, b: 4%}}}",
            "endpoints.d.send: expected weights that add up to 100%, found 95% + 4% = 99%",
        ),
        (
            "endpoints: {d: {model: d, send: a, degrade: [{pool: lit}]}}",
            "a.yaml:2:53: endpoints.d.degrade[0].pool: expected a pool: one of a, b or lite; "
            "found 'lit'; did you mean 'lite'?",
        ),
        (
            "endpoints: {d: {match: {grpc: [x.Y]}, send: a}}",
            "endpoints.d.send: expected pools that speak grpc, found 'a', which speaks http",
        ),
        (
            "endpoints: {d: {match: {grpc: [x.Y/Z], path: /x}, send: a}}",
            "expected either grpc, or path and methods, found both",
        ),
        (
            "endpoints: {d: {match: {grpc: [/x.Y]}, send: a}}",
            "expected service or service/method, like inference.*/ModelInfer, found '/x.Y'",
        ),
        ("endpoints: {d: {model: d}}", "a.yaml:2:13: endpoints.d: expected `versions: {1: POOL}`"),
        (
            "endpoints: {d: {model: d, send: a}, e: {model: d, send: b}}",
            "endpoints.e.model: expected another model than d's (a.yaml:2:13), found 'd' again",
        ),
        (
            "endpoints: {d: {match: {path: '/o/{id}'}, send: a}, e: {match: {path: '/o/{n}'}, send: b}}",
            "endpoints.e.match: expected requests that d (a.yaml:2:13) doesn't take already",
        ),
        (
            "principals: {p: {plan: fre}}\nplans: {free: {}}",
            "principals.p.plan: expected a plan: one of free",
        ),
        ("principals: {p: {may: {models: [x]}}}", "principals.p.may.models[0]: expected a model"),
        ("principals: {p: {may: {endpoints: [x]}}}", "principals.p.may.endpoints[0]: expected an endpoint"),
        (
            f"principals: {{p: {{keys: 'sha256:{'0' * 64}'}}, q: {{keys: 'sha256:{'0' * 64}'}}}}",
            "principals.q.keys: expected a key of its own, found one of p's",
        ),
        ("policies: {p: {applies_to: x-*, throttle: 5/s}}", "expected a pattern of endpoints"),
        ("policies: {p: {applies_to: {plans: gold}, throttle: 5/s}}", "expected a plan"),
        ("policies: {p: {applies_to: {principals: al}, throttle: 5/s}}", "expected a principal"),
        ("policies: {p: {applies_to: {tenants: al}, throttle: 5/s}}", "expected a tenant"),
        (
            "plans: {x: {}}\npolicies: {p: {applies_to: {plans: x}, authenticate: jwt}}",
            "policies.p.authenticate: expected authenticate in a policy for everybody",
        ),
        (
            "plans: {x: {}}\npolicies: {p: {applies_to: {plans: x}, breaker: off}}",
            "policies.p.breaker: expected breaker in a policy for everybody",
        ),
        ("listen: {http: 127.0.0.1:9080}", "listen: expected two addresses, found 127.0.0.1:9080"),
        ("registry: static", "pools.a.find: expected a registry to find it in"),
        (
            "endpoints: {d: {model: d, send: a, breaker: off}, e: {model: e, send: a, breaker: {}}}",
            "endpoints.e.breaker: expected one breaker for the pool a, found two that disagree: "
            "endpoints.e here and endpoints.d (a.yaml:2:45)",
        ),
        (
            "endpoints: {d: {model: d, send: a, degrade: a}}",
            "endpoints.d.degrade: expected fallbacks that end somewhere, found a loop: a → a",
        ),
        (
            "endpoints: {d: {model: d, send: a, degrade: b}, e: {model: e, send: b, degrade: a}}",
            "expected fallbacks that end somewhere, found a loop: a → b → a",
        ),
    ],
)
def test_what_contradicts_or_leads_nowhere_is_named(tmp_path, text, problem):
    found = errors(tmp_path, text)
    assert len([line for line in found if problem in line]) == 1, found


@pytest.mark.parametrize(
    "text",
    [
        "endpoints: {d: {model: d, versions: {1: a, 2: b}, degrade: a}}",
        "endpoints: {d: {model: d, send: a, degrade: lite}, e: {model: e, send: b, degrade: lite}}",
        "endpoints: {d: {model: d, send: a, breaker: off}, e: {model: e, send: a, breaker: off}}",
        "endpoints: {d: {model: d, versions: {1: a, 2: b}, send: v2}}",
        "endpoints: {d: {model: d, send: {a: 0, b: 1}}}",
        "endpoints: {d: {match: /x, send: a}, e: {match: {path: /x, hosts: [h]}, send: b}}",
        "endpoints: {d: {match: {path: /x, methods: GET}, send: a}, "
        "e: {match: {path: /x, methods: PUT}, send: b}}",
        "issuers: {i: {issuer: i, audiences: a, jwks: k.json}}\n"
        "policies: {p: {applies_to: {tenants: anybody, principals: somebody}, throttle: 5/s}}",
        "policies: {p: {applies_to: '*', throttle: 5/s}, q: {applies_to: '*', throttle: 6/s}}",
    ],
    ids=[
        "own-version",
        "shared-lite",
        "same-breaker",
        "registry-version",
        "zero-share",
        "host",
        "methods",
        "token-people",
        "accumulate",
    ],
)
def test_what_makes_sense_passes(tmp_path, text):
    assert errors(tmp_path, text) == []


TIE = "endpoints: {{d: {{model: d, send: a}}}}\nplans: {{x: {{}}, y: {{}}}}\npolicies:\n  p: {0}\n  q: {1}\n"


@pytest.mark.parametrize(
    ("first", "second", "ties"),
    [
        ("{applies_to: d, timeout: 1s}", "{applies_to: d, timeout: 2s}", True),
        ("{applies_to: '*', timeout: 1s}", "{applies_to: 'd*', timeout: 2s}", True),
        ("{applies_to: '*', timeout: 1s}", "{applies_to: d, timeout: 2s}", False),
        ("{applies_to: {plans: x}, timeout: 1s}", "{applies_to: {plans: [x, y]}, timeout: 2s}", True),
        ("{applies_to: {plans: x}, timeout: 1s}", "{applies_to: {plans: y}, timeout: 2s}", False),
        ("{applies_to: d, timeout: 1s, enforce: false}", "{applies_to: d, timeout: 2s}", False),
        (
            "{applies_to: d, timeout: 1s, until: 2026-01-01}",
            "{applies_to: d, timeout: 2s, from: 2026-01-01}",
            False,
        ),
    ],
    ids=["named", "globs", "glob-named", "same-plan", "other-plan", "shadow", "turns"],
)
def test_two_of_equal_rank_are_an_error_that_names_both(tmp_path, first, second, ties):
    found = errors(tmp_path, TIE.format(first, second))
    assert len(found) == ties
    if ties:
        assert "expected one timeout of this rank for d, found two: q here and p (a.yaml:5:" in found[0]


def test_an_override_of_an_unknown_endpoint_is_refused(tmp_path):
    text = "endpoints: {digits: {model: d, send: a}}"
    found = errors(tmp_path, text, overrides="digit: {send: b, until: 2027-01-01}")
    assert found == [
        "overrides.yaml:1:1: overrides.digit: expected an endpoint: one of digits; found 'digit'; "
        "did you mean 'digits'?"
    ]


def test_one_mistake_is_one_problem(tmp_path):
    text = "endpoints: {d: {model: d, versions: {1: a, 2: [x]}, labels: {s: 2}, send: 5/, tiemout: 3s}}"
    places = [line.split(": ")[0] for line in errors(tmp_path, text)]
    assert places == ["a.yaml:2:47", "a.yaml:2:75", "a.yaml:2:79"]


def test_weights_add_up_within_rounding():
    assert weights_problem({"a": 0.1, "b": 0.2, "c": 0.7}) is None
    assert weights_problem({"a": 0.5}) == "expected weights that add up to 100%, found 50% = 50%"


def test_a_loop_is_found_however_long():
    edges = {"a": {"b": 1}, "b": {"c": 1, "d": 1}, "d": {"a": 1}}
    assert find_loop("a", edges) == ["a", "b", "d"]
    assert find_loop("c", edges) == []


def test_thousands_of_principals_and_hundreds_of_endpoints_are_checked_in_time_linear_in_both(tmp_path):
    """A guard against squares: comparing every page with every other took 42 s here, now it is under one."""
    pools = "".join(f"  p{i}: {{find: s{i}}}\n" for i in range(200))
    endpoints = "".join(f"  e{i}: {{model: e{i}, send: p{i}, timeout: 2s}}\n" for i in range(200))
    principals = "".join(f"  u{i}: {{timeout: 5s}}\n" for i in range(2000))
    text = f"pools:\n{pools}endpoints:\n{endpoints}principals:\n{principals}"
    calls = 0

    def count(frame, event, argument):
        nonlocal calls
        calls += event == "call"

    sys.setprofile(count)
    try:
        loaded = load(examples.write(tmp_path, a=text), KINDS)
    finally:
        sys.setprofile(None)
    assert loaded.report() == ""
    assert calls < 2_000_000


@pytest.mark.parametrize(
    ("graphs", "problem"),
    [
        (
            "{g: {graph: {sequence: [a, bb]}}}",
            "b.yaml:1:35: pools.g.graph.sequence[1]: expected a pool: one of a, b, lite or g; found 'bb'",
        ),
        (
            "{g: {graph: {sequence: [a, h]}}, h: {graph: {split: {g: 100%}}}}",
            "expected a graph that ends somewhere, found a loop: g → h → g",
        ),
        ("{g: {graph: {sequence: [a], scatter: b}}}", "found sequence and scatter"),
        ("{g: {graph: {}}}", "expected one of sequence, ensemble, switch, cascade, split, scatter"),
        ("{g: {graph: {split: {a: 60%, b: 60%}}}}", "expected shares that add up to 100%, found 120%"),
        ("{g: {graph: {ensemble: [a, b], need: 3}}}", "expected need: at most the 2 members, found 3"),
        ("{g: {graph: {ensemble: [a, b], weights: {c: 1}}}}", "expected weights above 0 of members"),
        ("{g: {graph: {switch: [a, b]}}}", "expected only the last case of a switch without a condition"),
        ("{c: {instances: '1.2.3.4:5', speaks: grpc}, g: {graph: {scatter: c}}}", "'c', which speaks grpc"),
    ],
)
def test_graphs_that_can_t_be_are_named(tmp_path, graphs, problem):
    found = errors(tmp_path, "", b=f"pools: {graphs}\n")
    assert len([line for line in found if problem in line]) == 1, found
