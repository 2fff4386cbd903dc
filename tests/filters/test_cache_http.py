"""RFC 9111, section by section, through the real exchange: the first answer, some time, a second request."""

from __future__ import annotations

from email.utils import formatdate

import pytest

from gateway.config.units import Duration, Ratio
from gateway.filters.cache import KIND, Cache
from gateway.http.message import Headers, Response
from gateway.pipeline.answers import AnswerStore
from gateway.pipeline.errors import UpstreamReset
from gateway.pipeline.ports import Lease, Principal
from gateway.stores.memory import MemoryBlobs
from tests.fakes.clock import ManualClock
from tests.fakes.traffic import Sent, Traffic

PATH = b"/orders/7"


def cached(*, blobs: MemoryBlobs | None = None, answers: AnswerStore | None = None, **how: object) -> Traffic:
    traffic = Traffic(blobs=blobs, answers=answers)
    traffic.parts.model = ""
    fields: dict[str, object] = {"ttl": Duration(0.0), "scope": "shared", **how}
    traffic.use(KIND, Cache(**fields))  # type: ignore[arg-type]
    return traffic


def at(traffic: Traffic, seconds: float) -> bytes:
    """The date that many seconds from now."""
    return formatdate(traffic.clock.wall() + seconds, usegmt=True).encode()


def get(traffic: Traffic, headers: Headers | None = None, **how: object) -> Sent:
    fields: dict[str, object] = {"path": PATH, "method": b"GET", "host": b"shop.example", **how}
    return traffic.send(body=b"", headers=list(headers or []), **fields)  # type: ignore[arg-type]


def ask(
    traffic: Traffic,
    headers: Headers | None = None,
    *,
    body: bytes = b"fresh",
    status: int = 200,
    answer: Headers | None = None,
    **how: object,
) -> Sent:
    """Send; if it reaches an instance, let that answer."""
    before = len(traffic.upstream.calls)
    sent = get(traffic, headers, **how)
    for call in traffic.upstream.calls[before:]:
        call.answer(body, status, answer)
    return sent


def reused(traffic: Traffic, headers: Headers | None = None, **how: object) -> bool:
    """Whether the next request is answered without an instance."""
    before = len(traffic.upstream.calls)
    ask(traffic, headers, body=b"second", **how)  # type: ignore[arg-type]
    return len(traffic.upstream.calls) == before


def cc(value: bytes) -> Headers:
    return [(b"cache-control", value)]


ETAG = (b"etag", b'"v1"')
AUTH = [(b"authorization", b"Basic YQ==")]


# §4.2.1 Freshness, §5.2.2 what an answer may say


