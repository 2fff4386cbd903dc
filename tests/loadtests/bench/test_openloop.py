"""The schedule's arithmetic, and the generator in C against a server that stalls."""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtests.bench import openloop
from loadtests.bench.openloop import Times, as_window, latency_ms, percentile, schedule
from loadtests.bench.site import PEERS, build
from loadtests.bench.window import Broken

MS = 1_000_000  # ns


def served_in_turn(due: list[int], stall: range, service: int = MS // 10) -> list[Times]:
    """What a server answers that does one request at a time and nothing at all during the stall."""
    free, answers = 0, []
    for one in due:
        start = max(one, free)
        if start in stall:
            start = stall.stop
        free = start + service
        answers.append(Times(one, start, free, 200))
    return answers


def test_requests_are_due_at_equal_distances_from_the_first() -> None:
    assert schedule(500, 4) == [0, 2 * MS, 4 * MS, 6 * MS]


def test_a_stalled_server_shows_the_whole_stall_to_all_who_were_due_meanwhile() -> None:
    times = served_in_turn(schedule(500, 1000), stall=range(100 * MS, 300 * MS))
    late = [one for one in times if latency_ms(one) > 1]
    assert len(late) == pytest.approx(200 / 2, abs=8)  # 200 ms at one request every 2 ms, and some after
    assert max(map(latency_ms, times)) == pytest.approx(200, abs=1)
    assert as_window(times, 0).p99 > 150  # one in ten waited: the 99th of a hundred is among the longest


def test_counting_from_the_instant_of_sending_would_hide_the_stall() -> None:
    times = served_in_turn(schedule(500, 1000), stall=range(100 * MS, 300 * MS))
    from_sending = [(one.answered - one.sent) / 1e6 for one in times]
    assert percentile(from_sending, 0.99) < 1 < as_window(times, 0).p99


@given(
    rate=st.floats(10, 10_000),
    begin=st.integers(0, 500 * MS),
    length=st.integers(1, 500 * MS),
)
def test_nobody_is_answered_before_the_stall_ends(rate: float, begin: int, length: int) -> None:
    stall = range(begin, begin + length)
    for one in served_in_turn(schedule(rate, 200), stall):
        if one.due in stall:
            assert latency_ms(one) >= (stall.stop - one.due) / 1e6


@given(st.lists(st.floats(0, 1e6), min_size=1), st.floats(0.001, 1))
def test_a_percentile_is_a_value_that_the_part_does_not_exceed(values: list[float], part: float) -> None:
    found = percentile(values, part)
    assert found in values
    assert sum(one <= found for one in values) >= part * len(values)


def test_a_request_that_was_never_answered_is_infinitely_late_and_failed() -> None:
    lost = Times(0, 10, 0, 0)
    assert latency_ms(lost) == float("inf")
    assert as_window([Times(0, 10, 20, 200)] * 99 + [lost], 0).failed == 1
    with pytest.raises(Broken, match="2 of 100 requests were never answered"):
        as_window([Times(0, 10, 20, 200)] * 98 + [lost] * 2, 0)


def test_the_open_loop_sends_the_same_prediction_as_the_closed_one() -> None:
    prediction = json.loads(openloop.prediction())
    assert len(prediction["inputs"][0]["data"]) == 16
    assert openloop.prediction().decode() in (PEERS / "request.lua").read_text().replace("'\n  .. '", "")


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
async def test_the_generator_goes_on_asking_while_the_server_stalls(tmp_path: Path) -> None:
    stall = 0.3

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(65536):
            now = asyncio.get_running_loop().time() - began
            if 0.2 < now < 0.2 + stall:
                await asyncio.sleep(0.2 + stall - now)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        writer.close()

    build(PEERS / "openloop.c", tmp_path / "openloop")
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        port = str(server.sockets[0].getsockname()[1])
        began = asyncio.get_running_loop().time()
        process = await asyncio.create_subprocess_exec(
            *(str(tmp_path / "openloop"), port, "500", "400", "8"),  # eight connections: most must wait
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        output, _ = await process.communicate(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n\0")
    times = openloop.read(output.decode())
    assert [one.due for one in times] == schedule(500, 400)
    assert all(one.status == 200 for one in times)
    late = sum(1 for one in times if latency_ms(one) > 100)
    assert late >= 80  # two thirds of the 150 that were due during the stall waited more than a third of it
    assert max(map(latency_ms, times)) > 1000 * stall * 0.8
