"""Which endpoint takes a request: the tree against a matcher too simple to be wrong, and its rules."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config.schema import Match
from gateway.http.message import Headers, Request
from gateway.pipeline import routes
from gateway.pipeline.chain import Chain
from gateway.pipeline.routes import Routes
from gateway.pipeline.snapshot import Endpoint


def endpoint(name: str, model: str = "") -> Endpoint:
    return Endpoint(name, Chain([]), None, model=model)


def tree(*matches: Match | str, models: Sequence[str] = ()) -> Routes:
    """Endpoints named by their number in the order given, and by their model."""
    written = [Match(match) if isinstance(match, str) else match for match in matches]
    return Routes(
        [endpoint(name, name) for name in models],
        [(endpoint(str(number)), match) for number, match in enumerate(written)],
    )


def ask(path: str, *, method: str = "GET", host: str = "h", headers: Headers | None = None) -> Request:
    return Request(method.encode(), path.encode(), headers or [], host=host.encode())


def found(routes: Routes, path: str, **asked: str) -> str | None:
    endpoint = routes.find(ask(path, **asked)).endpoint  # type: ignore[arg-type]  # no headers here
    return None if endpoint is None else endpoint.name


# Against the naive matcher

SEGMENTS = st.sampled_from(["a", "b", "{x}", ""])
TEMPLATES = st.builds(
    lambda segments, rest: "/" + "/".join([*segments, *rest]),
    st.lists(SEGMENTS, max_size=3),
    st.sampled_from([[], ["**"]]),
)
MATCHES = st.builds(
    Match,
    path=TEMPLATES,
    methods=st.sampled_from([(), ("GET",), ("POST",), ("GET", "POST")]),
    hosts=st.sampled_from([(), ("one",), ("*.two", "one"), ("x.two",)]),
    headers=st.sampled_from([{}, {"x-env": "eu"}, {"x-env": "us", "x-tier": "1"}]),
)
REQUESTS = st.builds(
    lambda segments, method, host, headers: ask(
        "/" + "/".join(segments), method=method, host=host, headers=headers
    ),
    st.lists(st.sampled_from(["a", "b", "c", ""]), max_size=4),
    st.sampled_from(["GET", "POST", "PUT"]),
    st.sampled_from(["one", "ONE:80", "x.two", "y.x.two", "two", ""]),
    st.sampled_from([[], [(b"x-env", b"eu")], [(b"x-tier", b"1"), (b"x-env", b"us")]]),
)


def ranks(template: str, path: str) -> tuple[int, ...] | None:
    """How specifically a template takes a path, segment by segment: 0 literal, 1 parameter, 2 the rest."""
    wanted, given = template.split("/")[1:], path.split("/")[1:]
    rank = []
    while wanted:
        if wanted == ["**"]:
            return (*rank, 2) if given else None
        if not given:
            return None
        word, segment = wanted.pop(0), given.pop(0)
        if word == "{x}" and segment:
            rank.append(1)
        elif word == segment:
            rank.append(0)
        else:
            return None
    return None if given else tuple(rank)


def host_fits(pattern: str, host: str) -> bool:
    host = host.lower().partition(":")[0]
    return host == pattern or (
        pattern.startswith("*.") and host.endswith(pattern[1:]) and host != pattern[1:]
    )


def naive(matches: Sequence[Match], request: Request) -> str | None:
    takers = []
    for number, match in enumerate(matches):
        rank = ranks(match.path, request.path.decode())
        conditions = 4 * len(match.headers) + 2 * bool(match.hosts) + bool(match.methods)
        if (
            rank is not None
            and (not match.methods or request.method.decode() in match.methods)
            and (not match.hosts or any(host_fits(host, request.host.decode()) for host in match.hosts))
            and all(request.header(name.encode()) == value.encode() for name, value in match.headers.items())
        ):
            takers.append((rank, -conditions, number))
    return str(min(takers)[2]) if takers else None


@given(st.lists(MATCHES, max_size=8), st.lists(REQUESTS, min_size=1, max_size=6))
def test_the_tree_finds_what_a_look_at_every_route_finds(
    matches: list[Match], requests: list[Request]
) -> None:
    found = tree(*matches)
    for request in (*requests, *requests):  # the second time from what was kept
        taker = found.find(request).endpoint
        assert (None if taker is None else taker.name) == naive(matches, request)


@given(st.lists(MATCHES, min_size=1, max_size=5), REQUESTS)
def test_methods_are_told_just_where_another_method_would_have_been_taken(
    matches: list[Match], request: Request
) -> None:
    answer = tree(*matches).find(request)
    others = {
        method
        for method in ("GET", "POST")
        if naive(matches, Request(method.encode(), request.path, request.headers, host=request.host))
    }
    if answer.endpoint is None:
        assert set(answer.allowed) == others
    else:
        assert answer.allowed == ()


# The rules one by one


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/orders/new", "0"),
        ("/orders/7", "1"),
        ("/orders/7/lines", "2"),
        ("/orders/new/lines", "2"),
        ("/orders/", "2"),
        ("/orders", "3"),
        ("/", "3"),
    ],
)
def test_a_literal_goes_before_a_parameter_and_that_before_the_rest(path: str, name: str) -> None:
    assert found(tree("/orders/new", "/orders/{id}", "/orders/**", "/**"), path) == name


def test_a_dead_end_under_a_literal_goes_back_to_the_parameter() -> None:
    assert found(tree("/a/b", "/{x}/c"), "/a/c") == "1"


def test_more_conditions_go_first_at_one_place() -> None:
    hosts = Match("/a", hosts=("one",))
    both = Match("/a", hosts=("one",), methods=("GET",))
    order = tree("/a", hosts, both)
    assert found(order, "/a", host="one") == "2"
    assert found(order, "/a", host="one", method="PUT") == "1"
    assert found(order, "/a", host="other") == "0"


@pytest.mark.parametrize(
    ("pattern", "host", "takes"),
    [
        ("api.example.org", "API.example.org:8080", True),
        ("*.example.org", "a.b.example.org", True),
        ("*.example.org", "example.org", False),
        ("*.example.org", ".example.org", False),
        ("*.example.org", "evilexample.org", False),
        ("[::1]", "[::1]:8080", True),
        ("[::1]", "[::1]", True),
        ("localhost", "", False),
    ],
)
def test_hosts_are_compared_without_case_and_port(pattern: str, host: str, takes: bool) -> None:
    assert (found(tree(Match("/a", hosts=(pattern,))), "/a", host=host) == "0") is takes


def test_a_model_endpoint_takes_the_urls_of_every_dialect() -> None:
    models = tree("/**", models=("digits",))
    for path in ("/v1/models/digits:predict", "/v2/models/digits/infer"):
        assert found(models, path, method="POST") == "digits"
    assert found(models, "/v1/models/other:predict", method="POST") == "0"
    assert found(models, "/v1/models/digits/versions/2:predict", method="POST") == "digits"


def test_what_asks_for_the_server_itself_belongs_to_no_endpoint_where_models_are_served() -> None:
    answer = tree("/**", models=("digits",)).find(ask("/v2/health/ready"))
    assert answer.endpoint is None
    assert answer.target is not None
    assert answer.target.model == ""


def test_a_gateway_without_models_leaves_v2_to_its_own_endpoints() -> None:
    assert found(tree("/v2/**"), "/v2/health/ready") == "0"
    assert tree("/other").find(ask("/v2/health/ready")).target is not None


def test_a_browsers_preflight_finds_the_endpoint_of_the_method_it_asks_for() -> None:
    ways = tree(Match("/a", methods=("GET",)), Match("/a", methods=("PUT",)))
    preflight = [(b"origin", b"http://x"), (b"access-control-request-method", b"PUT")]
    taker = ways.find(ask("/a", method="OPTIONS", headers=preflight)).endpoint
    assert taker is not None
    assert taker.name == "1"
    assert ways.find(ask("/a", method="OPTIONS")).allowed == ("GET", "PUT")


# What is kept


def test_no_more_is_kept_than_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routes, "KEPT", 10)
    everything = tree("/**")
    for number in range(100):
        assert found(everything, f"/{number}") == "0"
        assert len(everything._kept) <= 10


def test_long_paths_are_found_and_not_kept() -> None:
    everything, path = tree("/**"), "/" + "x" * routes.LONGEST_KEPT
    assert found(everything, path) == "0"
    assert len(everything._kept) == 0
    assert found(everything, path[:-1]) == "0"
    assert len(everything._kept) == 1


def test_what_nobody_takes_is_not_kept() -> None:
    nothing = tree("/a")
    nothing.find(ask("/b"))
    nothing.find(ask("/v1/models/made-up:predict", method="POST"))
    assert len(nothing._kept) == 0


def test_what_depends_on_host_or_header_is_not_kept_by_its_path() -> None:
    ways = tree(Match("/a", hosts=("one",)), "/a")
    assert [found(ways, "/a", host=host) for host in ("one", "two", "one")] == ["0", "1", "0"]