@pytest.mark.parametrize(
    ("fields", "after", "expected"),
    [
        (cc(b"max-age=60"), 59, True),
        (cc(b"max-age=60"), 60, False),
        (cc(b"MaX-AgE=60"), 30, True),
        (cc(b'max-age="60"'), 30, True),
        (cc(b"max-age=60, max-age=5"), 30, False),
        (cc(b"max-age=5") + cc(b"max-age=60"), 30, False),
        (cc(b"max-age=0"), 0, False),
        (cc(b"max-age=-60"), 0, False),
        (cc(b"max-age=6e1"), 0, False),
        (cc(b"max-age=60.0"), 0, False),
        (cc(b"max-age"), 0, False),
        (cc(b"max-age="), 0, False),
        (cc(b"max-age=99999999999999999999"), 100_000, True),
        (cc(b"max-age=2147483648"), 100_000, True),
        (cc(b"foo=bar, max-age=60"), 30, True),
        (cc(b'foo="a, max-age=1", max-age=60'), 30, True),
        (cc(b'foo="max-age=600"'), 0, False),
        (cc(b", max-age=60 ,"), 30, True),
        (cc(b"x-max-age=60"), 0, False),
        (cc(b"s-maxage=60"), 30, True),
        (cc(b"s-maxage=60, max-age=1"), 30, True),
        (cc(b"s-maxage=1, max-age=60"), 30, False),
        (cc(b"s-maxage=x, max-age=60"), 0, False),
        (cc(b"max-age=60, no-store"), 0, False),
        (cc(b"no-store"), 0, False),
        (cc(b"No-StOrE, max-age=60"), 0, False),
        (cc(b"max-age=60") + cc(b"no-store"), 0, False),
        (cc(b"max-age=60, private"), 0, False),
        (cc(b'max-age=60, private="x-mine"'), 0, True),
        (cc(b"max-age=60, no-cache"), 0, False),
        (cc(b'max-age=60, no-cache="x-mine"'), 0, True),
        (cc(b"max-age=60, must-revalidate"), 30, True),
        (cc(b"max-age=60, must-revalidate"), 61, False),
        (cc(b"max-age=60, proxy-revalidate"), 61, False),
        (cc(b"max-age=60, must-understand, no-store"), 30, True),
        (cc(b"max-age=60, immutable"), 30, True),
        (cc(b"max-age=60, public"), 30, True),
        (cc(b"public"), 0, False),
        ([], 0, False),
        ([ETAG], 0, False),
        ([(b"pragma", b"no-cache"), *cc(b"max-age=60")], 30, True),
        ([(b"set-cookie", b"a=b"), *cc(b"max-age=60")], 0, False),
        ([(b"set-cookie", b"a=b"), *cc(b"max-age=60, public")], 0, True),
        ([(b"vary", b"*"), *cc(b"max-age=60")], 0, False),
        ([(b"vary", b"accept, *"), *cc(b"max-age=60")], 0, False),
        ([(b"age", b"50"), *cc(b"max-age=60")], 5, True),
        ([(b"age", b"50"), *cc(b"max-age=60")], 15, False),
        ([(b"age", b"60"), *cc(b"max-age=60")], 0, False),
        ([(b"age", b"9999999999999"), *cc(b"max-age=60")], 0, False),
        ([(b"age", b"x"), *cc(b"max-age=60")], 30, True),
        ([(b"age", b"50, 0"), *cc(b"max-age=60")], 15, False),
        ([(b"expires", b"0")], 0, False),
        ([(b"expires", b"-1")], 0, False),
        ([(b"expires", b"Thu, 18 Aug 2050 02:01:18"), *cc(b"x=1")], 0, False),
        ([(b"expires", b"never")], 0, False),
        ([(b"expires", b"0"), *cc(b"max-age=60")], 30, True),
    ],
)
def test_an_answer_is_fresh_as_long_as_it_says(fields: Headers, after: float, expected: bool) -> None:
    traffic = cached()
    ask(traffic, answer=fields)
    traffic.clock.advance(after)
    assert reused(traffic) is expected


@pytest.mark.parametrize(
    ("ends", "made", "after", "expected"),
    [
        (60, 0, 30, True),
        (60, 0, 61, False),
        (0, 0, 0, False),
        (-60, 0, 0, False),
        (60, 60, 0, False),  # by the origin's own clock it ends at once
        (60, -30, 20, True),
        (60, -30, 70, False),
    ],
)
def test_expires_counts_from_date(ends: float, made: float, after: float, expected: bool) -> None:
    traffic = cached()
    ask(traffic, answer=[(b"expires", at(traffic, ends)), (b"date", at(traffic, made))])
    traffic.clock.advance(after)
    assert reused(traffic) is expected


@pytest.mark.parametrize("form", ["%A, %d-%b-%y %H:%M:%S GMT", "%a %b %d %H:%M:%S %Y"])
def test_obsolete_dates_are_read_too(form: str) -> None:
    from datetime import UTC, datetime

    traffic = cached()
    ends = datetime.fromtimestamp(traffic.clock.wall() + 60, UTC).strftime(form)
    ask(traffic, answer=[(b"expires", ends.encode())])
    assert reused(traffic)


@pytest.mark.parametrize(
    ("status", "fields", "expected"),
    [
        *[(status, cc(b"max-age=60"), True) for status in (200, 203, 204, 299, 301, 302, 307, 308)],
        *[(status, cc(b"max-age=60"), True) for status in (400, 404, 410, 414, 451, 499, 501, 599)],
        (206, cc(b"max-age=60"), False),
        (304, cc(b"max-age=60"), False),
        (418, cc(b"max-age=60, must-understand"), False),
        (404, [], False),
    ],
)
def test_statuses_that_say_how_long_are_kept(status: int, fields: Headers, expected: bool) -> None:
    traffic = cached()
    ask(traffic, answer=fields, status=status, body=b"")
    assert reused(traffic) is expected


