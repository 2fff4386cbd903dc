"""The demo refuses: who may not, what does not exist, what is malformed, what is too much; in their words."""

from __future__ import annotations

import http.client
import json
import re
import socket
import threading
import time

import pytest

from tests.integration.running import FREE, GUEST, INFER, PREDICT, PRO, Answer, Demo, fresh_row, tfs, v2

SIGNATURE = "input: FP32[-1,64]"
JSON, PROBLEM = "application/json", "application/problem+json"


def assert_refused(answer: Answer, status: int, reason: str, kind: str = JSON) -> None:
    """Status, reason and body agree; `error` is a text as both dialects have it, `detail` as RFC 9457."""
    assert (answer.status, answer["x-headgate-reason"], answer["Content-Type"]) == (status, reason, kind)
    assert answer.json["code"] == reason
    if kind == JSON:
        assert isinstance(answer.json["error"], str)
    else:
        assert answer.json["status"] == status
        assert isinstance(answer.json["detail"], str)
    assert answer["x-request-id"]
    assert answer.json["request_id"] == answer["x-request-id"]


BODIES = pytest.mark.parametrize(
    ("path", "body"), [(PREDICT, tfs(fresh_row())), (INFER, v2(fresh_row()))], ids=["tfs", "v2"]
)


# Who


@BODIES
def test_nobody_is_asked_for_a_key(demo: Demo, path: str, body: bytes) -> None:
    answer = demo.ask(path, body, {})
    assert_refused(answer, 401, "missing_credentials")
    assert answer["x-headgate-policy"] == "sign-in"
    assert "headgate" in answer["WWW-Authenticate"]


@BODIES
def test_a_wrong_key_is_refused_and_not_repeated(demo: Demo, path: str, body: bytes) -> None:
    answer = demo.ask(path, body, {"X-API-Key": "demo-wrong"})
    assert_refused(answer, 401, "invalid_key")
    assert b"demo-wrong" not in answer.body


@BODIES
def test_a_valid_key_without_permission_is_forbidden(demo: Demo, path: str, body: bytes) -> None:
    assert_refused(demo.ask(path, body, GUEST), 403, "not_allowed")


# What


@pytest.mark.parametrize("headers", [PRO, {}], ids=["pro", "nobody"])
def test_an_unknown_endpoint_is_not_found(demo: Demo, headers: dict[str, str]) -> None:
    assert_refused(demo.ask("/nowhere", None, headers), 404, "unknown_endpoint", PROBLEM)


@pytest.mark.parametrize(
    "path",
    ["/v1/models/nope:predict", "/v2/models/nope/infer", "/v1/models/nope", "/v2/models/nope/ready"],
)
def test_an_unknown_model_is_not_found(demo: Demo, path: str) -> None:
    body = None if path.endswith(("nope", "ready")) else tfs(fresh_row())
    assert_refused(demo.ask(path, body), 404, "unknown_model")


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/models/digits/versions/9:predict", tfs(fresh_row())),
        ("/v1/models/digits/labels/nope:predict", tfs(fresh_row())),
        ("/v2/models/digits/versions/9/infer", v2(fresh_row())),
    ],
)
def test_an_unknown_version_is_not_found(demo: Demo, path: str, body: bytes) -> None:
    answer = demo.ask(path, body)
    assert answer.status == 404
    assert answer.json["code"] == answer["x-headgate-reason"]


@pytest.mark.parametrize("path", [PREDICT, INFER])
@pytest.mark.parametrize("body", [b'{"instances": [[', b"", b"\xff\xfe", b"{'a': 1}"])
def test_malformed_json_is_a_bad_request(demo: Demo, path: str, body: bytes) -> None:
    assert_refused(demo.ask(path, body), 400, "malformed_json")


@pytest.mark.parametrize(
    ("path", "body"),
    [(PREDICT, b"[1, 2]"), (INFER, b'{"inputs": []}'), (PREDICT, b'{"inputs": 1, "instances": 1}')],
)
def test_json_that_is_no_request_is_a_bad_request(demo: Demo, path: str, body: bytes) -> None:
    assert_refused(demo.ask(path, body), 400, "malformed_request")


SHORT = [1.0, 2.0, 3.0]


