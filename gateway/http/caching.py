"""What a shared cache may do with a GET, as RFC 9111 says it: decisions only, on fields and instants.

    storable      may this answer be kept, and which of its fields                   §3, §3.5, §5.2.2
    lifetime      for how long is it fresh: s-maxage, max-age, Expires, a guess      §4.2.1, §4.2.2
    initial_age   how old was it when it came                                        §4.2.3
    variant       the request's fields that the answer depends on                    §4.1
    use           what to do with a kept answer for this request                     §4, §4.2.4, §5.2.1
    conditions    how to ask whether it still holds; not_modified: whether it does
                  for the client; updated: its fields after a 304; head_confirms:
                  whether an answer to HEAD is about it                              §4.3
    invalidates   which URLs a successful unsafe request makes untrue                §4.4

Where fields can't be read, the answer counts as stale: wrong on the safe side. Ages and lifetimes in seconds,
dates in seconds since the epoch. Stale windows: RFC 5861.
"""

from __future__ import annotations

import re
from calendar import timegm
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_tz
from enum import Enum
from typing import Final

from gateway.http.message import Headers, find, find_all

FOREVER: Final = 2**31  # RFC 9111 §1.2.2: what a delta-seconds too large to hold counts as

HEURISTIC: Final = frozenset((200, 203, 204, 300, 301, 308, 404, 405, 410, 414, 501))  # RFC 9110 §15.1
_UNDERSTOOD: Final = HEURISTIC | {302, 303, 307, 400, 403, 500, 502, 503, 504}
_SAFE: Final = frozenset((b"GET", b"HEAD", b"OPTIONS", b"TRACE"))
_DIRECTIVE: Final = re.compile(
    rb"[ \t,]*([!#$%&'*+\-.^_`|~0-9A-Za-z]+)(?:[ \t]*=[ \t]*(?:\"((?:[^\"\\]|\\.)*)\"|([^\s,;]*)))?"
)
_NEVER_KEPT: Final = frozenset(
    (
        b"connection",
        b"proxy-authenticate",
        b"proxy-authentication-info",
        b"proxy-authorization",
        b"age",
        b"cache-status",
        b"content-length",
        b"x-request-id",
        b"ratelimit",
        b"ratelimit-policy",
    )
)
"""§3.1, and what is about one answer to one client."""
_NOT_UPDATED: Final = frozenset(
    (b"content-encoding", b"content-length", b"content-range", b"content-type", b"etag", b"transfer-encoding")
)
"""§3.2: what describes the content that is kept, which a 304 has none of."""

Directives = Mapping[bytes, bytes | None]
"""Lower-case names; None where there was no argument. Of one that stands twice, the most restrictive."""


def directives(headers: Headers, name: bytes = b"cache-control") -> Directives:
    """Read Cache-Control (§5.2), all its lines as one list."""
    said: dict[bytes, bytes | None] = {}
    for line in find_all(headers, name):
        at = 0
        while at < len(line):
            match = _DIRECTIVE.match(line, at)
            if match is None or match.end() == at:
                at += 1
                continue
            at = match.end()
            directive = match[1].lower()
            value = match[2] if match[2] is not None else match[3]
            said[directive] = _stricter(said[directive], value) if directive in said else value
    return said


def _stricter(one: bytes | None, other: bytes | None) -> bytes | None:
    """Of two values of one directive: no argument says most; else the smaller number (§4.2.1)."""
    if one is None or other is None:
        return None
    if one.isdigit() and other.isdigit():
        return min(one, other, key=int)
    return other if one.isdigit() else one


def seconds(value: bytes | None) -> int | None:
    """Read delta-seconds (§1.2.2); None for what is none, so that callers take the safe side."""
    if value is None or not value.isdigit():
        return None
    return FOREVER if len(value) > 10 else min(FOREVER, int(value))


def date(value: bytes | None) -> float | None:
    """Read an HTTP-date in any of its three forms (RFC 9110 §5.6.7), in GMT; None when it is none."""
    if value is None or not re.fullmatch(_DATE, value.strip()):
        return None
    read = parsedate_tz(value.decode("ascii"))
    if read is None:
        return None
    try:
        return float(timegm((*read[:6], 0, 0, 0)))
    except (ValueError, OverflowError):
        return None


_DATE: Final = (
    rb"(?i:(?:mon|tue|wed|thu|fri|sat|sun), \d{2} [a-z]{3} \d{4} \d{2}:\d{2}:\d{2} gmt"
    rb"|[a-z]{6,9}, \d{2}-[a-z]{3}-\d{2} \d{2}:\d{2}:\d{2} gmt"
    rb"|[a-z]{3} [a-z]{3} [ \d]\d \d{2}:\d{2}:\d{2} \d{4})"
)


# May it be kept, and for how long


