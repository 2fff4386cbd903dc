from __future__ import annotations

from http.cookies import SimpleCookie

import pytest

from gateway.http.cookies import cookie, set_cookie


@pytest.mark.parametrize(
    ("headers", "value"),
    [
        pytest.param([], None, id="none"),
        pytest.param([(b"cookie", b"a=1; arm=x; b=2")], b"x", id="among others"),
        pytest.param([(b"cookie", b"arms=1;arm=x")], b"x", id="the whole name"),
        pytest.param([(b"cookie", b"arm=x; arm=y")], b"x", id="the first"),
        pytest.param([(b"cookie", b"a=1"), (b"cookie", b"arm=x")], b"x", id="several fields"),
        pytest.param([(b"cookie", b'arm="x"')], b"x", id="quoted"),
        pytest.param([(b"cookie", b"arm; =;;arm=")], b"", id="odd ones"),
        pytest.param([(b"cookie", b"arm=a=b")], b"a=b", id="an equals sign in the value"),
    ],
)
def test_a_cookie_is_found(headers: list[tuple[bytes, bytes]], value: bytes | None) -> None:
    assert cookie(headers, b"arm") == value


def test_what_is_set_is_what_others_read() -> None:
    name, content = set_cookie(b"arm", b"0af", 60)
    assert name == b"set-cookie"
    (read,) = SimpleCookie(content.decode()).values()
    assert (read.key, read.value, read["max-age"], read["path"]) == ("arm", "0af", "60", "/")
    assert (read["httponly"], read["samesite"]) == (True, "Lax")