# §4.2.2 Guessing, only where asked


@pytest.mark.parametrize(("share", "after", "expected"), [(0.0, 0, False), (0.1, 9, True), (0.1, 11, False)])
def test_a_lifetime_is_guessed_only_where_asked(share: float, after: float, expected: bool) -> None:
    traffic = cached(heuristic=Ratio(share))
    ask(traffic, answer=[(b"last-modified", at(traffic, -100)), (b"date", at(traffic, 0))])
    traffic.clock.advance(after)
    assert reused(traffic) is expected


@pytest.mark.parametrize(
    ("fields", "status", "expected"),
    [
        ([], 200, True),
        ([], 404, True),
        ([], 500, False),
        ([], 403, False),
        (cc(b"max-age=0"), 200, False),
        (cc(b"no-cache"), 200, False),
        ([(b"expires", b"0")], 200, False),
    ],
)
def test_ttl_is_for_answers_that_do_not_say(fields: Headers, status: int, expected: bool) -> None:
    traffic = cached(ttl=Duration(30.0))
    ask(traffic, answer=fields, status=status)
    assert reused(traffic) is expected


# §3.5 Authorization


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (b"max-age=60", False),
        (b"max-age=60, private", False),
        (b"max-age=60, public", True),
        (b"s-maxage=60", True),
        (b"max-age=60, must-revalidate", True),
        (b"max-age=60, proxy-revalidate", False),
    ],
)
def test_answers_to_authorization_are_shared_only_when_they_say_so(said: bytes, expected: bool) -> None:
    traffic = cached()
    ask(traffic, AUTH, answer=cc(said))
    assert reused(traffic, AUTH) is expected
    assert reused(traffic) is expected


@pytest.mark.parametrize(
    ("scope", "shared"),
    [("principal", {"alice"}), ("tenant", {"alice", "bob"}), ("shared", {"alice", "bob", "eve"})],
)
def test_answers_are_shared_as_far_as_the_scope_says(scope: str, shared: set[str]) -> None:
    who = [
        Principal("alice", tenant="acme"),
        Principal("bob", tenant="acme"),
        Principal("eve", tenant="evil"),
    ]
    traffic = cached(scope=scope)
    ask(traffic, answer=cc(b"max-age=60"), principal=who[0])
    assert {one.name for one in who if reused(traffic, principal=one)} == shared


# §4 the key


@pytest.mark.parametrize(
    "other",
    [{"query": b"a=1"}, {"host": b"other.example"}, {"path": b"/orders/8"}],
    ids=["query", "host", "path"],
)
def test_another_url_is_another_answer(other: dict[str, bytes]) -> None:
    traffic = cached()
    ask(traffic, answer=cc(b"max-age=60"))
    assert not reused(traffic, **other)
    assert reused(traffic)


# §4.1 Vary


@pytest.mark.parametrize(
    ("vary", "first", "second", "expected"),
    [
        (b"foo", [(b"foo", b"1")], [(b"foo", b"1")], True),
        (b"foo", [(b"foo", b"1")], [(b"foo", b"2")], False),
        (b"foo", [(b"foo", b"1")], [], False),
        (b"foo", [], [(b"foo", b"1")], False),
        (b"foo", [], [], True),
        (b"foo", [], [(b"foo", b"")], False),
        (b"foo", [(b"foo", b"1")], [(b"foo", b"1"), (b"bar", b"2")], True),
        (b"FoO", [(b"foo", b"1")], [(b"foo", b"2")], False),
        (b"foo, bar", [(b"foo", b"1"), (b"bar", b"a")], [(b"bar", b"a"), (b"foo", b"1")], True),
        (b"foo, bar", [(b"foo", b"1"), (b"bar", b"a")], [(b"foo", b"1"), (b"bar", b"b")], False),
        (b"foo, bar", [(b"foo", b"1")], [(b"bar", b"1")], False),
        (b"foo", [(b"foo", b"1"), (b"foo", b"2")], [(b"foo", b"1, 2")], True),
        (b"foo", [(b"foo", b"1,2")], [(b"foo", b"1 ,  2")], True),
        (b"foo", [(b"foo", b"1, 2")], [(b"foo", b"2, 1")], False),
        (b"accept", [(b"accept", b"A")], [(b"accept", b"a")], False),
        (b"authorization", [], AUTH, False),
    ],
)
def test_the_fields_that_vary_names_must_match(
    vary: bytes, first: Headers, second: Headers, expected: bool
) -> None:
    traffic = cached()
    ask(traffic, first, answer=[(b"vary", vary), *cc(b"max-age=60")])
    assert reused(traffic, second) is expected