def storable(method: bytes, asked: Headers, status: int, answered: Headers, heuristic: bool = False) -> bool:
    """Tell whether a whole answer may be kept (§3). heuristic: answers that don't say may be, too."""
    said = directives(answered)
    if method != b"GET" or status < 200 or status in (206, 304) or b"no-store" in directives(asked):
        return False
    if b"must-understand" in said:  # §5.2.2.3: overrides no-store for a status that we understand
        if status not in _UNDERSTOOD:
            return False
    elif b"no-store" in said:
        return False
    if b"private" in said and not _names(said[b"private"]):
        return False
    if find(asked, b"authorization") is not None and not (
        said.keys() & {b"public", b"s-maxage", b"must-revalidate"}
    ):
        return False  # §3.5
    if find(answered, b"set-cookie") is not None and b"public" not in said:
        return False  # not the RFC's rule: somebody's session is never somebody else's answer by oversight
    if b"*" in _vary(answered):
        return False
    explicit = (
        bool(said.keys() & {b"public", b"max-age", b"s-maxage"}) or find(answered, b"expires") is not None
    )
    checkable = find(answered, b"etag") is not None or find(answered, b"last-modified") is not None
    return explicit or ((heuristic or checkable) and status in HEURISTIC)


def kept_fields(answered: Headers) -> Headers:
    """Return the fields to keep: none of a connection (§3.1), none that private or no-cache names."""
    said = directives(answered)
    dropped = {
        name.strip().lower() for line in find_all(answered, b"connection") for name in line.split(b",")
    }
    dropped |= _NEVER_KEPT | _names(said.get(b"private")) | _names(said.get(b"no-cache"))
    return [field for field in answered if field[0] not in dropped]


def _names(value: bytes | None) -> set[bytes]:
    return {name.strip().lower() for name in (value or b"").split(b",") if name.strip()}


def lifetime(status: int, answered: Headers, now: float, heuristic: float = 0.0) -> float:
    """Return for how many seconds an answer is fresh (§4.2.1). heuristic: share of its unchanged life."""
    said = directives(answered)
    if b"no-cache" in said and not _names(said[b"no-cache"]):
        return 0.0  # §5.2.2.4: never given unasked, so never fresh
    for name in (b"s-maxage", b"max-age"):
        if name in said:
            return float(seconds(said[name]) or 0)
    expires = find_all(answered, b"expires")
    made = date(find(answered, b"date"))
    if expires:
        ends = date(expires[0]) if len(expires) == 1 else None
        return 0.0 if ends is None else max(0.0, ends - (now if made is None else made))
    changed = date(find(answered, b"last-modified"))
    if heuristic and changed is not None and status in HEURISTIC:
        return min(86_400.0, max(0.0, ((now if made is None else made) - changed) * heuristic))
    return 0.0


def initial_age(answered: Headers, asked_at: float, now: float) -> float:
    """Return how old an answer was on arrival (§4.2.3). asked_at, now: s since the epoch."""
    made = date(find(answered, b"date"))
    apparent = 0.0 if made is None else max(0.0, now - made)
    said = [seconds(value.split(b",")[0].strip()) for value in find_all(answered, b"age")[:1]]
    told = float(said[0]) if said and said[0] is not None else 0.0
    return max(apparent, told + max(0.0, now - asked_at))


# Which answer is it


def _vary(answered: Headers) -> list[bytes]:
    names = b",".join(find_all(answered, b"vary")).lower().split(b",")
    return sorted({name.strip() for name in names if name.strip()})


def vary(answered: Headers) -> tuple[bytes, ...]:
    """Return the names in Vary, lower-case, sorted; `*` among them means: never the same twice."""
    return tuple(_vary(answered))


def variant(names: tuple[bytes, ...], asked: Headers) -> bytes:
    """Return what the request says in the fields named, so that equal bytes mean an equal answer (§4.1)."""
    parts: list[bytes] = []
    for name in names:
        lines = find_all(asked, name)
        value = b",".join([piece.strip() for line in lines for piece in line.split(b",")])
        parts += (name, b"-" if not lines else b"+" + value)
    return b"".join([b"%d:%b" % (len(part), part) for part in parts])


# What may be done with it


class Use(Enum):
    """What to do for a request with a kept answer."""

    GIVE = "give"  # as it is
    STALE = "stale"  # as it is, though stale: the client allows it
    CHECK = "check"  # ask whether it still holds
    REFUSE = "refuse"  # only-if-cached, and it can't be given: 504 (§5.2.1.7)


@dataclass(frozen=True, slots=True)
class Stale:
    """For how long past its end an answer may be given: s. while_checking: RFC 5861 §3; on_error: §4."""

    while_checking: float
    on_error: float


def use(asked: Headers, answered: Headers, age: float, fresh_for: float) -> Use:
    """Decide for a request (§4). age, fresh_for: s, of the kept answer, whose fields are `answered`."""
    wish = directives(asked)
    said = directives(answered)
    if not wish and find(asked, b"pragma") == b"no-cache":  # §5.4
        wish = {b"no-cache": None}
    refuse = Use.REFUSE if b"only-if-cached" in wish else Use.CHECK
    if b"no-cache" in wish or (b"no-cache" in said and not _names(said[b"no-cache"])):
        return refuse
    if b"max-age" in wish and age > (seconds(wish[b"max-age"]) or 0):
        return refuse
    left = fresh_for - age
    if left > 0:
        least = seconds(wish.get(b"min-fresh")) if b"min-fresh" in wish else 0
        return Use.GIVE if least is not None and left >= least else refuse
    if b"max-stale" in wish and not forbids_stale(said):
        most = FOREVER if wish[b"max-stale"] is None else seconds(wish[b"max-stale"])
        if most is not None and -left <= most:
            return Use.STALE
    return refuse