@pytest.mark.parametrize(
    ("path", "body", "reason"),
    [
        (PREDICT, tfs(SHORT), "wrong_shape"),
        (INFER, v2(SHORT), "wrong_shape"),
        (PREDICT, json.dumps({"instances": [{"pixels": fresh_row()}]}).encode(), "wrong_name"),
        (INFER, v2(fresh_row(), name="pixels"), "wrong_name"),
        (PREDICT, json.dumps({"instances": [["a"] * 64]}).encode(), None),
        (INFER, v2(fresh_row(), datatype="INT64"), "wrong_dtype"),
        (INFER, v2(fresh_row()).replace(b"[1, 64]", b"[2, 64]"), "wrong_shape"),
        (PREDICT, json.dumps({"instances": [fresh_row(), SHORT]}).encode(), None),
    ],
    ids=[
        *("tfs shape", "v2 shape", "tfs name", "v2 name", "tfs dtype", "v2 dtype"),
        *("v2 count", "tfs ragged"),
    ],
)
def test_a_wrong_tensor_is_answered_with_the_expected_signature(
    demo: Demo, path: str, body: bytes, reason: str | None
) -> None:
    before = sum(one["successes"] + one["failures"] for one in demo.instances())
    answer = demo.ask(path, body)
    assert 400 <= answer.status < 500
    assert_refused(answer, answer.status, reason or answer["x-headgate-reason"])
    assert SIGNATURE in answer.body.decode()
    assert sum(one["successes"] + one["failures"] for one in demo.instances()) == before


def test_a_prediction_of_no_rows_is_refused_by_the_model_with_its_signature(demo: Demo) -> None:
    answer = demo.ask(PREDICT, b'{"instances": []}')
    assert answer.status == 422
    assert "input FP32 [n,64]" in answer.json["error"]


# Too large


@BODIES
def test_a_declared_body_that_is_too_large_is_refused_before_it_is_sent(
    demo: Demo, path: str, body: bytes
) -> None:
    with socket.create_connection(("127.0.0.1", demo.http), 10) as raw:
        raw.sendall(
            f"POST {path} HTTP/1.1\r\nHost: headgate\r\nX-API-Key: demo-pro\r\nContent-Length: {1 << 34}\r\n"
            "Content-Type: application/json\r\n\r\n".encode()
        )
        response = http.client.HTTPResponse(raw)
        response.begin()
        answer = Answer(response.status, response.headers, response.read())
    assert (answer.status, answer["x-headgate-reason"]) == (413, "body_too_large")
    assert answer.json["code"] == "body_too_large"


def test_a_chunked_body_that_becomes_too_large_is_refused(demo: Demo) -> None:
    chunk = b"100000\r\n" + b" " * 0x100000 + b"\r\n"
    with socket.create_connection(("127.0.0.1", demo.http), 10) as raw:
        raw.sendall(
            f"POST {PREDICT} HTTP/1.1\r\nHost: headgate\r\nX-API-Key: demo-pro\r\n"
            "Transfer-Encoding: chunked\r\nContent-Type: application/json\r\n\r\n".encode()
        )

        def send() -> None:
            try:
                for _ in range(64):
                    raw.sendall(chunk)
            except OSError:
                return

        sender = threading.Thread(target=send)
        sender.start()
        response = http.client.HTTPResponse(raw)
        response.begin()
        status, reason = response.status, response.headers["x-headgate-reason"]
        raw.shutdown(socket.SHUT_RDWR)
        sender.join()
    assert (status, reason) == (413, "body_too_large")


# Too much


def test_eight_predictions_within_400_ms_exceed_the_free_plan(demo: Demo) -> None:
    time.sleep(1.1)  # whatever was spent before is back
    client = demo.client()
    before = time.monotonic()
    answers = [client.ask(PREDICT, tfs(fresh_row()), FREE) for _ in range(8)]
    assert time.monotonic() - before < 0.4
    refused = [answer for answer in answers if answer.status == 429]
    assert 1 <= len(refused) <= 3
    assert {answer.status for answer in answers} == {200, 429}
    for answer in refused:
        assert_refused(answer, 429, "rate_limited")
        assert answer["x-headgate-policy"] == answer.json["policy"] == "free-tier"
        assert int(answer["Retry-After"]) >= 1
        assert re.search(r'"free-tier";r=0;t=\d+', answer["RateLimit"])
        assert '"free-tier";q=5;w=1' in answer["RateLimit-Policy"]
    time.sleep(int(refused[-1]["Retry-After"]))
    assert client.ask(PREDICT, tfs(fresh_row()), FREE).status == 200


def test_one_who_is_throttled_does_not_throttle_another(demo: Demo) -> None:
    for _ in range(8):
        demo.predict(headers=FREE)
    assert demo.predict(headers=FREE).status == 429
    assert demo.predict(headers=PRO).status == 200


# What is counted and logged


def test_every_refusal_is_logged_with_its_policy_and_counted(demo: Demo) -> None:
    answer = demo.ask(PREDICT, tfs(fresh_row()), GUEST)
    log = demo.folder / ".demo/access.log"
    until_line = time.monotonic() + 5
    line = None
    while line is None and time.monotonic() < until_line:
        found = [json.loads(text) for text in log.read_text().splitlines()]
        line = next((one for one in found if one.get("request_id") == answer["x-request-id"]), None)
        time.sleep(0.02)
    assert line is not None
    assert (line["status"], line["endpoint"], line["reason"]) == (403, "digits", "not_allowed")
    assert demo.metric("headgate_requests_total", endpoint="digits", status="403") >= 1
