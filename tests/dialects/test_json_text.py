from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.dialects.errors import InvalidPrediction
from gateway.dialects.json_text import read_json, write_non_finite
from tests.dialects.models import caught

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 64) - 1)
    | st.floats(allow_nan=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(), inner, max_size=5),
    max_leaves=20,
)


@given(JSON)
def test_what_the_standard_library_writes_is_read_back(value: object) -> None:
    assert read_json(json.dumps(value).encode(), non_finite=True) == value


@given(st.binary(max_size=60) | st.text(alphabet='{}[]":,\\u0Na1.e-I', max_size=40).map(str.encode))
def test_any_bytes_are_read_or_refused(body: bytes) -> None:
    for non_finite in (False, True):
        refusal = caught(lambda: read_json(body, non_finite=non_finite))  # noqa: B023 (called at once)
        if refusal is not None:
            assert refusal.code in ("malformed_json", "duplicate_key")
            assert refusal.status == 400
            refusal.message.encode()


@pytest.mark.parametrize(
    "body",
    [
        b'{"a":1,"a":2}',
        b'{"a":{"b":1,"b":1}}',
        b'[1,{"a":1,"a":2}]',
        b'[[1,[{"a":1,"a":2}]]]',
        b'{"a":"x:y","a":2}',
        b'{"a":1,"\\u0061":2}',
        b'{"a\\":":1,"a\\":":2}',
        b'{"a":NaN,"a":1}',
    ],
    ids=[
        "top",
        "inner",
        "behind a scalar",
        "deep",
        "with a colon in text",
        "escaped",
        "escaped quote",
        "non-finite",
    ],
)
def test_a_member_named_twice_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidPrediction) as refused:
        read_json(body, non_finite=True)
    assert refused.value.code == "duplicate_key"


@pytest.mark.parametrize(
    "body",
    [
        b'{"a":"x:y:z"}',
        b'{":":1,"b":{":":2}}',
        b'[1,{"a":1}]',
        b'{"a":"\\":","b":"\\\\"}',
        b'":"',
        b'{"a" : 1}',
    ],
)
def test_colons_inside_strings_are_no_duplicates(body: bytes) -> None:
    assert read_json(body) == json.loads(body)


def test_nan_and_infinities_are_words_only_where_the_dialect_says_so() -> None:
    body = b'{"a":[NaN,Infinity,-Infinity,1]}'
    with pytest.raises(InvalidPrediction, match="not JSON"):
        read_json(body)
    document = read_json(body, non_finite=True)
    assert isinstance(document, dict)
    nan, *rest = document["a"]
    assert math.isnan(nan)
    assert rest == [math.inf, -math.inf, 1]


@pytest.mark.parametrize(
    "opening", [b"[", b'{"a":', b"[[1],", b"[NaN,"], ids=["lists", "objects", "pairs", "non-finite"]
)
def test_endless_nesting_is_refused(opening: bytes) -> None:
    for non_finite in (False, True):
        with pytest.raises(InvalidPrediction) as refused:
            read_json(opening * 200_000, non_finite=non_finite)
        assert refused.value.code == "malformed_json"


@pytest.mark.parametrize(
    "body",
    [b"", b"  ", b"{", b"{'a':1}", b'"\xff"', b'"\\ud800"', b"nul", b'{"a":1}{', "﻿1".encode(), b"[NaN,\xff]"],
    ids=repr,
)
def test_what_is_not_json_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidPrediction) as refused:
        read_json(body, non_finite=True)
    assert refused.value.code == "malformed_json"


@pytest.mark.parametrize(
    "body", [b'[NaN,"\\ud800"]', b"[NaN," + b"9" * 5000 + b"]"], ids=["surrogate", "digits"]
)
def test_the_lenient_reader_refuses_what_could_not_be_passed_on(body: bytes) -> None:
    with pytest.raises(InvalidPrediction) as refused:
        read_json(body, non_finite=True)
    assert refused.value.code == "malformed_json"


def test_the_empty_body_is_called_empty() -> None:
    with pytest.raises(InvalidPrediction, match="body is empty"):
        read_json(b" \n")


def test_non_finite_numbers_are_written_as_tokens() -> None:
    assert write_non_finite([math.nan, math.inf, -math.inf, "é"]) == '[NaN,Infinity,-Infinity,"é"]'.encode()