def test_two_lines_of_vary_are_one_list() -> None:
    traffic = cached()
    ask(traffic, [(b"bar", b"1")], answer=[(b"vary", b"foo"), (b"vary", b"bar"), *cc(b"max-age=60")])
    assert not reused(traffic, [(b"bar", b"2")])


def test_variants_are_kept_beside_each_other() -> None:
    traffic = cached()
    for value in (b"1", b"2"):
        ask(traffic, [(b"foo", value)], body=value, answer=[(b"vary", b"foo"), *cc(b"max-age=60")])
    assert [ask(traffic, [(b"foo", value)]).down.body for value in (b"1", b"2")] == [b"1", b"2"]
    assert len(traffic.upstream.calls) == 2


# §5.2.1 what a request may ask


@pytest.mark.parametrize(
    ("wish", "after", "expected"),
    [
        (cc(b"no-cache"), 0, False),
        (cc(b"no-store"), 0, False),
        (cc(b"max-age=0"), 1, False),
        (cc(b"max-age=10"), 5, True),
        (cc(b"max-age=10"), 15, False),
        (cc(b"max-age=x"), 1, False),
        (cc(b"min-fresh=10"), 45, True),
        (cc(b"min-fresh=10"), 55, False),
        (cc(b"min-fresh=x"), 0, False),
        (cc(b"max-stale"), 500, True),
        (cc(b"max-stale=10"), 65, True),
        (cc(b"max-stale=10"), 75, False),
        (cc(b"max-stale=x"), 65, False),
        (cc(b"max-stale=100, max-age=10"), 65, False),
        ([(b"pragma", b"no-cache")], 0, False),
        ([(b"pragma", b"no-cache"), *cc(b"max-age=10")], 0, True),
        ([(b"pragma", b"foo")], 0, True),
        (cc(b"only-if-cached"), 30, True),
        (cc(b"foo"), 30, True),
    ],
)
def test_what_the_client_asks_is_respected(wish: Headers, after: float, expected: bool) -> None:
    traffic = cached()
    ask(traffic, answer=cc(b"max-age=60"))
    traffic.clock.advance(after)
    assert reused(traffic, wish) is expected


@pytest.mark.parametrize("said", [b"must-revalidate", b"proxy-revalidate", b"s-maxage=60", b"no-cache"])
def test_no_wish_makes_a_forbidden_stale_answer_allowed(said: bytes) -> None:
    traffic = cached(stale_while_revalidate=Duration(600.0), stale_if_error=Duration(600.0))
    ask(traffic, answer=[ETAG, *cc(b"max-age=60, " + said)])
    traffic.clock.advance(100)
    assert not reused(traffic, cc(b"max-stale"))
    traffic.clock.advance(100)
    ask(traffic, status=503)
    sent = get(traffic)
    traffic.upstream.calls[-1].fail(UpstreamReset("gone"))
    assert sent.down.status >= 500


def test_a_request_that_says_no_store_leaves_nothing() -> None:
    traffic = cached()
    ask(traffic, cc(b"no-store"), answer=cc(b"max-age=60"))
    assert not reused(traffic)


@pytest.mark.parametrize("age", [None, 100])
def test_only_if_cached_is_answered_504_when_nothing_may_be_given(age: float | None) -> None:
    traffic = cached()
    if age is not None:
        ask(traffic, answer=cc(b"max-age=60"))
        traffic.clock.advance(age)
    sent = ask(traffic, cc(b"only-if-cached"))
    assert sent.down.status == 504
    assert len(traffic.upstream.calls) == (0 if age is None else 1)


# §4.2.3 Age, §4 Cache-Status (RFC 9211)


def test_age_counts_what_others_kept_it_and_what_we_did() -> None:
    traffic = cached()
    ask(traffic, answer=[(b"age", b"10"), *cc(b"max-age=60")])
    traffic.clock.advance(7)
    sent = ask(traffic)
    assert sent.down.field(b"age") == b"17"
    assert [name for name, _ in sent.down.response.headers].count(b"age") == 1


