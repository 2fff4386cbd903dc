"""What instances answer is as untrusted as what clients ask: the same table, read from the other side.

The instance's path says which bytes it answers with. A malformed answer is a 502 with a code, never passed
on, and its connection is never used again; nothing behind an answer's end reaches this client or another.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from tests.conformance.responses import CUT, HIDDEN, REFUSED, TAINTED, TRAILED, ok
from tests.fakes.chaos import Asker, Recorder, gateway, speak, statuses
from tests.integration.running import Running

ANSWERS = [*REFUSED.values(), *CUT.values(), *TAINTED.values(), *TRAILED.values()]
CLEAN = len(ANSWERS)  # the path of an answer that is as it should be
FIRST_CUT = len(REFUSED)
FIRST_TAINTED = FIRST_CUT + len(CUT)
FIRST_TRAILED = FIRST_TAINTED + len(TAINTED)


async def serve(asker: Asker) -> None:
    """Answer with the bytes that the path names, cut where it says; then close, unless that is the fault."""
    while True:
        asked = await asker.request()
        which, _, cut = asked.target[1:].partition(b"/")
        wire = ok(b"Content-Length: 5", body=b"clean") if int(which) == CLEAN else ANSWERS[int(which)]
        for piece in (wire[: int(cut)], wire[int(cut) :]) if cut else (wire,):
            await asker.send(piece)
            if cut:
                await asyncio.sleep(0.001)
        if int(which) < FIRST_TAINTED:
            return


@pytest.fixture(scope="module")
def instance() -> Iterator[Recorder]:
    with Recorder(serve) as recorder:
        yield recorder


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, instance: Recorder) -> Iterator[Running]:
    pool = ", eject: {consecutive: 1000000}, retry: {attempts: 0}"
    with gateway(tmp_path_factory.mktemp("strict"), instance.port, pool=pool) as running:
        yield running


@pytest.fixture(autouse=True)
def new_page(instance: Recorder) -> None:
    instance.forget()


def ask(path: str) -> bytes:
    return b"GET /%b HTTP/1.1\r\nHost: a\r\n\r\n" % path.encode()


def assert_bad_gateway(answer: bytes) -> None:
    assert statuses(answer) == [502, 200], answer
    first = answer.partition(b"HTTP/1.1 200")[0]
    assert b"x-headgate-reason: upstream_" in first
    assert answer.endswith(b"clean")
    assert b"hidden" not in answer


@pytest.mark.parametrize("which", range(FIRST_CUT), ids=list(REFUSED))
def test_a_malformed_answer_is_a_502_and_the_next_request_is_answered_right(
    running: Running, instance: Recorder, which: int
) -> None:
    accepted = instance.accepted
    answer = speak(running.http, [ask(str(which)), ask(str(CLEAN))], half_close=True)
    assert_bad_gateway(answer)
    assert instance.accepted <= accepted + 2
    assert [asked.target for asked in instance.asked] == [b"/%d" % which, b"/%d" % CLEAN]


@pytest.mark.parametrize("which", range(0, FIRST_CUT, 3), ids=list(REFUSED)[::3])
def test_a_malformed_answer_in_two_pieces_is_a_502_too(running: Running, which: int) -> None:
    cut = 1 + (which * 7) % max(1, min(len(ANSWERS[which]) - 1, 60))
    answer = speak(running.http, [ask(f"{which}/{cut}"), ask(str(CLEAN))], half_close=True)
    assert_bad_gateway(answer)


@pytest.mark.parametrize("which", range(FIRST_CUT, FIRST_TAINTED), ids=list(CUT))
def test_a_body_that_breaks_off_is_never_taken_for_a_whole_one(running: Running, which: int) -> None:
    """Either nothing went out yet (502), or the client's connection breaks before its answer is complete."""
    answer = speak(running.http, [ask(str(which)) + ask(str(CLEAN))], half_close=True)
    if statuses(answer)[0] == 502:
        assert_bad_gateway(answer)
    else:
        head, _, body = answer.partition(b"\r\n\r\n")
        assert statuses(answer) == [200]
        if b"transfer-encoding" in head:
            assert not body.endswith(b"0\r\n\r\n")
        else:
            assert len(body) < 10


@pytest.mark.parametrize("which", range(FIRST_TAINTED, FIRST_TRAILED), ids=list(TAINTED))
def test_what_stands_behind_an_answer_reaches_nobody(
    running: Running, instance: Recorder, which: int
) -> None:
    accepted = instance.accepted
    for _ in range(3):
        answer = speak(running.http, [ask(str(which)) + ask(str(CLEAN))], half_close=True)
        assert statuses(answer) == [200, 200]
        assert answer.count(b"hello") == 1
        assert answer.endswith(b"clean")
        assert HIDDEN not in answer
        assert b"hidden" not in answer
    assert instance.accepted >= accepted + 3  # a new connection behind each tainted one


@pytest.mark.parametrize("which", range(FIRST_TRAILED, CLEAN), ids=list(TRAILED))
def test_a_trailer_that_may_not_be_one_is_dropped(running: Running, which: int) -> None:
    request = b"GET /%d HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nConnection: TE\r\n\r\n" % which
    answer = speak(running.http, [request + ask(str(CLEAN))], half_close=True)
    assert statuses(answer) == [200, 200]
    first = answer.rpartition(b"HTTP/1.1 200")[0].lower()
    wire = ANSWERS[which]
    forbidden = next(line for line in reversed(wire.split(b"\r\n")) if b": " in line)
    head, _, body = first.partition(b"\r\n\r\n")
    assert forbidden.lower() not in body
    assert head.count(b"transfer-encoding") + head.count(b"content-length") == 1


def test_nothing_of_all_this_was_a_bug(running: Running, instance: Recorder) -> None:
    assert running.metric("headgate_bugs_total") == 0
    assert running.metric("headgate_in_flight") == 0
    assert instance.bugs == []