def forbids_stale(said: Directives) -> bool:
    """Tell whether a stale answer must never be given unchecked (§4.2.4, §5.2.2.2, .8, .10)."""
    return bool(said.keys() & {b"must-revalidate", b"proxy-revalidate", b"s-maxage", b"no-cache"})


def stale_windows(answered: Headers, while_checking: float, on_error: float) -> Stale:
    """Return the stale windows of an answer: its own, else the policy's; none where it forbids them."""
    said = directives(answered)
    if forbids_stale(said):
        return Stale(0.0, 0.0)
    own = [
        float(seconds(said[name]) or 0) if name in said else default
        for name, default in ((b"stale-while-revalidate", while_checking), (b"stale-if-error", on_error))
    ]
    return Stale(own[0], own[1])


# Whether it still holds


def conditions(answered: Headers) -> Headers:
    """Return the fields that ask whether a kept answer still holds (§4.3.1); none where it can't be asked."""
    etag, changed = find(answered, b"etag"), find(answered, b"last-modified")
    asked: Headers = [] if etag is None else [(b"if-none-match", etag)]
    if changed is not None and date(changed) is not None:
        asked.append((b"if-modified-since", changed))
    return asked


def not_modified(asked: Headers, status: int, answered: Headers) -> bool:
    """Tell whether the client has what is kept (§4.3.2; RFC 9110 §13.1.2, §13.1.3, §13.2.2)."""
    if status != 200:
        return False
    tags = find_all(asked, b"if-none-match")
    if tags:
        etag = find(answered, b"etag")
        if b",".join(tags).strip() == b"*":
            return True
        return etag is not None and _weak(etag) in {_weak(tag) for tag in _tags(b",".join(tags))}
    since, changed = date(find(asked, b"if-modified-since")), date(find(answered, b"last-modified"))
    if changed is None:
        changed = date(find(answered, b"date"))
    return since is not None and changed is not None and changed <= since


def _tags(listed: bytes) -> list[bytes]:
    return re.findall(rb'(?:W/)?"[^"]*"', listed)


def _weak(etag: bytes) -> bytes:
    return etag.strip().removeprefix(b"W/")


def confirms(kept: Headers, answered: Headers) -> bool:
    """Tell whether a 304 is about what is kept (§4.3.4): its validator, where it has one, is the same."""
    etag = find(answered, b"etag")
    if etag is not None:
        known = find(kept, b"etag")
        return known is not None and _weak(known) == _weak(etag)
    changed = find(answered, b"last-modified")
    return changed is None or changed == find(kept, b"last-modified")


def head_confirms(kept: Headers, size: int, answered: Headers, length: int | None) -> bool:
    """Tell whether a 200 to HEAD is about what is kept (§4.3.5).

    size: bytes of the kept body; length: what the answer announces, where None and 0 say nothing.
    """
    return confirms(kept, answered) and (not length or length == size)


def updated(kept: Headers, answered: Headers) -> Headers:
    """Return the fields of a kept answer after a 304 (§3.2): those it has are replaced."""
    new = [field for field in kept_fields(answered) if field[0] not in _NOT_UPDATED]
    replaced = {name for name, _ in new}
    return [field for field in kept if field[0] not in replaced] + new


NOT_MODIFIED_FIELDS: Final = frozenset(
    (b"cache-control", b"content-location", b"date", b"etag", b"expires", b"last-modified", b"vary", b"age")
)
"""What a 304 repeats of the 200 (RFC 9110 §15.4.5)."""


# What an unsafe request makes untrue


def invalidates(
    method: bytes, status: int, host: bytes, target: bytes, answered: Headers
) -> tuple[bytes, ...]:
    """Return the targets (path and query) of this host that are no longer to be given (§4.4)."""
    if method in _SAFE or not 200 <= status < 400:
        return ()
    found = [target]
    for name in (b"location", b"content-location"):
        reference = find(answered, name)
        if reference:
            other = _target(reference.strip(), host, target)
            if other is not None and other not in found:
                found.append(other)
    return tuple(found)


def _target(reference: bytes, host: bytes, base: bytes) -> bytes | None:
    """Resolve a reference against our URL; None where it leads to another host."""
    reference = reference.partition(b"#")[0]
    match = re.match(rb"(?i:https?:)?//([^/?]*)(.*)", reference, re.DOTALL)
    if match is not None:
        if match[1].lower() != host.lower():
            return None
        return match[2] if match[2].startswith(b"/") else b"/" + match[2]
    if re.match(rb"[A-Za-z][A-Za-z0-9+.-]*:", reference):
        return None
    if reference.startswith(b"/"):
        return reference
    path = base.partition(b"?")[0]
    if not reference or reference.startswith(b"?"):
        return path + reference
    return path.rpartition(b"/")[0] + b"/" + reference
