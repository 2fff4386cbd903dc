"""A real gateway before an instance that keeps every byte: what is ambiguous is refused, whole or in pieces.

Each hostile request is followed on the wire by a second one, `/smuggled`. It must be answered once, with a
4xx that says why and closes, and the instance must have seen nothing. What is accepted must reach the
instance as exactly one request that h11 and httptools read alike (tests/conformance/requests.py has the
table; RFC 9112 §11.2).
"""

from __future__ import annotations

import random
from collections.abc import Iterator

import h11
import httptools
import pytest

from tests.conformance.requests import ACCEPTED, BROKEN_BODIES, CHUNKED, NEXT, POST, REFUSED
from tests.fakes.chaos import Recorder, gateway, speak, statuses
from tests.integration.running import Running

CLIENT_ERRORS = {400, 408, 413, 414, 417, 431}


@pytest.fixture(scope="module")
def instance() -> Iterator[Recorder]:
    with Recorder() as recorder:
        yield recorder


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, instance: Recorder) -> Iterator[Running]:
    with gateway(tmp_path_factory.mktemp("strict"), instance.port, limits="header_timeout: 2s") as running:
        yield running


@pytest.fixture(autouse=True)
def new_page(instance: Recorder) -> None:
    instance.forget()


def assert_refused(answer: bytes) -> None:
    """One answer, 4xx, with a reason for machines, and the connection closed (`answer` went to its end)."""
    head, _, body = answer.partition(b"\r\n\r\n")
    assert len(statuses(answer)) == 1, answer
    assert statuses(answer)[0] in CLIENT_ERRORS, answer
    fields = dict(line.split(b": ", 1) for line in head.split(b"\r\n")[1:])
    assert fields[b"connection"] == b"close"
    assert fields[b"content-type"] == b"application/problem+json"
    assert fields[b"x-headgate-reason"] in body
    assert int(fields[b"content-length"]) == len(body)


@pytest.mark.parametrize("wire", REFUSED.values(), ids=REFUSED.keys())
def test_what_can_be_read_in_two_ways_is_refused(running: Running, instance: Recorder, wire: bytes) -> None:
    assert_refused(speak(running.http, [wire + NEXT if b"\r\n\r\n" in wire else wire]))
    assert instance.seen == b""


def split(wire: bytes, seed: int) -> list[bytes]:
    """Cut into pieces: at single places, at many, at every byte, in turn."""
    rng = random.Random(seed)
    if seed % 3 == 0 and len(wire) < 200:
        return [wire[at : at + 1] for at in range(len(wire))]
    cuts = sorted(rng.sample(range(1, len(wire)), min(len(wire) - 1, 1 + seed % 5)))
    return [wire[start:end] for start, end in zip([0, *cuts], [*cuts, len(wire)], strict=True)]