def test_age_is_at_least_the_time_since_date() -> None:
    traffic = cached()
    ask(traffic, answer=[(b"date", at(traffic, -30)), *cc(b"max-age=60")])
    assert ask(traffic).down.field(b"age") == b"30"


def test_cache_status_tells_what_the_cache_did() -> None:
    traffic = cached()
    seen = [ask(traffic, answer=[ETAG, *cc(b"max-age=60")])]
    seen.append(ask(traffic))
    seen.append(ask(traffic, cc(b"no-cache"), status=304, body=b""))
    traffic.clock.advance(100)
    seen.append(ask(traffic, cc(b"max-stale")))
    seen.append(ask(traffic, status=304, body=b""))
    seen.append(ask(traffic, [(b"range", b"bytes=0-1")]))
    assert [sent.down.field(b"cache-status") for sent in seen] == [
        b"headgate; fwd=miss; stored",
        b"headgate; hit",
        b"headgate; fwd=request; fwd-status=304; stored",
        b"headgate; hit; ttl=-40",
        b"headgate; fwd=stale; fwd-status=304; stored",
        b"headgate; fwd=bypass",
    ]


def test_fields_named_private_or_no_cache_are_not_given_again() -> None:
    traffic = cached()
    said = cc(b'max-age=60, private="x-mine, x-too", no-cache="x-three"')
    mine = [(b"x-mine", b"1"), (b"x-too", b"2"), (b"x-three", b"3"), (b"x-all", b"4")]
    first = ask(traffic, answer=[*said, *mine])
    assert first.down.field(b"x-mine") == b"1"
    again = ask(traffic).down.response.headers
    assert [name for name, _ in again if name.startswith(b"x-") and name != b"x-request-id"] == [b"x-all"]


# §4.3 Validation


@pytest.mark.parametrize(
    ("validator", "asks"),
    [
        ((b"etag", b'"v1"'), (b"if-none-match", b'"v1"')),
        ((b"etag", b'W/"v1"'), (b"if-none-match", b'W/"v1"')),
        (
            (b"last-modified", b"Thu, 01 Jan 2015 00:00:00 GMT"),
            (b"if-modified-since", b"Thu, 01 Jan 2015 00:00:00 GMT"),
        ),
    ],
)
def test_a_stale_answer_is_asked_about_and_renewed(
    validator: tuple[bytes, bytes], asks: tuple[bytes, bytes]
) -> None:
    traffic = cached()
    ask(
        traffic,
        body=b"one",
        answer=[validator, *cc(b"max-age=60"), (b"x-count", b"1"), (b"content-type", b"a/b")],
    )
    traffic.clock.advance(100)
    renewed = ask(traffic, status=304, body=b"", answer=[validator, *cc(b"max-age=90"), (b"x-count", b"2")])
    assert asks in traffic.upstream.calls[-1].request.headers
    assert (renewed.down.status, renewed.down.body) == (200, b"one")
    assert renewed.down.field(b"x-count") == b"2"
    traffic.clock.advance(80)
    again = ask(traffic)
    assert (again.down.body, again.down.field(b"age")) == (b"one", b"80")
    assert len(traffic.upstream.calls) == 2


def test_a_new_answer_takes_the_place_of_the_old_one() -> None:
    traffic = cached()
    ask(traffic, body=b"one", answer=[ETAG, *cc(b"max-age=60")])
    traffic.clock.advance(100)
    assert ask(traffic, body=b"two", answer=[(b"etag", b'"v2"'), *cc(b"max-age=60")]).down.body == b"two"
    assert ask(traffic).down.body == b"two"


def test_a_304_about_something_else_renews_nothing() -> None:
    traffic = cached()
    ask(traffic, body=b"one", answer=[ETAG, *cc(b"max-age=60")])
    traffic.clock.advance(100)
    ask(traffic, status=304, body=b"", answer=[(b"etag", b'"v9"'), *cc(b"max-age=60")])
    assert not reused(traffic)


