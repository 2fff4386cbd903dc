from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.dialects.errors import ErrorKind, InvalidPrediction
from gateway.dialects.protocol import decode_name, encode_name, require_object, understand, wanted
from tests.dialects.models import a_request, a_response, a_tensor


@given(st.text(min_size=1, max_size=12))
def test_a_name_in_a_path_is_decoded_as_it_was_encoded_or_refused(name: str) -> None:
    try:
        encoded = encode_name(name)
    except UnicodeEncodeError:  # a lone surrogate is no name
        return
    assert b"/" not in encoded
    assert b":" not in encoded
    usable = name.isprintable() and "/" not in name and name not in (".", "..")
    assert decode_name(encoded) == (name if usable else None)


@given(st.binary(max_size=20))
def test_any_bytes_are_a_name_or_none(raw: bytes) -> None:
    name = decode_name(raw, "/:")
    if name is not None:
        assert not set(name) & set("/:\n\r\0")
        assert decode_name(encode_name(name), "/:") == name


def test_the_outputs_wanted_come_in_the_order_asked() -> None:
    response = a_response(a_tensor("a", "INT8", [1]), a_tensor("b", "INT8", [2]))
    assert [each.name for each in wanted(response, a_request())] == ["a", "b"]
    assert [each.name for each in wanted(response, a_request(outputs=("b", "a")))] == ["b", "a"]
    with pytest.raises(InvalidPrediction, match="'c'"):
        wanted(response, a_request(outputs=("c",)))


def test_a_body_must_be_an_object() -> None:
    assert require_object({"a": 1}) == {"a": 1}
    with pytest.raises(InvalidPrediction, match="must be a JSON object"):
        require_object([])


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"error":"no"}', "no"),
        (b'{"detail":"no"}', "no"),
        (b'{"detail":[{"msg":"no"}]}', "[{'msg': 'no'}]"),
        (b" no \n", "no"),
        (b"", "the backend answered 500"),
        (b"{}", "the backend answered 500"),
        (b"[]", "the backend answered 500"),
        (b"\xff", "�"),
        (b"x" * 100_000, "x" * 2000),
    ],
    ids=["error", "detail", "details", "text", "nothing", "no member", "a list", "no text", "long"],
)
def test_a_backends_words_are_found_and_bounded(body: bytes, message: str) -> None:
    assert understand(500, body) == (ErrorKind.BACKEND, message)
