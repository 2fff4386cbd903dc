"""Bodies that are compressed on the wire, through a real gateway: answers, and predictions of clients."""

from __future__ import annotations

import asyncio
import gzip
import json
import zlib
from collections.abc import Iterator

import pytest

from tests.fakes.chaos import Asker, Recorder, gateway
from tests.integration.running import Running

PAGE = """\
pools:
  files: {{instances: ['127.0.0.1:{port}']}}
  model: {{instances: ['127.0.0.1:{port}'], speaks: kserve-v2}}
endpoints:
  files: {{match: '/files/**', authenticate: none, send: files, compress: true}}
  events: {{match: /events, authenticate: none, send: files, compress: {{types: [text/event-stream]}}}}
  m:
    model: m
    versions: {{1: model}}
    authenticate: none
    compress: {{min_size: 10}}
    validate: true
    cache: {{ttl: 30s}}
"""
TEXT = b"[" + b"0.5, " * 5000 + b"1]"
METADATA = {
    "name": "m",
    "platform": "test",
    "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}],
    "outputs": [{"name": "y", "datatype": "INT64", "shape": [-1]}],
}
OUTPUT = {"model_name": "m", "outputs": [{"name": "y", "datatype": "INT64", "shape": [1], "data": [7]}]}


async def serve(asker: Asker) -> None:
    """A model server of one model, a file, and a stream of events."""
    while True:
        asked = await asker.request()
        if asked.target == b"/events":
            await asker.send(
                b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
            )
            for number in range(3):
                await asker.send(b"9\r\ndata: %d\n\n\r\n" % number)
                await asyncio.sleep(0.02)
            await asker.send(b"0\r\n\r\n")
            continue
        if asked.target.startswith(b"/files"):
            body = TEXT
        else:
            body = json.dumps(OUTPUT if asked.method == b"POST" else METADATA).encode()
        head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
        await asker.send(head % len(body) + body)


@pytest.fixture(scope="module")
def instance() -> Iterator[Recorder]:
    with Recorder(serve) as recorder:
        yield recorder


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, instance: Recorder) -> Iterator[Running]:
    pages = PAGE.format(port=instance.port)
    with gateway(tmp_path_factory.mktemp("compressed"), 0, pages=pages) as running:
        yield running


GZIP = {"Accept-Encoding": "gzip"}


def test_an_answer_is_compressed_for_who_can_read_it(running: Running, instance: Recorder) -> None:
    instance.forget()
    small = running.ask("/files/a", headers=GZIP)
    assert small["content-encoding"] == "gzip"
    assert gzip.decompress(small.body) == TEXT
    assert int(small["content-length"]) == len(small.body) < len(TEXT) / 20
    plain = running.ask("/files/a", headers={"Accept-Encoding": "identity"})
    assert plain.body == TEXT
    assert small["vary"] == plain["vary"] == "accept-encoding"
    told = [asked.field(b"accept-encoding") for asked in instance.asked if asked.target == b"/files/a"]
    assert told == [b"", b""]


def test_events_come_one_by_one_though_compressed(running: Running) -> None:
    answer = running.ask("/events", headers=GZIP)
    assert answer["content-encoding"] == "gzip"
    assert gzip.decompress(answer.body) == b"data: 0\n\ndata: 1\n\ndata: 2\n\n"


def question(value: float) -> bytes:
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [value, 2.0]}
    return json.dumps({"inputs": [tensor]}).encode()


@pytest.mark.parametrize(
    ("coding", "pack"), [("gzip", gzip.compress), ("deflate", zlib.compress)], ids=["gzip", "deflate"]
)
def test_a_compressed_prediction_is_checked_kept_and_passed_on_as_it_came(
    running: Running, instance: Recorder, coding: str, pack: object
) -> None:
    assert callable(pack)
    value = float(len(coding))
    wire = pack(question(value))
    fields = {"Content-Type": "application/json", "Content-Encoding": coding, **GZIP}
    running.ask("/v2/models/m/infer", question(0.0), {})  # by now the signature is known
    instance.forget()
    first = running.ask("/v2/models/m/infer", wire, fields)
    assert first.status == 200, first.body
    assert json.loads(gzip.decompress(first.body))["outputs"][0]["data"] == [7]
    (asked,) = [asked for asked in instance.asked if asked.method == b"POST"]
    assert (asked.body, asked.field(b"content-encoding")) == (wire, coding.encode())
    kept = running.ask("/v2/models/m/infer", question(value), {})
    assert kept["cache-status"].startswith("headgate; hit")
    assert kept.json["outputs"][0]["data"] == [7]
    wrong = running.ask("/v2/models/m/infer", pack(question(value).replace(b"[1, 2]", b"[1, 3]")), fields)
    assert wrong.status in (400, 422)


@pytest.mark.parametrize(
    ("coding", "body", "status", "code"),
    [
        ("br", b"x", 415, "unknown_coding"),
        ("gzip", b"{}", 400, "bad_coding"),
        ("gzip", gzip.compress(bytes(50_000_000)), 413, "body_too_large"),
    ],
    ids=["another coding", "no gzip", "a bomb"],
)
def test_what_cannot_be_read_is_refused_with_a_code(
    running: Running, instance: Recorder, coding: str, body: bytes, status: int, code: str
) -> None:
    instance.forget()
    answer = running.ask("/v2/models/m/infer", body, {"Content-Encoding": coding})
    assert (answer.status, answer["x-headgate-reason"]) == (status, code)
    assert [asked for asked in instance.asked if asked.method == b"POST"] == []


def test_where_no_verb_reads_it_a_coded_body_passes_untouched(running: Running, instance: Recorder) -> None:
    instance.forget()
    assert running.ask("/files/a", b"whatever", {"Content-Encoding": "br"}).status == 200
    assert (instance.asked[-1].body, instance.asked[-1].field(b"content-encoding")) == (b"whatever", b"br")