@pytest.mark.parametrize(
    ("condition", "status"),
    [
        ([(b"if-none-match", b'"v1"')], 304),
        ([(b"if-none-match", b'W/"v1"')], 304),
        ([(b"if-none-match", b'"v0", "v1"')], 304),
        ([(b"if-none-match", b'"v0"'), (b"if-none-match", b'"v1"')], 304),
        ([(b"if-none-match", b"*")], 304),
        ([(b"if-none-match", b'"v0"')], 200),
        ([(b"if-none-match", b'"v0"'), (b"if-modified-since", b"Thu, 01 Jan 2037 00:00:00 GMT")], 200),
        ([(b"if-modified-since", b"Thu, 01 Jan 2015 00:00:00 GMT")], 304),
        ([(b"if-modified-since", b"Thu, 01 Jan 2037 00:00:00 GMT")], 304),
        ([(b"if-modified-since", b"Thu, 01 Jan 2009 00:00:00 GMT")], 200),
        ([(b"if-modified-since", b"yesterday")], 200),
    ],
)
@pytest.mark.parametrize("stale", [False, True])
def test_a_clients_condition_is_answered_from_what_is_kept(
    condition: Headers, status: int, stale: bool
) -> None:
    traffic = cached()
    changed = (b"last-modified", b"Thu, 01 Jan 2015 00:00:00 GMT")
    ask(traffic, answer=[ETAG, changed, *cc(b"max-age=60")])
    traffic.clock.advance(100 if stale else 1)
    sent = ask(traffic, condition, status=304, body=b"")
    assert (sent.down.status, sent.down.body) == (status, b"" if status == 304 else b"fresh")
    assert len(traffic.upstream.calls) == (2 if stale else 1)


def test_a_clients_condition_goes_on_when_nothing_is_kept() -> None:
    traffic = cached()
    sent = ask(
        traffic, [(b"if-none-match", b'"v1"')], status=304, body=b"", answer=[ETAG, *cc(b"max-age=60")]
    )
    assert sent.down.status == 304
    assert not reused(traffic)


# HEAD


def test_head_is_answered_from_get_and_get_never_from_head() -> None:
    traffic = cached()
    ask(traffic, method=b"HEAD", body=b"", answer=cc(b"max-age=60"))
    ask(traffic, body=b"12345", answer=cc(b"max-age=60"))
    sent = ask(traffic, method=b"HEAD")
    assert (len(traffic.upstream.calls), sent.down.status) == (2, 200)
    assert (sent.down.body, sent.down.response.length) == (b"", 5)


@pytest.mark.parametrize(
    ("fields", "length", "after", "reuses"),
    [
        ([ETAG, *cc(b"max-age=100")], 5, 90, True),
        ([ETAG, *cc(b"max-age=100")], 5, 110, False),
        ([*cc(b"max-age=100")], 0, 90, True),
        ([(b"etag", b'"v2"'), *cc(b"max-age=100")], 5, 0, False),
        ([ETAG, *cc(b"max-age=100")], 6, 0, False),
        ([ETAG, *cc(b"no-store, max-age=100")], 5, 0, False),
    ],
    ids=["same", "same, later", "no validator", "another etag", "another length", "no-store"],
)
def test_an_answer_to_head_renews_or_outdates_what_get_kept(
    fields: Headers, length: int, after: float, reuses: bool
) -> None:
    traffic = cached()
    ask(traffic, body=b"12345", answer=[ETAG, *cc(b"max-age=60")])
    traffic.clock.advance(80)
    ask(traffic, method=b"HEAD", body=b"x" * length, answer=fields)
    assert len(traffic.upstream.calls) == 2
    traffic.clock.advance(after)
    assert reused(traffic) is reuses


# §4.4 Invalidation


@pytest.mark.parametrize(
    ("method", "status", "answer", "outdated"),
    [
        *[(method, 200, [], True) for method in (b"POST", b"PUT", b"DELETE", b"PATCH", b"M-SEARCH")],
        (b"POST", 303, [], True),
        (b"POST", 404, [], False),
        (b"POST", 500, [], False),
        (b"OPTIONS", 200, [], False),
    ],
)
def test_a_successful_unsafe_request_outdates_its_url(
    method: bytes, status: int, answer: Headers, outdated: bool
) -> None:
    traffic = cached()
    ask(traffic, answer=cc(b"max-age=60"))
    traffic.clock.advance(1)
    ask(traffic, method=method, status=status, answer=answer)
    traffic.clock.advance(1)
    assert reused(traffic) is not outdated


