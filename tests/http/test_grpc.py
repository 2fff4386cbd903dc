from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.http.grpc import (
    BLAMING,
    Status,
    as_grpc,
    as_http,
    is_grpc,
    read_message,
    read_status,
    read_timeout,
    service_and_method,
    status_of,
    status_of_foreign,
    status_of_refusal,
    trailers_only,
    write_message,
    write_timeout,
)
from gateway.http.message import Request, Response


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (b"1S", 1.0),
        (b"250m", 0.25),
        (b"100u", 1e-4),
        (b"5n", 5e-9),
        (b"2H", 7200.0),
        (b"3M", 180.0),
        (b"99999999S", 99999999.0),
    ],
)
def test_a_timeout_is_read_in_every_unit(value, seconds):
    assert read_timeout(value) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "value", [b"", b"1", b"S", b"-1S", b"1s", b"1.5S", b"123456789S", b" 1S", b"1S ", b"1mS"]
)
def test_what_is_no_timeout_is_none(value):
    assert read_timeout(value) is None


@given(st.floats(min_value=1e-6, max_value=3e8))
def test_a_written_timeout_reads_back_no_longer_and_hardly_shorter(seconds):
    back = read_timeout(write_timeout(seconds))
    assert back is not None
    assert min(seconds * 0.9999, seconds - 2e-6) <= back <= seconds * (1 + 1e-9)


def test_time_that_is_over_is_the_shortest_there_is():
    assert write_timeout(0.0) == write_timeout(-5.0) == b"1n"


@given(st.text())
def test_a_message_reads_back(text):
    encodable = text.encode("utf-8", "replace").decode()
    written = write_message(text)
    assert read_message(written) == encodable
    assert all(0x20 <= byte < 0x7F for byte in written)


@pytest.mark.parametrize(
    ("value", "answer"),
    [
        (b"application/grpc", True),
        (b"application/grpc+proto", True),
        (b"application/grpc; charset=utf-8", True),
        (b"application/grpc-web", False),
        (b"application/json", False),
        (b"application/grpcfoo", False),
    ],
)
def test_grpc_is_known_by_its_content_type(value, answer):
    assert is_grpc([(b"content-type", value)]) is answer


def test_a_message_without_a_content_type_is_not_grpc():
    assert not is_grpc([])


@pytest.mark.parametrize(
    ("http", "code", "status"),
    [
        (401, "unauthenticated", Status.UNAUTHENTICATED),
        (403, "forbidden", Status.PERMISSION_DENIED),
        (404, "unknown_endpoint", Status.UNIMPLEMENTED),
        (404, "unknown_model", Status.NOT_FOUND),
        (413, "body_too_large", Status.RESOURCE_EXHAUSTED),
        (429, "rate_limited", Status.RESOURCE_EXHAUSTED),
        (500, "internal", Status.INTERNAL),
        (502, "upstream_reset", Status.UNAVAILABLE),
        (503, "overloaded", Status.UNAVAILABLE),
        (504, "timeout", Status.DEADLINE_EXCEEDED),
        (418, "teapot", Status.UNKNOWN),
    ],
)
def test_a_refusal_has_its_grpc_status(http, code, status):
    assert status_of_refusal(http, code) is status


def test_quota_and_capacity_are_told_apart():
    assert status_of_refusal(429, "rate_limited") is not status_of_refusal(503, "overloaded")


@pytest.mark.parametrize(
    ("http", "status"),
    [(400, Status.INTERNAL), (404, Status.UNIMPLEMENTED), (504, Status.UNAVAILABLE), (200, Status.UNKNOWN)],
)
def test_foreign_answers_mean_what_the_mapping_says(http, status):
    assert status_of_foreign(http) is status


@pytest.mark.parametrize("value", [None, b"", b"17", b"-1", b"abc", b"100"])
def test_what_is_no_status_is_unknown(value):
    assert read_status(value) is Status.UNKNOWN


def test_a_refusal_becomes_trailers_only_with_pushback():
    fields = trailers_only(Status.RESOURCE_EXHAUSTED, "slow down", 1.5)
    assert fields == [
        (b"content-type", b"application/grpc"),
        (b"grpc-status", b"8"),
        (b"grpc-message", b"slow down"),
        (b"grpc-retry-pushback-ms", b"1500"),
    ]


def test_a_grpc_answer_is_left_alone():
    response = Response(200, [(b"content-type", b"application/grpc")], None)
    assert as_grpc(response) is response


def test_a_refusal_in_grpc_form_goes_out_as_200():
    fields = [*trailers_only(Status.RESOURCE_EXHAUSTED, "no"), (b"x-headgate-reason", b"rate_limited")]
    answer = as_grpc(Response(429, fields, b""))
    assert (answer.status, answer.headers, answer.body) == (200, fields, b"")


def test_a_page_of_an_instance_becomes_trailers_only_and_keeps_its_metadata():
    page = Response(502, [(b"content-type", b"text/html"), (b"x-request-id", b"7")], b"<html>")
    answer = as_grpc(page)
    assert answer.status == 200
    assert answer.body == b""
    assert answer.header(b"grpc-status") == b"14"
    assert answer.header(b"x-request-id") == b"7"
    assert answer.header(b"content-type") == b"application/grpc"


def test_the_trailers_say_the_outcome_before_the_head_does():
    head = Response(200, [(b"grpc-status", b"0")], None)
    assert status_of(head, [(b"grpc-status", b"14")]) is Status.UNAVAILABLE
    assert status_of(head, None) is Status.OK
    assert status_of(Response(200, [], None), None) is Status.UNKNOWN
    assert status_of(Response(503, [], None), None) is Status.UNAVAILABLE


@pytest.mark.parametrize(
    ("status", "blames"),
    [
        (Status.OK, False),
        (Status.INVALID_ARGUMENT, False),
        (Status.NOT_FOUND, False),
        (Status.RESOURCE_EXHAUSTED, False),
        (Status.UNAVAILABLE, True),
        (Status.INTERNAL, True),
    ],
)
def test_only_some_statuses_speak_against_the_instance(status, blames):
    assert (status in BLAMING) is blames


@pytest.mark.parametrize(
    ("status", "http"), [(b"0", 200), (b"3", 200), (b"4", 504), (b"13", 500), (b"14", 503)]
)
def test_a_trailers_only_answer_has_an_http_status_that_rules_can_speak_of(status, http):
    assert as_http(Response(200, [(b"grpc-status", status)], b"")) == http


def test_an_answer_that_has_no_status_yet_keeps_its_own():
    assert as_http(Response(200, [], None)) == 200


def test_service_and_method_are_read_from_the_path():
    assert service_and_method(Request(b"POST", b"/a.b.C/Do", [])) == ("a.b.C", "Do")
    assert service_and_method(Request(b"POST", b"/plain", [])) == ("", "")
