from __future__ import annotations

import pytest

from gateway.http.message import Headers
from gateway.pipeline.choice import Choices, Explicit
from gateway.pipeline.errors import Refusal
from gateway.pipeline.ports import Principal
from tests.fakes.traffic import Traffic

OPERATOR = Principal("olga", may_override=True)


def digits(**changes: int) -> Traffic:
    pools = {"digits-v1": 1, "digits-v2": 1, "digits-lite": 1, **changes}
    traffic = Traffic(
        pools,
        versions={"1": "digits-v1", "2": "digits-v2"},
        labels={"stable": "1", "canary": "2"},
    )
    traffic.pools["digits-lite"].version = "small"
    return traffic


@pytest.mark.parametrize(
    ("word", "pool", "version"),
    [
        ("stable", "digits-v1", "1"),
        ("2", "digits-v2", "2"),
        ("newest", "digits-v2", "2"),
        ("digits-v1", "digits-v1", "1"),
        ("digits-lite", "digits-lite", ""),
        ("small", "digits-lite", ""),
    ],
)
def test_a_word_means_a_label_a_version_a_pool_or_the_registrys_version(
    word: str, pool: str, version: str
) -> None:
    found = Choices(digits().parts).must_find(word)
    assert (found.pool.name, found.version) == (pool, version)


def test_the_newest_is_the_highest_version_that_has_instances() -> None:
    parts = Traffic({"a": 1, "b": 1, "c": 0}, versions={"1.9": "a", "1.10": "b", "2": "c"}).parts
    assert Choices(parts).must_find("newest").version == "1.10"
    nobody = Traffic({"a": 0, "b": 0}, versions={"9": "a", "10": "b"}).parts
    assert Choices(nobody).must_find("newest").version == "10"


def test_a_pool_that_serves_two_versions_stands_for_neither() -> None:
    parts = Traffic({"both": 1}, versions={"1": "both", "2": "both"}).parts
    assert Choices(parts).must_find("both").version == ""
    assert Choices(parts).must_find("1").version == "1"


def test_a_word_without_meaning_is_found_out_when_the_filter_is_built() -> None:
    with pytest.raises(ValueError, match="'nowhere' is no label"):
        Choices(digits().parts).must_find("nowhere")


@pytest.mark.parametrize(
    ("path", "pool", "version"),
    [
        (b"/v1/models/digits/versions/2:predict", "digits-v2", "2"),
        (b"/v1/models/digits/labels/canary:predict", "digits-v2", "2"),
        (b"/v2/models/digits/versions/1/infer", "digits-v1", "1"),
    ],
)
def test_the_url_chooses(path: bytes, pool: str, version: str) -> None:
    traffic = digits()
    ctx = traffic.context(path)
    assert Explicit(traffic.parts).on_request(ctx) is None
    assert ctx.pool is traffic.pools[pool]
    assert (ctx.version, ctx.chosen_by) == (version, "url")


@pytest.mark.parametrize(
    "path", [b"/v1/models/digits/versions/9:predict", b"/v1/models/digits/labels/new:predict"]
)
def test_an_unknown_version_is_refused_with_those_that_are_known(path: bytes) -> None:
    traffic = digits()
    refusal = Explicit(traffic.parts).on_request(traffic.context(path))
    assert isinstance(refusal, Refusal)
    assert (refusal.status, refusal.code) == (404, "unknown_version")
    assert refusal.details == {"known": ["1", "2", "stable", "canary"]}


def test_an_endpoint_without_versions_has_its_pools_own() -> None:
    traffic = Traffic({"digits": 1})
    explicit = Explicit(traffic.parts)
    assert explicit.on_request(traffic.context(b"/v2/models/digits/versions/1/infer")) is None
    assert isinstance(explicit.on_request(traffic.context(b"/v2/models/digits/versions/2/infer")), Refusal)


@pytest.mark.parametrize(
    ("principal", "chosen"),
    [(OPERATOR, "digits-v2"), (Principal("alice"), None), (None, None)],
    ids=["may", "may not", "nobody"],
)
def test_the_override_header_is_for_principals_that_may(
    principal: Principal | None, chosen: str | None
) -> None:
    traffic = digits()
    headers: Headers = [(b"x-headgate-send", b"canary")]
    ctx = traffic.context(headers=headers, principal=principal)
    assert Explicit(traffic.parts).on_request(ctx) is None
    assert ctx.chosen_by == ("override" if chosen else "")
    assert ctx.pool is traffic.pools[chosen or "digits-v1"]


def test_the_url_goes_before_the_override_header() -> None:
    traffic = digits()
    ctx = traffic.context(
        b"/v2/models/digits/versions/1/infer", headers=[(b"x-headgate-send", b"2")], principal=OPERATOR
    )
    Explicit(traffic.parts).on_request(ctx)
    assert (ctx.version, ctx.chosen_by) == ("1", "url")


def test_an_override_that_means_nothing_is_refused() -> None:
    traffic = digits()
    ctx = traffic.context(headers=[(b"x-headgate-send", b"other-pool")], principal=OPERATOR)
    refusal = Explicit(traffic.parts).on_request(ctx)
    assert isinstance(refusal, Refusal)
    assert refusal.code == "unknown_version"
