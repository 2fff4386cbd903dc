"""The access log over real files, pipes and full disks: what is written, what is lost, who never waits."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gateway.pipeline.context import Context
from gateway.pipeline.errors import Refusal, UpstreamTimeout
from gateway.pipeline.ports import Principal
from gateway.telemetry import access_log
from gateway.telemetry.access_log import AccessLog
from gateway.telemetry.log_lines import line, record
from tests.fakes.clock import ManualClock
from tests.fakes.context import make_context
from tests.fakes.traffic import Traffic, instances

SECRET = b"sk-live-very-secret"


def finished(status: int = 200, principal: Principal | None = None) -> Context:
    ctx = make_context(principal=principal)
    ctx.request_id, ctx.status, ctx.finished = b"f" * 32, status, 1000.5
    return ctx


def open_log(target: Path | str, clock: ManualClock | None = None, sample: float = 1.0) -> AccessLog:
    log = AccessLog(str(target), clock or ManualClock(), chance=lambda: 0.5, sample=sample)
    log.start()
    return log


def until(condition: Callable[[], bool]) -> None:
    """Wait for the writer's thread."""
    end = time.monotonic() + 5.0
    while not condition():
        assert time.monotonic() < end, "the writer did not get there"
        time.sleep(0.001)


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(text) for text in path.read_text().splitlines()]


# What a line says


def test_a_line_tells_who_asked_what_who_served_it_and_how_long_it_took() -> None:
    traffic = Traffic(versions={"1": "digits-v1"})
    traffic.who = Principal("alice", plan="free", tenant="acme")
    sent = traffic.send(body=instances([[1, 2]]))
    traffic.clock.advance(0.25)
    traffic.upstream.calls[0].answer(b'{"predictions": []}')
    (ctx,) = traffic.observer.done
    told = record(ctx, epoch=1_790_000_000.0 - 1000.0)
    assert {
        "time": 1_790_000_000.25,
        "client": "10.0.0.1",
        "method": "POST",
        "path": "/v1/models/digits:predict",
        "status": 200,
        "ms": 250.0,
        "bytes_in": len(instances([[1, 2]])),
        "bytes_out": len(sent.down.body),
        "endpoint": "digits",
        "principal": "alice",
        "plan": "free",
        "tenant": "acme",
        "pool": "digits-v1",
        "instance": "digits-v1-0",
        "upstream_ms": 250.0,
    }.items() <= told.items()
    assert "attempts" not in told
    assert "reason" not in told


def test_a_refusal_says_which_policy_decided_and_why() -> None:
    ctx = finished(429)
    ctx.refusal = Refusal(429, "throttled", "5/s per principal is used up")
    ctx.refusal.policy, ctx.answered_by = "free-tier", "throttle"
    told = record(ctx, 0.0)
    assert (told["reason"], told["policy"], told["decided_by"]) == ("throttled", "free-tier", "throttle")
    assert told["why"] == "5/s per principal is used up"


def test_a_failure_says_what_failed() -> None:
    ctx = finished(504)
    ctx.error = UpstreamTimeout("no head within 2 s")
    told = record(ctx, 0.0)
    assert (told["reason"], told["why"]) == (ctx.error.code, "no head within 2 s")


def test_what_a_rehearsed_policy_would_refuse_and_the_trace_are_told() -> None:
    ctx = finished()
    ctx.rehearsed, ctx.sampled, ctx.trace_id = (("free-tier", "throttled"),), True, b"a" * 32
    told = record(ctx, 0.0)
    assert (told["would_refuse"], told["trace_id"]) == (["free-tier: throttled"], "a" * 32)


def test_no_credential_comes_into_a_line() -> None:
    ctx = make_context(
        (b"x-api-key", SECRET),
        (b"authorization", b"Bearer " + SECRET),
        (b"cookie", SECRET),
        query=b"api_key=" + SECRET,
        body=SECRET,
    )
    ctx.credential_field = b"x-api-key"
    ctx.refusal = Refusal(401, "unauthenticated", "a key is needed")
    assert SECRET not in line(record(ctx, 0.0))


def test_a_line_is_one_line_of_json_whatever_a_client_puts_into_it() -> None:
    ctx = make_context(path=b'/a"b\\\xff\n', principal=Principal("torn \ud800 name"))
    text = line(record(ctx, 0.0))
    assert text.count(b"\n") == 1
    told = json.loads(text)
    assert (told["path"], told["principal"]) == ('/a"b\\\xff\n', "torn \ud800 name")


# Where lines go


def test_every_request_makes_one_line(tmp_path: Path) -> None:
    log = open_log(tmp_path / "access.log")
    for number in range(1500):
        log.observe(finished(200 + number % 3))
    log.close()
    assert [told["status"] for told in lines_of(tmp_path / "access.log")] == [200, 201, 202] * 500
    assert (log.written, log.dropped) == (1500, 0)


def test_the_file_is_for_its_owner_and_group_alone(tmp_path: Path) -> None:
    log = open_log(tmp_path / "access.log")
    log.observe(finished())
    log.close()
    assert (tmp_path / "access.log").stat().st_mode & 0o007 == 0


