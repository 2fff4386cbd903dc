from __future__ import annotations

from typing import Any

import pytest

from gateway.filters.cors import KIND, Cors, CorsFilter, is_preflight
from gateway.http.message import Headers, Response, find, find_all
from gateway.pipeline.errors import Refusal
from gateway.pipeline.filter import Rule
from tests.fakes.context import make_context, make_parts

APP = b"https://app.example.org"


def cors(*origins: str, **config: Any) -> CorsFilter:
    (made,) = KIND.build([Rule(Cors(origins=origins, **config), "pages")], make_parts())
    assert isinstance(made, CorsFilter)
    return made


def preflight(filter: CorsFilter, origin: bytes) -> Response | Refusal:
    ctx = make_context((b"origin", origin), (b"access-control-request-method", b"POST"), method=b"OPTIONS")
    verdict = filter.on_request(ctx)
    ctx.answered_by = "cors"
    if isinstance(verdict, Refusal):
        return verdict
    assert isinstance(verdict, Response)
    answered = filter.on_response(ctx, verdict)
    assert isinstance(answered, Response)
    return answered


def answer(filter: CorsFilter, *origins: bytes, fields: Headers | None = None) -> Response:
    ctx = make_context(*((b"origin", origin) for origin in origins))
    assert filter.on_request(ctx) is None
    answered = filter.on_response(ctx, Response(200, fields or []))
    assert isinstance(answered, Response)
    return answered


def test_a_preflight_is_answered_without_credentials() -> None:
    answered = preflight(cors(APP.decode(), methods=("GET", "PUT"), headers=("x-a", "x-b")), APP)

    assert isinstance(answered, Response)
    assert answered.status == 204
    assert answered.body == b""
    assert find(answered.headers, b"access-control-allow-origin") == APP
    assert find(answered.headers, b"access-control-allow-methods") == b"GET, PUT"
    assert find(answered.headers, b"access-control-allow-headers") == b"x-a, x-b"
    assert find(answered.headers, b"access-control-max-age") == b"600"
    assert find(answered.headers, b"access-control-allow-credentials") is None
    vary = find(answered.headers, b"vary")
    assert vary is not None
    assert b"Origin" in vary
    assert find_all(answered.headers, b"access-control-allow-origin") == [APP]


def test_a_preflight_of_another_origin_is_refused() -> None:
    refused = preflight(cors(APP.decode()), b"https://evil.example")
    assert isinstance(refused, Refusal)
    assert (refused.status, refused.code, refused.policy) == (403, "origin_not_allowed", "pages")


@pytest.mark.parametrize(
    ("method", "headers"),
    [
        pytest.param(b"OPTIONS", [(b"origin", APP)], id="no method asked for"),
        pytest.param(b"OPTIONS", [(b"access-control-request-method", b"POST")], id="no origin"),
        pytest.param(
            b"POST", [(b"origin", APP), (b"access-control-request-method", b"POST")], id="not OPTIONS"
        ),
    ],
)
def test_what_is_no_preflight_goes_on_to_authenticate(method: bytes, headers: Headers) -> None:
    ctx = make_context(*headers, method=method)
    assert not is_preflight(ctx.request)
    assert cors("*").on_request(ctx) is None


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        (b"https://app.example.org", True),
        (b"https://a.pages.example.org", True),
        (b"https://a.b.pages.example.org", True),
        (b"https://pages.example.org", False),
        (b"http://app.example.org", False),
        (b"https://app.example.org:8443", False),
        (b"https://app.example.org.evil.example", False),
        (b"https://evil.example/.pages.example.org", False),
        (b"https://evil.example?.pages.example.org", False),
        (b"https://evilpages.example.org", False),
        (b"https://a.pages.example.org\r\nx: y", False),
        (b"https://APP.example.org", False),
        (b"null", False),
        (b"", False),
    ],
)
def test_an_origin_must_be_written_or_fit_a_pattern(origin: bytes, allowed: bool) -> None:
    answered = answer(cors("https://app.example.org", "https://*.pages.example.org"), origin)

    assert find(answered.headers, b"access-control-allow-origin") == (origin if allowed else None)
    assert find(answered.headers, b"vary") == b"Origin"


def test_the_answer_depends_on_the_origin_also_where_there_is_none() -> None:
    answered = answer(cors(APP.decode()))
    assert find(answered.headers, b"vary") == b"Origin"
    assert find(answered.headers, b"access-control-allow-origin") is None


def test_two_origins_are_none() -> None:
    assert find(answer(cors(APP.decode()), APP, APP).headers, b"access-control-allow-origin") is None


def test_a_star_is_said_as_a_star_and_varies_with_nothing() -> None:
    answered = answer(cors("*"), b"https://any.example")
    assert find(answered.headers, b"access-control-allow-origin") == b"*"
    assert find(answered.headers, b"vary") is None


def test_credentials_are_allowed_for_written_origins() -> None:
    answered = answer(cors(APP.decode(), credentials=True), APP)
    assert find(answered.headers, b"access-control-allow-credentials") == b"true"
    assert find(answered.headers, b"access-control-allow-origin") == APP


def test_what_the_upstream_says_of_origins_is_taken_out() -> None:
    theirs: Headers = [
        (b"access-control-allow-origin", b"*"),
        (b"access-control-allow-credentials", b"true"),
        (b"content-type", b"application/json"),
    ]
    answered = answer(cors(APP.decode()), b"https://evil.example", fields=theirs)
    assert answered.headers == [(b"content-type", b"application/json"), (b"vary", b"Origin")]


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param({"origins": ()}, id="no origin"),
        pytest.param({"origins": ("*",), "credentials": True}, id="star with credentials"),
        pytest.param({"origins": ("*", "https://a.example")}, id="star and another"),
        pytest.param({"origins": ("null",)}, id="null"),
        pytest.param({"origins": ("app.example.org",)}, id="no scheme"),
        pytest.param({"origins": ("https://a.example/",)}, id="path"),
        pytest.param({"origins": ("https://*",)}, id="everybody by pattern"),
        pytest.param({"origins": ("https://a.*.example",)}, id="star inside"),
        pytest.param({"origins": ("https://A.example",)}, id="capitals, which browsers never send"),
        pytest.param({"origins": ("https://a.example",), "headers": ("*",)}, id="all headers"),
        pytest.param({"origins": ("https://a.example",), "expose": ("x\r\ny",)}, id="line break"),
    ],
)
def test_a_config_that_opens_too_much_or_nothing_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"expected|stands alone"):
        Cors(**wrong)
