"""What RFC 9111 and its neighbours ask of a shared cache, as exchanges with an origin.

In the spirit of http-tests/cache-tests: each rule has a name, how much it is asked for, the section that
asks, and steps. A step is what a client asks, what the origin would answer, and whether the origin is to be
asked at all; then what client and origin are to see. Nothing waits: what is to be old comes old.

    MUST, MUST NOT, SHOULD    the document's word
    MAY                       allowed, and what this cache does
    OURS                      stricter than the document, on purpose
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from email.utils import formatdate
from time import time

Fields = Mapping[str, str] | Sequence[tuple[str, str]]

NOW = time()  # when the table was made: seconds before the first exchange
HOUR = 3600.0


def ago(seconds: float) -> str:
    """An HTTP-date so many seconds back."""
    return formatdate(NOW - seconds, usegmt=True)


@dataclass(frozen=True)
class Step:
    """One request.

    reached: whether the origin is asked. answer: its status and fields, None for a connection that breaks.
    gets: the status that the client sees; sees, misses: fields of that answer; tells, omits: of the request
    that the origin sees.
    """

    reached: bool
    answer: tuple[int, Fields] | None = (200, {})
    says: Fields = ()
    method: str = "GET"
    at: str = ""
    host: str = ""
    gets: int | None = None
    sees: Mapping[str, str] | None = None
    misses: Sequence[str] = ()
    tells: Mapping[str, str] | None = None
    omits: Sequence[str] = ()


@dataclass(frozen=True)
class Rule:
    """One thing asked of a cache."""

    name: str
    word: str
    section: str
    steps: tuple[Step, ...]


def again(
    name: str,
    word: str,
    section: str,
    fields: Fields,
    reached: bool,
    *,
    first: Fields = (),
    second: Fields = (),
    status: int = 200,
) -> Rule:
    """The same is asked for twice, and `reached` tells whether the origin is, the second time."""
    answer = (status, fields)
    return Rule(name, word, section, (Step(True, answer, first), Step(reached, answer, second, gets=status)))


def kept(fields: Fields, says: Fields = ()) -> Step:
    """What is to be kept first."""
    return Step(True, (200, fields), says)


def changed(method: str, status: int, reached: bool, fields: Fields = (), **where: str) -> tuple[Step, ...]:
    """Something is kept, then a request with this method is answered so; is the origin asked again?"""
    about = {"at": where.get("kept", "")}
    return (
        Step(True, (200, LONG), **about),
        Step(True, (status, fields), method=method, gets=status),
        Step(reached, (200, LONG), **about),
    )


LONG = {"cache-control": "max-age=3600"}
OLD = {"cache-control": "max-age=10", "age": "100"}
CHECKABLE = {**OLD, "etag": '"1"'}
DATED = {**OLD, "last-modified": ago(HOUR)}


def cc(value: str, **more: str) -> dict[str, str]:
    """Fields with this Cache-Control."""
    return {"cache-control": value, **{name.replace("_", "-"): said for name, said in more.items()}}


FRESHNESS = [
    again("max-age", "MAY", "9111 §4.2.1", cc("max-age=3600"), False),
    again("max-age of 0", "MUST NOT", "9111 §4.2.1", cc("max-age=0"), True),
    again("s-maxage beats a max-age of 0", "MUST", "9111 §5.2.2.10", cc("max-age=0, s-maxage=3600"), False),
    again("s-maxage of 0 beats max-age", "MUST", "9111 §5.2.2.10", cc("s-maxage=0, max-age=3600"), True),
    again("max-age beats Expires in the past", "MUST", "9111 §5.3", cc("max-age=3600", expires=ago(HOUR)),
          False),
    again("max-age of 0 beats Expires", "MUST", "9111 §5.3", cc("max-age=0", expires=ago(-HOUR)), True),
    again("names without regard to case", "MUST", "9111 §5.2", cc("MaX-aGe=3600"), False),
    again("a quoted max-age", "MAY", "9111 §5.2", cc('max-age="3600"'), False),
    again("spaces around directives", "MUST", "9110 §5.6.1", cc("   max-age=3600  ,  "), False),
    again("empty list members", "MUST", "9110 §5.6.1.2", cc(",, max-age=3600,,"), False),
    again("two lines of Cache-Control", "MUST", "9110 §5.3",
          [("cache-control", "public"), ("cache-control", "max-age=3600")], False),
    again("max-age too large for any integer", "MUST", "9111 §1.2.2", cc("max-age=99999999999999999999"),
          False),
    again("a negative max-age counts as stale", "SHOULD", "9111 §4.2.1", cc("max-age=-3600"), True),
    again("a max-age with a fraction counts as stale", "SHOULD", "9111 §4.2.1", cc("max-age=3600.5"), True),
    again("a max-age that is no number counts as stale", "SHOULD", "9111 §4.2.1", cc("max-age=abc"), True),
    again("a max-age in single quotes counts as stale", "SHOULD", "9111 §4.2.1", cc("max-age='3600'"), True),
    again("of two max-ages the smaller", "SHOULD", "9111 §4.2.1", cc("max-age=3600, max-age=0"), True),
    again("a max-age inside another directive's text", "MUST NOT", "9111 §5.2", cc('ext="max-age=3600"'),
          True),
    again("unknown directives are ignored", "MUST", "9111 §5.2.3", cc("max-age=3600, foo, bar=1"), False),
    again("a name that only begins like max-age", "MUST NOT", "9111 §5.2", cc("max-ages=3600"), True),
    again("Expires", "MAY", "9111 §5.3", {"expires": ago(-HOUR), "date": ago(0)}, False),
    again("Expires in the past", "MUST NOT", "9111 §5.3", {"expires": ago(HOUR)}, True),
    again("Expires counts from Date", "MUST", "9111 §4.2.1", {"expires": ago(2 * HOUR),
          "date": ago(3 * HOUR)},
          True),
    again("Expires counts from Date, however old that is", "MUST", "9111 §4.2.1",
          {"expires": ago(-900), "date": ago(1800)}, False),
    again("Expires of 0", "MUST", "9111 §5.3", {"expires": "0"}, True),
    again("Expires that is no date", "MUST", "9111 §5.3", {"expires": "tomorrow"}, True),
    again("Expires in RFC 850's form", "MUST", "9110 §5.6.7",
          {"expires": "Thursday, 18-Aug-50 02:01:18 GMT"}, False),
    again("Expires in asctime's form", "MUST", "9110 §5.6.7", {"expires": "Thu Aug 18 02:01:18 2050"}, False),
    again("Expires in another zone is none", "SHOULD", "9110 §5.6.7",
          {"expires": "Thu, 18 Aug 2050 02:01:18 AEST"}, True),
    again("Expires in two lines is none", "SHOULD", "9111 §4.2.1",
          [("expires", ago(-HOUR)), ("expires", ago(-2 * HOUR))], True),
    again("nothing said, no heuristic asked for", "OURS", "9111 §4.2.2", {"last-modified": ago(900 * HOUR)},
          True),
]  # fmt: skip

AGE = [
    again("an Age beyond max-age", "MUST", "9111 §4.2.3", cc("max-age=3600", age="7200"), True),
    again("an Age below max-age", "MAY", "9111 §4.2.3", cc("max-age=3600", age="1800"), False),
    again("Date long ago is age, too", "MUST", "9111 §4.2.3", cc("max-age=3600", date=ago(2 * HOUR)), True),
    again("an Age too large for any integer", "MUST", "9111 §1.2.2", cc("max-age=3600", age="9" * 20), True),
    again("of an Age with several members the first", "SHOULD", "9111 §5.1",
          cc("max-age=3600", age="0, 7200"), False),
    again("an Age that is no number is ignored", "SHOULD", "9111 §5.1", cc("max-age=3600", age="abc"), False),
    again("a negative Age is ignored", "SHOULD", "9111 §5.1", cc("max-age=3600", age="-7200"), False),
    Rule("a hit tells its Age", "MUST", "9111 §5.1",
         (kept(cc("max-age=3600", age="1800")), Step(False, sees={"age": "1800"}))),
    Rule("a hit keeps the origin's Date", "MUST NOT", "9110 §6.6.1",
         (kept(cc("max-age=3600", date=ago(60))), Step(False, sees={"date": ago(60)}))),
]  # fmt: skip

KEEPING = [
    again("no-store", "MUST NOT", "9111 §5.2.2.5", cc("no-store"), True),
    again("no-store beside max-age", "MUST NOT", "9111 §5.2.2.5", cc("max-age=3600, no-store"), True),
    again("No-Store in capitals", "MUST NOT", "9111 §5.2", cc("NO-STORE, max-age=3600"), True),
    again("no-store in a second line", "MUST NOT", "9111 §5.2.2.5",
          [("cache-control", "max-age=3600"), ("cache-control", "no-store")], True),
    again("private", "MUST NOT", "9111 §5.2.2.7", cc("private, max-age=3600"), True),
    again("private beside s-maxage", "MUST NOT", "9111 §5.2.2.7", cc("private, s-maxage=3600"), True),
    again("no-cache", "MUST NOT", "9111 §5.2.2.4", cc("no-cache, max-age=3600"), True),
    again("no-cache beside Expires", "MUST NOT", "9111 §5.2.2.4", cc("no-cache", expires=ago(-HOUR)), True),
    again("public with a lifetime", "MAY", "9111 §5.2.2.9", cc("public, max-age=3600"), False),
    again("must-understand overrides no-store", "SHOULD", "9111 §5.2.2.3",
          cc("must-understand, no-store, max-age=3600"), False),
    again("must-understand, with a status nobody knows", "MUST NOT", "9111 §5.2.2.3",
          cc("must-understand, max-age=3600"), True, status=299),
    again("the request's no-store", "MUST NOT", "9111 §5.2.1.5", LONG, True, first=cc("no-store")),
    again("Pragma in an answer means nothing", "MUST", "9111 §5.4", cc("max-age=3600", pragma="no-cache"),
          False),
    again("Authorization", "MUST NOT", "9111 §3.5", LONG, True, first={"authorization": "x"},
          second={"authorization": "x"}),
    again("an answer to Authorization is nobody else's", "MUST NOT", "9111 §3.5", LONG, True,
          first={"authorization": "x"}),
    *(again(f"Authorization with {said}", "MAY", "9111 §3.5", cc(f"{said}, max-age=3600"), False,
            first={"authorization": "x"}) for said in ("public", "must-revalidate", "s-maxage=3600")),
    again("Set-Cookie", "OURS", "9111 §7.3", cc("max-age=3600", set_cookie="a=b"), True),
    again("Set-Cookie with public", "MAY", "9111 §7.3", cc("public, max-age=3600", set_cookie="a=b"), False),
    *(again(f"{status} with a lifetime", "MAY", "9111 §3", LONG, False, status=status)
      for status in (200, 203, 204, 299, 301, 302, 307, 308, 400, 403, 404, 405, 410, 414, 451, 499, 501)),
    again("206 is not taken for the whole", "MUST NOT", "9111 §3.3",
          cc("max-age=3600", content_range="bytes 0-3/9"), True, status=206),
    again("a request with Range passes by", "MAY", "9111 §3.3", LONG, True, second={"range": "bytes=0-1"}),
    Rule("an answer that breaks off", "MUST NOT", "9111 §3.3",
         (Step(True, (200, {**LONG, "content-length": "99"}), gets=502), Step(True, (200, LONG)))),
    Rule("fields that Connection names stay behind", "MUST NOT", "9111 §3.1",
         (kept({**LONG, "connection": "x-hop", "x-hop": "1", "x-end": "2"}),
          Step(False, sees={"x-end": "2"}, misses=["x-hop"]))),
    Rule("a field that no-cache names is not given again", "MUST NOT", "9111 §5.2.2.4",
         (kept(cc('max-age=3600, no-cache="x-a"', x_a="1", x_b="2")),
          Step(False, sees={"x-b": "2"}, misses=["x-a"]))),
    Rule("a field that private names is not kept", "MUST NOT", "9111 §5.2.2.7",
         (kept(cc('max-age=3600, private="x-a"', x_a="1", x_b="2")),
          Step(False, sees={"x-b": "2"}, misses=["x-a"]))),
    Rule("unknown fields are kept", "MUST", "9111 §3.1",
         (kept({**LONG, "x-custom": "yes", "content-md5": "x"}),
          Step(False, sees={"x-custom": "yes", "content-md5": "x"}))),
    Rule("POST is not answered from what is kept", "MUST", "9111 §4",
         (kept(LONG), Step(True, (200, {}), method="POST"))),
    Rule("what POST got doesn't answer GET", "OURS", "9110 §9.3.3",
         (Step(True, (200, LONG), method="POST"), Step(True, (200, LONG)))),
    Rule("HEAD is answered from GET's", "MAY", "9110 §9.3.2",
         (kept({**LONG, "x-a": "1"}), Step(False, method="HEAD", sees={"x-a": "1"}))),
    Rule("GET is not answered from HEAD's", "MUST NOT", "9111 §3",
         (Step(True, (200, LONG), method="HEAD"), Step(True, (200, LONG)))),
    Rule("another query is another answer", "MUST", "9111 §4",
         (kept(LONG), Step(True, (200, LONG), at="?a=1"), Step(True, (200, LONG), at="?a=2"))),
    Rule("another host is another answer", "MUST", "9111 §4",
         (kept(LONG), Step(True, (200, LONG), host="other.example"))),
]  # fmt: skip


def varied(
    name: str, vary: str, first: Fields, second: Fields, reached: bool, word: str = "MUST NOT"
) -> Rule:
    """Two requests for what varies."""
    return again(name, word, "9111 §4.1", {**LONG, "vary": vary}, reached, first=first, second=second)


VARY = [
    varied("equal fields", "foo", {"foo": "1"}, {"foo": "1"}, False, "MAY"),
    varied("another value", "foo", {"foo": "1"}, {"foo": "2"}, True),
    varied("a field that is missing now", "foo", {"foo": "1"}, (), True),
    varied("a field that was missing", "foo", (), {"foo": "1"}, True),
    varied("missing both times", "foo", (), (), False, "MAY"),
    varied("an empty field is not a missing one", "foo", {"foo": ""}, (), True),
    varied("names without regard to case", "FOO", {"foo": "1"}, {"Foo": "1"}, False, "MUST"),
    varied("values with regard to case", "foo", {"foo": "a"}, {"foo": "A"}, True),
    varied("one of two differs", "foo, bar", {"foo": "1", "bar": "1"}, {"foo": "1", "bar": "2"}, True),
    varied("fields in another order", "foo, bar", [("foo", "1"), ("bar", "2")], [("bar", "2"), ("foo", "1")],
           False, "MAY"),
    varied("one list in one line or two", "foo", {"foo": "1, 2"}, [("foo", "1"), ("foo", "2")], False, "MAY"),
    varied("a list in another order", "foo", {"foo": "1, 2"}, {"foo": "2, 1"}, True),
    varied("a field that is not named", "foo", {"foo": "1", "baz": "1"}, {"foo": "1", "baz": "2"}, False,
          "MAY"),
    varied("a star never matches", "*", (), (), True),
    varied("a star among names", "foo, *", {"foo": "1"}, {"foo": "1"}, True),
    Rule("Vary in two lines is one list", "MUST", "9110 §5.3",
         (kept([("cache-control", "max-age=3600"), ("vary", "foo"), ("vary", "bar")], {"bar": "1"}),
          Step(True, (200, LONG), {"bar": "2"}))),
    Rule("variants are kept beside each other", "MAY", "9111 §4.1",
         (kept({**LONG, "vary": "foo", "x-a": "1"}, {"foo": "1"}),
          kept({**LONG, "vary": "foo", "x-a": "2"}, {"foo": "2"}),
          Step(False, says={"foo": "1"}, sees={"x-a": "1"}), Step(False, says={"foo": "2"},
          sees={"x-a": "2"}))),
]  # fmt: skip


def wish(
    name: str, word: str, section: str, fields: Fields, said: str, reached: bool, gets: int = 200
) -> Rule:
    """Something is kept; then a request with this Cache-Control comes."""
    return Rule(name, word, f"9111 §5.2.1.{section}",
                (kept(fields), Step(reached, (200, LONG), cc(said), gets=gets)))  # fmt: skip


HALF = cc("max-age=3600", age="1800")
WISHES = [
    wish("max-age above the age", "MAY", "1", HALF, "max-age=2000", False),
    wish("max-age below the age", "SHOULD", "1", HALF, "max-age=1000", True),
    wish("max-age of 0", "SHOULD", "1", cc("max-age=3600", age="1"), "max-age=0", True),
    wish("min-fresh that is there", "MAY", "3", HALF, "min-fresh=1000", False),
    wish("min-fresh that is not", "SHOULD", "3", HALF, "min-fresh=2000", True),
    wish("max-stale without a bound", "MAY", "2", OLD, "max-stale", False),
    wish("max-stale that is enough", "MAY", "2", OLD, "max-stale=1000", False),
    wish("max-stale that is not", "MUST NOT", "2", OLD, "max-stale=10", True),
    wish("max-stale against must-revalidate", "MUST NOT", "2", cc("max-age=10, must-revalidate", age="100"),
         "max-stale", True),
    wish("max-stale against proxy-revalidate", "MUST NOT", "2", cc("max-age=10, proxy-revalidate", age="100"),
         "max-stale", True),
    wish("max-stale against s-maxage", "MUST NOT", "2", cc("s-maxage=10", age="100"), "max-stale", True),
    wish("no-cache", "MUST NOT", "4", LONG, "no-cache", True),
    wish("no-store may still be answered from here, and isn't", "MAY", "5", LONG, "no-store", True),
    wish("only-if-cached, and it is", "MAY", "7", LONG, "only-if-cached", False),
    wish("only-if-cached, and it is stale", "SHOULD", "7", OLD, "only-if-cached", False, 504),
    Rule("only-if-cached, and it is not", "SHOULD", "9111 §5.2.1.7",
         (Step(False, says=cc("only-if-cached"), gets=504),)),
    Rule("Pragma: no-cache without Cache-Control", "OURS", "9111 §5.4",
         (kept(LONG), Step(True, (200, LONG), {"pragma": "no-cache"}))),
    Rule("Pragma beside Cache-Control means nothing", "MUST", "9111 §5.4",
         (kept(LONG), Step(False, says={"pragma": "no-cache", "cache-control": "max-age=3600"}))),
]  # fmt: skip

VALIDATION = [
    Rule("what is stale is asked about by its ETag", "MUST", "9111 §4.3.1",
         (kept(CHECKABLE), Step(True, (304, {}), gets=200, tells={"if-none-match": '"1"'}))),
    Rule("by its weak ETag as it is", "MUST", "9111 §4.3.1",
         (kept({**OLD, "etag": 'W/"1"'}), Step(True, (304, {}), gets=200, tells={"if-none-match": 'W/"1"'}))),
    Rule("by Last-Modified", "SHOULD", "9111 §4.3.1",
         (kept(DATED), Step(True, (304, {}), gets=200, tells={"if-modified-since": ago(HOUR)}))),
    Rule("what has no validator is asked for whole", "MUST NOT", "9111 §4.3.1",
         (kept(OLD), Step(True, (200, LONG), omits=["if-none-match", "if-modified-since"]))),
    Rule("a 304 renews what is kept", "MUST", "9111 §4.3.4",
         (kept(CHECKABLE), Step(True, (304, {**LONG, "etag": '"1"'}), gets=200), Step(False))),
    Rule("a 304 updates the fields that it has", "MUST", "9111 §3.2",
         (kept({**CHECKABLE, "x-a": "1", "x-b": "1"}), Step(True, (304, {**LONG, "x-a": "2"}), gets=200),
          Step(False, sees={"x-a": "2", "x-b": "1"}))),
    Rule("but none that describes the content", "MUST NOT", "9111 §3.2",
         (kept({**CHECKABLE, "content-type": "text/plain"}),
          Step(True, (304, {**LONG, "content-type": "text/html"}), gets=200),
          Step(False, sees={"content-type": "text/plain"}))),
    Rule("a 304 with another ETag renews nothing", "MUST NOT", "9111 §4.3.4",
         (kept(CHECKABLE), Step(True, (304, {**LONG, "etag": '"2"'}), gets=200),
          Step(True, (200, LONG)))),
    Rule("a 200 takes the place of what was kept", "MUST", "9111 §4.3.3",
         (kept(CHECKABLE), Step(True, (200, {**LONG, "x-a": "new"})), Step(False, sees={"x-a": "new"}))),
    Rule("a 500 goes to the client where nothing is allowed to be stale", "MAY", "9111 §4.3.3",
         (kept(CHECKABLE), Step(True, (500, {}), gets=500))),
    Rule("no-cache is asked about each time, and given after a 304", "MUST", "9111 §5.2.2.4",
         (kept(cc("no-cache", etag='"1"')), Step(True, (304, {}), gets=200, tells={"if-none-match": '"1"'}),
          Step(True, (304, {}), gets=200))),
    Rule("what is fresh answers the client's If-None-Match", "MUST", "9111 §4.3.2",
         (kept({**LONG, "etag": '"1"', "x-a": "1"}),
          Step(False, says={"if-none-match": '"1"'}, gets=304, sees={"etag": '"1"'}))),
    Rule("one of a list", "MUST", "9110 §13.1.2",
         (kept({**LONG, "etag": '"1"'}), Step(False, says={"if-none-match": '"0", "1"'}, gets=304))),
    Rule("weakly compared", "MUST", "9110 §13.1.2",
         (kept({**LONG, "etag": '"1"'}), Step(False, says={"if-none-match": 'W/"1"'}, gets=304))),
    Rule("a star matches", "MUST", "9110 §13.1.2",
         (kept({**LONG, "etag": '"1"'}), Step(False, says={"if-none-match": "*"}, gets=304))),
    Rule("another is answered whole", "MUST", "9110 §13.1.2",
         (kept({**LONG, "etag": '"1"'}), Step(False, says={"if-none-match": '"2"'}, gets=200))),
    Rule("If-Modified-Since of then", "MUST", "9111 §4.3.2",
         (kept({**LONG, "last-modified": ago(HOUR)}),
          Step(False, says={"if-modified-since": ago(HOUR)}, gets=304))),
    Rule("If-Modified-Since of before", "MUST", "9110 §13.1.3",
         (kept({**LONG, "last-modified": ago(HOUR)}),
          Step(False, says={"if-modified-since": ago(2 * HOUR)}, gets=200))),
    Rule("If-None-Match beats If-Modified-Since", "MUST", "9110 §13.1.3",
         (kept({**LONG, "etag": '"1"', "last-modified": ago(HOUR)}),
          Step(False, says={"if-none-match": '"2"', "if-modified-since": ago(HOUR)}, gets=200))),
    Rule("an If-Modified-Since that is no date is ignored", "MUST", "9110 §13.1.3",
         (kept({**LONG, "last-modified": ago(HOUR)}),
          Step(False, says={"if-modified-since": "yesterday"}, gets=200))),
    Rule("the client's condition, when what is kept is stale and renewed", "MUST", "9111 §4.3.2",
         (kept(CHECKABLE), Step(True, (304, {**LONG, "etag": '"1"'}), {"if-none-match": '"1"'}, gets=304))),
    Rule("its own validator takes the place of the client's", "MAY", "9111 §4.3.1",
         (kept(CHECKABLE), Step(True, (304, {}), {"if-none-match": '"2"'}, gets=200,
          tells={"if-none-match": '"1"'}))),
    Rule("what gave way to an answer that is not kept is gone", "OURS", "9111 §4.3.3",
         (kept(CHECKABLE), Step(True, (200, cc("no-store"))), Step(True, (200, LONG),
          omits=["if-none-match"]))),
    Rule("HEAD renews what GET kept", "SHOULD", "9111 §4.3.5",
         (kept({**OLD, "etag": '"1"'}), Step(True, (200, {**LONG, "etag": '"1"'}), method="HEAD"),
          Step(False))),
    Rule("HEAD with another ETag outdates it", "SHOULD", "9111 §4.3.5",
         (kept({**LONG, "etag": '"1"'}),
          Step(True, (200, {**LONG, "etag": '"2"'}), cc("no-cache"), method="HEAD"), Step(True, (200,
          LONG)))),
]  # fmt: skip

STALE = [
    Rule("an origin that fails, must-revalidate", "MUST NOT", "9111 §5.2.2.2",
         (kept(cc("max-age=10, must-revalidate", age="100", etag='"1"')), Step(True, None, gets=502))),
    Rule("an origin that fails, nothing allowed", "OURS", "9111 §4.2.4",
         (kept(CHECKABLE), Step(True, None, gets=502))),
    Rule("an origin that fails, stale-if-error", "MAY", "5861 §4",
         (kept(cc("max-age=10, stale-if-error=3600", age="100")), Step(True, None, gets=200))),
    *(Rule(f"{status}, stale-if-error", "MAY", "5861 §4",
           (kept(cc("max-age=10, stale-if-error=3600", age="100")), Step(True, (status, {}), gets=200)))
      for status in (500, 502, 503, 504)),
    Rule("404 is no error of that kind", "MUST NOT", "5861 §4",
         (kept(cc("max-age=10, stale-if-error=3600", age="100")), Step(True, (404, {}), gets=404))),
    Rule("longer ago than stale-if-error", "MUST NOT", "5861 §4",
         (kept(cc("max-age=10, stale-if-error=20", age="100")), Step(True, (503, {}), gets=503))),
    Rule("must-revalidate beats stale-if-error", "MUST NOT", "9111 §5.2.2.2",
         (kept(cc("max-age=10, stale-if-error=3600, must-revalidate", age="100")),
          Step(True, (503, {}), gets=503))),
    Rule("stale-while-revalidate: the first asks anew", "SHOULD", "5861 §3",
         (kept(cc("max-age=10, stale-while-revalidate=3600", age="100")), Step(True, (200, LONG)),
          Step(False))),
]  # fmt: skip

OUTDATING = [
    *(Rule(f"{method} outdates its URL", "MUST", "9111 §4.4", changed(method, 200, True))
      for method in ("POST", "PUT", "DELETE", "PATCH", "M-SEARCH")),
    *(Rule(f"POST that ends in {status}", "MUST", "9111 §4.4", changed("POST", status, True))
      for status in (201, 204, 303, 307)),
    *(Rule(f"POST that ends in {status} outdates nothing", "SHOULD", "9111 §4.4", changed("POST", status,
          False))
      for status in (400, 404, 500, 503)),
    Rule("OPTIONS outdates nothing", "MUST NOT", "9111 §4.4", changed("OPTIONS", 200, False)),
    Rule("Location of this host", "MAY", "9111 §4.4",
         changed("POST", 201, True, {"location": "{path}/new"}, kept="/new")),
    Rule("Content-Location of this host", "MAY", "9111 §4.4",
         changed("POST", 200, True, {"content-location": "{path}/new"}, kept="/new")),
    Rule("Location of another host", "MUST NOT", "9111 §4.4",
         changed("POST", 201, False, {"location": "http://other.example{path}/new"}, kept="/new")),
    Rule("every variant of it", "MUST", "9111 §4.4",
         (kept({**LONG, "vary": "foo"}, {"foo": "1"}), kept({**LONG, "vary": "foo"}, {"foo": "2"}),
          Step(True, (200, {}), method="POST"), kept({**LONG, "vary": "foo"}, {"foo": "1"}),
          kept({**LONG, "vary": "foo"}, {"foo": "2"}))),
]  # fmt: skip

RULES = {
    "freshness": FRESHNESS,
    "age": AGE,
    "keeping": KEEPING,
    "vary": VARY,
    "wishes": WISHES,
    "validation": VALIDATION,
    "stale": STALE,
    "outdating": OUTDATING,
}
