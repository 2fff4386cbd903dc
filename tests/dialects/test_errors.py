from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.dialects.errors import ErrorKind, InvalidPrediction, kind_of


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("malformed_json", 400),
        ("duplicate_key", 400),
        ("malformed_request", 400),
        ("wrong_name", 422),
        ("wrong_dtype", 422),
        ("wrong_shape", 422),
        ("unknown_signature", 422),
        ("not_finite", 422),
        ("unsupported", 501),
        ("signature_unknown", 503),
    ],
)
def test_unreadable_is_400_and_wrong_is_422(code: str, status: int) -> None:
    assert InvalidPrediction(code, "no").status == status


@pytest.mark.parametrize(
    ("kind", "blames", "status"),
    [
        (ErrorKind.INVALID, False, 422),
        (ErrorKind.NOT_FOUND, False, 404),
        (ErrorKind.UNIMPLEMENTED, False, 501),
        (ErrorKind.UNAVAILABLE, True, 503),
        (ErrorKind.OVERLOADED, True, 503),
        (ErrorKind.TIMEOUT, True, 504),
        (ErrorKind.BACKEND, True, 502),
    ],
)
def test_bad_input_is_never_a_failure_of_the_instance(kind: ErrorKind, blames: bool, status: int) -> None:
    assert (kind.blames_instance, kind.status) == (blames, status)


@pytest.mark.parametrize("status", [429, 501, 504])
def test_some_statuses_mean_what_they_say_whatever_the_words(status: int) -> None:
    assert kind_of(status, "failed to parse the request JSON") is kind_of(status, "")


@given(st.integers(100, 999), st.text())
def test_every_error_has_a_kind(status: int, message: str) -> None:
    assert kind_of(status, message) in ErrorKind


@given(st.integers(500, 599).filter(lambda status: status not in (501, 502, 503, 504)))
def test_an_unexplained_5xx_is_the_backends_failure(status: int) -> None:
    assert kind_of(status, "boom") is ErrorKind.BACKEND