SAMPLE = list(REFUSED.items())[:: max(1, len(REFUSED) // 300)]


@pytest.mark.parametrize(
    ("seed", "wire"), list(enumerate([wire for _, wire in SAMPLE])), ids=[name for name, _ in SAMPLE]
)
def test_cutting_a_hostile_request_into_pieces_changes_nothing(
    running: Running, instance: Recorder, seed: int, wire: bytes
) -> None:
    assert_refused(speak(running.http, split(wire + NEXT if b"\r\n\r\n" in wire else wire, seed)))
    assert instance.seen == b""


@pytest.mark.parametrize("body", BROKEN_BODIES.values(), ids=BROKEN_BODIES.keys())
def test_malformed_chunks_never_make_a_request(running: Running, instance: Recorder, body: bytes) -> None:
    answer = speak(running.http, [CHUNKED + body + NEXT])
    assert_refused(answer)
    assert instance.asked == []
    assert b"smuggled" not in instance.seen


@pytest.mark.parametrize(
    ("seed", "body"), list(enumerate(list(BROKEN_BODIES.values())[::3])), ids=list(BROKEN_BODIES)[::3]
)
def test_cutting_malformed_chunks_into_pieces_changes_nothing(
    running: Running, instance: Recorder, seed: int, body: bytes
) -> None:
    answer = speak(running.http, [CHUNKED, *split(body + NEXT, seed)])
    assert_refused(answer)
    assert instance.asked == []
    assert b"smuggled" not in instance.seen


# What is accepted


def read_by_h11(wire: bytes) -> tuple[bytes, bytes, list[tuple[bytes, bytes]], bytes]:
    """Return method, target, fields and body as h11 reads them; exactly one request."""
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
    connection.receive_data(wire)
    head = connection.next_event()
    assert isinstance(head, h11.Request)
    body = b""
    while isinstance(event := connection.next_event(), h11.Data):
        body += bytes(event.data)
    assert isinstance(event, h11.EndOfMessage)
    assert connection.trailing_data[0] == b""
    return head.method, head.target, [(name.lower(), value) for name, value in head.headers], body


class Read:
    """What httptools calls while it reads."""

    def __init__(self) -> None:
        self.target = self.body = b""
        self.fields: list[tuple[bytes, bytes]] = []
        self.complete = 0

    def on_url(self, url: bytes) -> None:
        self.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.fields.append((name.lower(), value))

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        self.complete += 1


def read_by_httptools(wire: bytes) -> tuple[bytes, bytes, list[tuple[bytes, bytes]], bytes]:
    """Return method, target, fields and body as llhttp reads them; exactly one request."""
    read = Read()
    parser = httptools.HttpRequestParser(read)
    parser.feed_data(wire)
    assert read.complete == 1
    return parser.get_method(), read.target, read.fields, read.body


@pytest.mark.parametrize("pieces", ["whole", "in pieces"])
@pytest.mark.parametrize("wire", ACCEPTED.values(), ids=ACCEPTED.keys())
def test_one_upstream_request_per_request_that_all_read_alike(
    running: Running, instance: Recorder, wire: bytes, pieces: str
) -> None:
    sent = [wire] if pieces == "whole" else split(wire, len(wire))
    answer = speak(running.http, sent, half_close=True)
    assert statuses(answer) == [200], answer
    (asked,) = instance.asked
    assert instance.seen.endswith(
        asked.wire
    )  # before it: half a request, maybe, that the test before broke off
    ours = read_by_h11(asked.wire)
    if asked.method not in (b"REPORT", b"M-SEARCH"):  # llhttp knows a closed list of methods
        assert read_by_httptools(asked.wire) == ours
    assert ours[:2] == (asked.method, asked.target)
    assert ours[3] == asked.body
    assert [value for name, value in asked.fields if name == b"host"] == [b"127.0.0.1:%d" % instance.port]
    framing = [name for name, _ in asked.fields if name in (b"content-length", b"transfer-encoding")]
    assert len(framing) <= 1


def test_fields_named_in_connection_stay_here_but_never_framing(running: Running, instance: Recorder) -> None:
    answer = speak(
        running.http,
        [
            POST + b"Host: a\r\nConnection: close, X-A, Content-Length, Host, X-Forwarded-For\r\n"
            b"X-A: 1\r\nX-B: 2\r\nContent-Length: 5\r\n\r\nhello"
        ],
    )
    assert statuses(answer) == [200]
    (asked,) = instance.asked
    assert (asked.field(b"x-a"), asked.field(b"x-b"), asked.body) == (b"", b"2", b"hello")
    assert asked.field(b"x-forwarded-for") == b"127.0.0.1"


def test_pipelined_requests_go_on_one_by_one_until_the_hostile_one(
    running: Running, instance: Recorder
) -> None:
    good = [b"POST /%d HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n%d" % (n, n) for n in range(5)]
    bad = b"POST /bad HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    answer = speak(running.http, [b"".join(good) + bad + NEXT])
    assert statuses(answer) == [200] * 5 + [400]
    assert [asked.target for asked in instance.asked] == [b"/0", b"/1", b"/2", b"/3", b"/4"]
    assert [asked.body for asked in instance.asked] == [b"0", b"1", b"2", b"3", b"4"]


@pytest.mark.parametrize("left", [1, 2, 10], ids=str)
def test_a_body_is_never_longer_than_announced(running: Running, instance: Recorder, left: int) -> None:
    """What follows a body is the next request, and nothing else."""
    answer = speak(
        running.http, [b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello" + b"G" * left]
    )
    assert statuses(answer)[0] == 200
    assert all(status in CLIENT_ERRORS for status in statuses(answer)[1:])
    assert [asked.body for asked in instance.asked] == [b"hello"]


def test_nothing_of_all_this_was_a_bug(running: Running, instance: Recorder) -> None:
    assert running.metric("headgate_bugs_total") == 0
    assert running.metric("headgate_in_flight") == 0
    assert instance.bugs == []
