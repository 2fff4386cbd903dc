from __future__ import annotations

import pytest

from gateway.config.units import Size
from gateway.filters.bandwidth import KIND, Bandwidth
from gateway.http.message import Request, Response
from gateway.pipeline.context import Context
from gateway.pipeline.exchange import Exchange
from gateway.pipeline.filter import Rule
from gateway.pipeline.gateway import Gateway
from gateway.pipeline.ports import Peer
from tests.fakes.traffic import FakeCall, FakeDownstream, Sent, Traffic

SLOW = Bandwidth(Size(1000), burst=Size(1000))


class Paused(FakeCall):
    """Knows whether the instance is read."""

    is_read = True

    def pause(self) -> None:
        self.is_read = False

    def resume(self) -> None:
        self.is_read = True


@pytest.fixture
def traffic(monkeypatch: pytest.MonkeyPatch) -> Traffic:
    monkeypatch.setattr("tests.fakes.traffic.FakeCall", Paused)
    return Traffic()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1MiB/s per principal", Bandwidth(Size(1 << 20), "principal")),
        ("1000/s burst 64KiB", Bandwidth(Size(1000), "", Size(65536))),
    ],
)
def test_the_short_form_says_it_all(text: str, expected: Bandwidth) -> None:
    assert Bandwidth.from_text(text) == expected


@pytest.mark.parametrize("text", ["1MiB", "0/s", "1MiB/min", "1MiB/s per nobody"])
def test_what_is_no_bandwidth_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        Bandwidth.from_text(text)


def streaming(traffic: Traffic) -> tuple[Sent, Paused]:
    sent = traffic.send(path=b"/events")
    call = traffic.upstream.calls[-1]
    assert isinstance(call, Paused)
    call.sink.on_response(Response(200, [(b"content-type", b"text/event-stream")], None))
    return sent, call


def test_a_streamed_answer_is_read_no_faster_than_its_rate(traffic: Traffic) -> None:
    traffic.use(KIND, SLOW)
    sent, call = streaming(traffic)
    began = traffic.clock.now()
    for _ in range(20):
        call.sink.on_chunk(b"x" * 500, False)
        while not call.is_read:
            traffic.clock.advance(0.05)
            traffic.timers.fire()
    elapsed = traffic.clock.now() - began
    assert 9.0 - 1e-6 <= elapsed <= 10.0  # 10,000 bytes at 1,000/s, the first 1,000 at once
    call.sink.on_chunk(b"", True)
    assert len(sent.down.body) == 10_000
    assert traffic.timers.live == 0


def test_a_slow_client_holds_the_answer_back_even_when_it_is_paid_for(traffic: Traffic) -> None:
    traffic.use(KIND, SLOW)
    sent, call = streaming(traffic)
    call.sink.on_chunk(b"x" * 1500, False)
    sent.exchange.on_writable(False)
    sent.exchange.on_writable(True)
    assert not call.is_read  # not paid for yet
    sent.exchange.on_writable(False)
    traffic.clock.advance(1.0)
    traffic.timers.fire()
    assert not call.is_read  # paid for, but nobody takes it
    sent.exchange.on_writable(True)
    assert call.is_read


def test_who_leaves_leaves_no_timer(traffic: Traffic) -> None:
    traffic.use(KIND, SLOW)
    sent, call = streaming(traffic)
    call.sink.on_chunk(b"x" * 5000, False)
    sent.exchange.on_client_gone()
    assert traffic.timers.live == 0


def test_an_answer_that_is_whole_is_held_as_long_as_its_bytes_take(traffic: Traffic) -> None:
    traffic.use(KIND, SLOW)
    sent = traffic.send()
    traffic.upstream.calls[0].answer(b"x" * 3000)
    assert not sent.down.answered
    traffic.clock.advance(1.9)
    traffic.timers.fire()
    assert not sent.down.answered
    traffic.clock.advance(0.2)
    traffic.timers.fire()
    assert sent.down.status == 200


class Door(FakeDownstream):
    """Knows whether the client is read."""

    is_read = False

    def proceed(self) -> None:
        self.is_read = True

    def pause_body(self) -> None:
        self.is_read = False

    def resume_body(self) -> None:
        self.is_read = True


def upload(traffic: Traffic) -> tuple[Exchange, Door]:
    request = Request(b"POST", b"/upload", [], body=None, length=None)
    gateway = Gateway(
        traffic._snapshot(),
        upstream=traffic.upstream,
        clock=traffic.clock,
        timers=traffic.timers,
        ids=traffic.ids,
        signatures=traffic.parts.signatures,
        observer=traffic.observer,
        pressure=traffic.parts.pressure,
    )
    ctx = Context(request, Peer("10.0.0.1", 5000), gateway.snapshot, traffic.clock.now())
    door = Door()
    exchange = Exchange(ctx, door, gateway)
    exchange.start()
    return exchange, door


def test_a_streamed_upload_is_read_no_faster_than_its_rate(traffic: Traffic) -> None:
    traffic.use(KIND, Bandwidth(Size(1000), burst=Size(1000), of="requests"))
    exchange, door = upload(traffic)
    traffic.upstream.calls[0].sink.on_ready()
    began = traffic.clock.now()
    for step in range(16):
        exchange.on_body(b"x" * 500, step == 15)
        while not door.is_read and step < 15:
            traffic.clock.advance(0.05)
            traffic.timers.fire()
    assert 6.5 - 1e-6 <= traffic.clock.now() - began <= 7.2


def test_what_was_read_whole_is_paid_for_before_the_next_body_is_read(traffic: Traffic) -> None:
    traffic.use(KIND, Bandwidth(Size(1000), burst=Size(1000), of="requests"))
    traffic.send(body=b'{"instances":[' + b"[1,2]," * 500 + b"[1,2]]}")
    traffic.upstream.calls[0].answer()
    waiting = traffic.send()
    assert len(traffic.upstream.calls) == 1
    assert not waiting.down.answered
    hurried = traffic.send(timeout=0.5)
    assert hurried.down.status == 503  # everybody shares it
    assert hurried.down.field(b"x-headgate-reason") == b"rate_limited"
    traffic.clock.advance(2.1)
    traffic.timers.fire()
    assert len(traffic.upstream.calls) == 2


def test_a_rehearsal_slows_nobody_down(traffic: Traffic) -> None:
    traffic.use_rules(KIND, Rule(SLOW, "later", enforce=False))
    sent = traffic.send()
    traffic.upstream.calls[0].answer(b"x" * 30_000)
    assert sent.down.status == 200