@pytest.mark.parametrize("field", [b"location", b"content-location"])
@pytest.mark.parametrize(
    ("reference", "outdated"),
    [
        (b"/orders/7", True),
        (b"7", True),
        (b"http://shop.example/orders/7", True),
        (b"//SHOP.example/orders/7#part", True),
        (b"https://other.example/orders/7", False),
        (b"mailto:me", False),
        (b"/orders/8", False),
    ],
)
def test_what_it_points_to_on_the_same_host_is_outdated_too(
    field: bytes, reference: bytes, outdated: bool
) -> None:
    traffic = cached()
    ask(traffic, answer=cc(b"max-age=60"))
    traffic.clock.advance(1)
    ask(traffic, path=b"/orders/", method=b"POST", status=201, answer=[(field, reference)])
    traffic.clock.advance(1)
    assert reused(traffic) is not outdated


def test_it_is_outdated_for_every_principal_and_variant() -> None:
    traffic = cached(scope="principal")
    for name in ("alice", "bob"):
        ask(
            traffic,
            [(b"foo", b"1")],
            principal=Principal(name),
            answer=[(b"vary", b"foo"), *cc(b"max-age=60")],
        )
    traffic.clock.advance(1)
    ask(traffic, method=b"DELETE", principal=Principal("eve"))
    traffic.clock.advance(1)
    assert not reused(traffic, [(b"foo", b"1")], principal=Principal("alice"))
    assert not reused(traffic, [(b"foo", b"1")], principal=Principal("bob"))


def test_an_answer_that_was_on_its_way_meanwhile_is_not_kept() -> None:
    traffic = cached()
    get(traffic)
    ask(traffic, method=b"PUT")
    traffic.upstream.calls[0].answer(b"old", headers=cc(b"max-age=60"))
    traffic.clock.advance(1)
    assert not reused(traffic)


# §3.3, §3.4 parts


def test_ranges_pass_by_and_partial_answers_are_not_kept() -> None:
    traffic = cached()
    part = ask(traffic, [(b"range", b"bytes=0-1")], status=206, body=b"fr", answer=cc(b"max-age=60"))
    assert part.down.status == 206
    assert not reused(traffic)


def test_what_breaks_off_is_not_kept() -> None:
    traffic = cached()
    get(traffic)
    call = traffic.upstream.calls[0]
    call.sink.on_response(Response(200, cc(b"max-age=60"), None, length=100))
    call.sink.on_chunk(b"half", False)
    call.fail(UpstreamReset("gone"))
    assert len(traffic.parts.answers) == 0


# Stale answers: RFC 5861


@pytest.mark.parametrize("by_policy", [True, False])
def test_while_one_asks_anew_the_others_get_the_stale_answer(by_policy: bool) -> None:
    traffic = cached(stale_while_revalidate=Duration(30.0 if by_policy else 0.0))
    said = b"max-age=60" if by_policy else b"max-age=60, stale-while-revalidate=30"
    ask(traffic, body=b"old", answer=[ETAG, *cc(said)])
    traffic.clock.advance(70)
    first = get(traffic)
    others = [get(traffic) for _ in range(3)]
    assert [sent.down.body for sent in others] == [b"old"] * 3
    assert not first.down.answered
    traffic.upstream.calls[-1].answer(b"new", headers=cc(said))
    assert [first.down.body, ask(traffic).down.body] == [b"new", b"new"]
    assert len(traffic.upstream.calls) == 2


@pytest.mark.parametrize("status", [500, 502, 503, 504, None])
@pytest.mark.parametrize(("after", "given"), [(90, True), (130, False)])
def test_a_stale_answer_is_better_than_an_error(status: int | None, after: float, given: bool) -> None:
    traffic = cached()
    ask(traffic, body=b"old", answer=cc(b"max-age=60, stale-if-error=60"))
    traffic.clock.advance(after)
    sent = get(traffic)
    if status is None:
        traffic.upstream.calls[-1].fail(UpstreamReset("gone"))
    else:
        traffic.upstream.calls[-1].answer(b"error", status)
    assert (sent.down.body == b"old") is given
    assert (sent.down.status == 200) is given


