"""One spelling per path."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.http.target import BadTarget, normalise_path, read_authority, split_target


@pytest.mark.parametrize(
    ("path", "normal"),
    [
        (b"/", b"/"),
        (b"/a/b", b"/a/b"),
        (b"/a/", b"/a/"),
        (b"//", b"/"),
        (b"//a//b//", b"/a/b/"),
        (b"/a/./b", b"/a/b"),
        (b"/a/../b", b"/b"),
        (b"/a/b/..", b"/a/"),
        (b"/a/..", b"/"),
        (b"/a/.", b"/a/"),
        (b"/%61%7e%2D", b"/a~-"),
        (b"/a%20b%c3%a9", b"/a%20b%C3%A9"),
        (b"/%2e/a/%2E%2e/b", b"/b"),
        (b"/%252f", b"/%252f"),
        (b"/.well-known/x", b"/.well-known/x"),
        (b"/..a/b..", b"/..a/b.."),
        (b"/a;v=1/b", b"/a;v=1/b"),
        (b"/a%3bb", b"/a%3Bb"),
        (b"/v1/models/digits:predict", b"/v1/models/digits:predict"),
    ],
)
def test_every_spelling_becomes_one(path: bytes, normal: bytes) -> None:
    assert normalise_path(path) == normal


@pytest.mark.parametrize(
    "path",
    [
        b"",
        b"a",
        b"/a\\b",
        b"/%2f",
        b"/%2F",
        b"/%5c",
        b"/%00",
        b"/%0d%0a",
        b"/%7f",
        b"/%",
        b"/%4",
        b"/%zz",
        b"/..",
        b"/a/../..",
        b"/%2e%2e",
        b"/..;/",
        b"/.;a",
        b"/%2e.;x",
        b"/%c0%af",
        b"/%e0%80%af",
        b"/%ff",
        b"/a b",
        b"/\xe9",
        b'/"',
        b"/<",
        b"/^",
        b"/`",
        b"/{",
        b"/a?b",
        b"/a#b",
    ],
)
def test_a_path_with_two_readings_is_refused(path: bytes) -> None:
    with pytest.raises(BadTarget):
        normalise_path(path)


paths = st.text("/.%2eEfF5cab;~A1", max_size=16).map(lambda text: b"/" + text.encode())


@given(paths)
def test_normalising_twice_changes_nothing_and_leaves_no_dots(path: bytes) -> None:
    try:
        normal = normalise_path(path)
    except BadTarget:
        return
    assert normalise_path(normal) == normal
    assert normal[:1] == b"/"
    assert not {b".", b".."} & set(normal.split(b"/"))
    assert b"//" not in normal


def test_the_query_is_kept_as_it_came() -> None:
    assert split_target(b"/a?b=%2f/../c?d") == (b"/a", b"b=%2f/../c?d")
    assert split_target(b"/a/../b?" + b"x" * 500) == (b"/b", b"x" * 500)
    with pytest.raises(BadTarget):
        split_target(b"/a?b#c")


@pytest.mark.parametrize(
    "host", [b"a", b"A.example:80", b"127.0.0.1:8080", b"[::1]:80", b"[2001:db8::1]", b"a_b"]
)
def test_hosts(host: bytes) -> None:
    assert read_authority(host) == host.lower()


@pytest.mark.parametrize(
    "host", [b"", b"a:", b"a:99999", b"a,b", b"u@a", b"a/b", b"::1", b"[::1", b"a b", b"%61"]
)
def test_hosts_that_are_none(host: bytes) -> None:
    with pytest.raises(BadTarget):
        read_authority(host)
