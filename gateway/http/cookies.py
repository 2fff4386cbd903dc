"""Cookies, as far as a gateway needs them: read one, set one. Source: RFC 6265 §4.1, §4.2, §5.4."""

from __future__ import annotations

from gateway.http.message import Headers


def cookie(headers: Headers, name: bytes) -> bytes | None:
    """Return the value of the first cookie of that name, without quotes, or None."""
    for key, value in headers:
        if key == b"cookie":  # one field in HTTP/1.1 (§5.4); HTTP/2 may have sent several
            for pair in value.split(b";"):
                known, is_there, content = pair.strip().partition(b"=")
                if is_there and known == name:
                    return content.strip(b'"')
    return None


def set_cookie(name: bytes, value: bytes, max_age: int) -> tuple[bytes, bytes]:
    """Return the field that sets a cookie for the whole host, out of reach of scripts. max_age: s."""
    content = b"%b=%b; Path=/; Max-Age=%d; HttpOnly; SameSite=Lax" % (name, value, max_age)
    return b"set-cookie", content
