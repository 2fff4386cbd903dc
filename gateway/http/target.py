"""Request targets: one reading of the path, so that matching, authorisation, caching and forwarding agree.

A path that two servers read differently is how a request passes one rule and reaches another resource. So the
target is read once, here, and everything after works with the result. What is decided:

* Percent-encoded unreserved characters (RFC 3986 §2.3) are decoded, all other escapes are kept in upper case:
  the two spellings name the same resource (§6.2.2).
* `.` and `..` segments are resolved, also when they were escaped; a path that climbs above the root is
  refused. Runs of slashes become one slash.
* Refused: `%2F` and `%5C` (a separator to some servers, a character to others), a bare backslash, escaped
  control characters, broken escapes, escapes that are not UTF-8 (overlong forms hide slashes), and dot
  segments with parameters (`/..;/`, which servlet containers resolve and others do not).
* `;` parameters in other segments and `%25` are kept: they are decoded once, here, and never again.
* The query is passed on as it came; it must be visible ASCII without `#`.

Sources: RFC 3986 §2.3, §5.2.4, §6.2.2; RFC 9112 §3.2.
"""

from __future__ import annotations

import re
from functools import lru_cache

# No possessive groups: see framing.py.
_PLAIN = re.compile(rb"(?:/[A-Za-z0-9_~!$&'()*+,=:@-][A-Za-z0-9._~!$&'()*+,=:@-]*+)*/?")
_PATH = re.compile(rb"/(?:[A-Za-z0-9._~!$&'()*+,;=:@/\[\]|-]++|%[0-9A-Fa-f]{2})*")
_QUERY = re.compile(rb"[!-\"$-~]*+")
_ESCAPE = re.compile(rb"%([0-9A-Fa-f]{2})")
_UNRESERVED = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
_AUTHORITY = re.compile(
    rb"(?:[A-Za-z0-9._-]{1,253}|\[(?:[0-9A-Fa-f:.]{2,45})\])(?::(?P<port>[0-9]{1,5}))?",
)
_CACHED = 256  # longest target worth remembering; bounds the memory of the cache to 1024 * 256 bytes


class BadTarget(ValueError):
    """The target can't be read in exactly one way; the text says why and holds nothing of the request."""


def split_target(target: bytes) -> tuple[bytes, bytes]:
    """Return (normalised path, query without `?`) of an origin-form target. Raises BadTarget."""
    return _remembered(target) if len(target) <= _CACHED else _split(target)


def _split(target: bytes) -> tuple[bytes, bytes]:
    path, _, query = target.partition(b"?")
    if query and not _QUERY.fullmatch(query):
        raise BadTarget("the query holds a character that must be escaped")
    return normalise_path(path), query


_remembered = lru_cache(maxsize=1024)(_split)


def normalise_path(path: bytes) -> bytes:
    """Return the one spelling of an absolute path. Idempotent. Raises BadTarget where it is ambiguous."""
    if _PLAIN.fullmatch(path) and path:
        return path
    if not _PATH.fullmatch(path):
        raise BadTarget("the path is not absolute or holds a character that must be escaped")
    if b"%" in path:
        path = _ESCAPE.sub(_decode_unreserved, path)
        _check_utf8(path)
    return _resolve_dots(path)


def _decode_unreserved(escape: re.Match[bytes]) -> bytes:
    code = int(escape[1], 16)
    if code in _UNRESERVED:
        return bytes((code,))
    if code < 0x20 or code == 0x7F:
        raise BadTarget("the path holds an escaped control character")
    if code in b"/\\":
        raise BadTarget("the path holds an escaped slash or backslash")
    return escape[0].upper()


def _check_utf8(path: bytes) -> None:
    try:
        _ESCAPE.sub(lambda escape: bytes((int(escape[1], 16),)), path).decode()
    except UnicodeDecodeError:
        raise BadTarget("the path's escapes are not UTF-8") from None


def _resolve_dots(path: bytes) -> bytes:
    segments = path.split(b"/")[1:]
    kept: list[bytes] = []
    for segment in segments:
        if b";" in segment and segment.partition(b";")[0] in (b".", b".."):
            raise BadTarget("the path holds a dot segment with parameters")
        if segment == b"..":
            if not kept:
                raise BadTarget("the path climbs above the root")
            kept.pop()
        elif segment not in (b"", b"."):
            kept.append(segment)
    resolved = b"/" + b"/".join(kept)
    ends_in_folder = segments[-1] in (b"", b".", b"..")
    return resolved + b"/" if ends_in_folder and kept else resolved


@lru_cache(maxsize=1024)
def read_authority(value: bytes) -> bytes:
    """Return a Host value (`name[:port]`, IPv4 or bracketed IPv6) in lower case. Raises BadTarget.

    Narrower than RFC 3986 §3.2.2: no userinfo, no escapes, no sub-delimiters (a comma would be two hosts to
    some), no empty port.
    """
    match = _AUTHORITY.fullmatch(value)
    if match is None or int(match["port"] or 0) > 65535:
        raise BadTarget("the host is not a name or address with an optional port")
    return value.lower()


def split_absolute(target: bytes) -> tuple[bytes, bytes]:
    """Split an absolute-form target into (authority, origin-form target).

    RFC 9112 §3.2.2. Raises BadTarget.
    """
    scheme, separator, rest = target.partition(b"://")
    if not separator or scheme.lower() not in (b"http", b"https"):
        raise BadTarget("the target is neither a path nor an http(s) URL")
    cut = min((at for at in (rest.find(b"/"), rest.find(b"?")) if at >= 0), default=len(rest))
    authority, origin = rest[:cut], rest[cut:]
    return authority, origin if origin[:1] == b"/" else b"/" + origin