# Many at once


def test_ten_at_once_ask_once() -> None:
    traffic = cached()
    sent = [get(traffic) for _ in range(10)]
    assert len(traffic.upstream.calls) == 1
    traffic.upstream.calls[0].answer(b"one", headers=cc(b"max-age=60"))
    assert {one.down.body for one in sent} == {b"one"}


def test_what_cant_be_shared_is_asked_for_by_each() -> None:
    traffic = cached()
    sent = [get(traffic) for _ in range(3)]
    traffic.upstream.calls[0].answer(b"one", headers=cc(b"private"))
    for call in traffic.upstream.calls[1:]:
        call.answer(b"own")
    assert [one.down.body for one in sent] == [b"one", b"own", b"own"]


def test_those_who_wait_get_only_their_own_variant() -> None:
    traffic = cached()
    sent = [get(traffic, [(b"foo", value)]) for value in (b"1", b"1", b"2")]
    traffic.upstream.calls[0].answer(b"one", headers=[(b"vary", b"foo"), *cc(b"max-age=60")])
    traffic.upstream.calls[1].answer(b"two", headers=[(b"vary", b"foo"), *cc(b"max-age=60")])
    assert [one.down.body for one in sent] == [b"one", b"one", b"two"]


def test_the_next_goes_on_when_the_first_leaves() -> None:
    traffic = cached()
    first, second = get(traffic), get(traffic)
    first.exchange.on_client_gone()
    traffic.upstream.calls[1].answer(b"one", headers=cc(b"max-age=60"))
    assert second.down.body == b"one"
    assert "0 under way" in repr(traffic.parts.answers)


def test_another_gateway_behind_the_same_store_has_it_too() -> None:
    blobs = MemoryBlobs(100_000, ManualClock())
    ask(cached(blobs=blobs), status=404, answer=[(b"vary", b"foo"), *cc(b"max-age=60")])
    other = cached(blobs=blobs)
    assert ask(other).down.status == 404
    assert not other.upstream.calls


class Leasing:
    """What a store that others share has beside its blobs; every lease is ours."""

    def __init__(self) -> None:
        self.released: list[bool] = []

    def lease(self, key: bytes) -> Lease:
        return Lease.OURS

    def release(self, key: bytes, shared: bool) -> None:
        self.released.append(shared)

    def announce(self, what: str) -> None: ...


@pytest.mark.parametrize(
    ("said", "calls", "shared"),
    [(b"max-age=60", 1, [True]), (b"no-cache, max-age=60", 3, [False]), (b"max-age=0", 3, [False])],
)
def test_with_a_shared_store_too_what_must_be_asked_about_always_is(
    said: bytes, calls: int, shared: list[bool]
) -> None:
    leasing = Leasing()
    answers = AnswerStore(100_000, MemoryBlobs(100_000, ManualClock()), leasing)
    answers.trust(True)
    traffic = cached(answers=answers)
    for _ in range(3):
        ask(traffic, answer=[ETAG, *cc(said)])
    assert len(traffic.upstream.calls) == calls
    assert leasing.released == shared, "others who wait are told when there is nothing to wait for"


def test_a_dry_run_changes_nothing() -> None:
    traffic = cached()
    assert get(traffic, dry=True).down.answered
    assert (len(traffic.parts.answers), "0 under way" in repr(traffic.parts.answers)) == (0, True)


def test_answers_are_forgotten_by_the_tags_that_an_instance_gave_them() -> None:
    traffic = cached()
    ask(traffic, answer=[(b"cache-tag", b"orders, seven"), *cc(b"max-age=60")])
    traffic.clock.advance(1)
    assert traffic.parts.answers.purge_tag("tag:eight", traffic.clock.wall()) == 0
    assert reused(traffic)
    assert traffic.parts.answers.purge_tag("tag:seven", traffic.clock.wall()) > 0
    traffic.clock.advance(1)
    assert not reused(traffic)


def test_answers_are_forgotten_by_url() -> None:
    traffic = cached()
    ask(traffic, answer=cc(b"max-age=60"))
    traffic.clock.advance(1)
    assert traffic.parts.answers.purge_tag("url:shop.example/orders/7", traffic.clock.wall()) > 0
    traffic.clock.advance(1)
    assert not reused(traffic)