def test_off_writes_nothing_and_starts_no_thread() -> None:
    log = open_log("off")
    log.observe(finished())
    log.close()
    assert (log.written, log.dropped) == (0, 0)


@pytest.mark.parametrize(("sample", "good"), [(1.0, 100), (0.6, 100), (0.4, 0), (0.0, 0)])
def test_a_sample_leaves_out_successes_and_never_refusals(tmp_path: Path, sample: float, good: int) -> None:
    log = open_log(tmp_path / "access.log", sample=sample)  # the die always shows 0.5
    for status in (200, 429, 500):
        for _ in range(100):
            log.observe(finished(status))
    log.close()
    statuses = [told["status"] for told in lines_of(tmp_path / "access.log")]
    assert [statuses.count(status) for status in (200, 429, 500)] == [good, 100, 100]
    assert log.dropped == 0


@pytest.mark.parametrize("how", ["moved", "removed"])
def test_a_rotated_file_is_opened_anew_by_its_name(tmp_path: Path, how: str) -> None:
    path, clock = tmp_path / "access.log", ManualClock()
    log = open_log(path, clock)
    log.observe(finished(200))
    until(lambda: log.written == 1)
    if how == "moved":
        path.rename(tmp_path / "access.log.1")
    else:
        path.unlink()
    clock.advance(access_log.LOOK)
    log.observe(finished(201))
    log.close()
    assert [told["status"] for told in lines_of(path)] == [201]
    assert log.dropped == 0


# Sinks that take nothing


def test_a_full_disk_loses_lines_and_counts_them() -> None:
    log = open_log("/dev/full")
    for _ in range(10):
        log.observe(finished())
    log.close()
    assert (log.written, log.dropped) == (0, 10)


def test_a_missing_folder_loses_lines_until_it_is_there(tmp_path: Path) -> None:
    path, clock = tmp_path / "logs" / "access.log", ManualClock()
    log = open_log(path, clock)
    log.observe(finished(200))
    until(lambda: log.dropped == 1)
    path.parent.mkdir()
    log.observe(finished(201))
    until(lambda: log.dropped == 2)  # a sink that failed is left alone for a while
    clock.advance(access_log.AGAIN)
    log.observe(finished(202))
    log.close()
    assert [told["status"] for told in lines_of(path)] == [202]


def test_a_closed_pipe_loses_lines_and_counts_them(tmp_path: Path) -> None:
    fifo, clock = tmp_path / "pipe", ManualClock()
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    log = open_log(fifo, clock)
    log.observe(finished())
    until(lambda: log.written == 1)
    os.close(reader)
    log.observe(finished())
    log.close()
    assert (log.written, log.dropped) == (1, 1)


def test_a_disk_that_is_full_in_the_middle_of_a_line_spoils_that_line_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, clock, room, real = tmp_path / "access.log", ManualClock(), [300], os.write

    def limited(descriptor: int, data: memoryview) -> int:
        if not room[0]:
            raise OSError(28, "no space left on device")
        size = real(descriptor, bytes(data[: room[0]]))
        room[0] -= size
        return size

    log = AccessLog(str(path), clock, chance=lambda: 0.5)
    for _ in range(2):
        log._queue.append(line(record(finished(), 0.0)))
    monkeypatch.setattr(os, "write", limited)
    log.start()
    until(lambda: log.written + log.dropped == 2)
    assert (log.written, log.dropped) == (1, 1)
    room[0] = 10_000
    clock.advance(access_log.AGAIN)
    log.observe(finished(201))
    log.close()
    first, torn, last = path.read_text().splitlines()
    assert (json.loads(first)["status"], json.loads(last)["status"]) == (200, 201)
    with pytest.raises(json.JSONDecodeError):
        json.loads(torn)


# Readers that make the writer wait


def test_a_pipe_that_nobody_opens_holds_up_neither_requests_nor_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(access_log, "PATIENCE", 0.05)
    fifo = tmp_path / "pipe"
    os.mkfifo(fifo)
    log = open_log(fifo)
    started = time.monotonic()
    for _ in range(10):
        log.observe(finished())
    log.close()
    assert time.monotonic() - started < 1.0
    assert (log.written, log.dropped) == (0, 10)
    os.close(os.open(fifo, os.O_RDONLY | os.O_NONBLOCK))  # lets the writer's thread go


def test_a_reader_that_stops_reading_costs_a_bounded_queue_and_no_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(access_log, "PATIENCE", 0.05)
    monkeypatch.setattr(access_log, "QUEUE", 100)
    fifo, ctx, count = tmp_path / "pipe", finished(), 5000
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    log = open_log(fifo)
    log.observe(ctx)
    until(lambda: log.written == 1)
    started = time.monotonic()
    for _ in range(count):
        log.observe(ctx)
    assert time.monotonic() - started < 1.0
    log.close()
    assert log.dropped > 0
    assert log.written + log.dropped == count + 1
    os.close(reader)


def test_requests_after_the_end_are_no_trouble(tmp_path: Path) -> None:
    log = open_log(tmp_path / "access.log")
    log.close()
    log.observe(finished())
    log.close()
    assert log.written == 0
