"""Tunnels, streams, interim answers and trailers, event by event through the exchange."""

from __future__ import annotations

import pytest

from gateway.filters.upgrade import KIND, Upgrade
from gateway.http.message import Headers, Response
from gateway.pipeline.errors import UpstreamReset, UpstreamTimeout
from gateway.pipeline.filter import Rule
from gateway.pipeline.snapshot import Found
from tests.playbooks.stage import Noting, Stage

ALLOWED = Upgrade(("websocket",))


def opened(log: list[str] | None = None) -> Stage:
    """A stage whose client asked for websocket, and whose instance has just agreed."""
    (upgrade,) = KIND.build([Rule(ALLOWED)], None)  # type: ignore[arg-type]  # needs no parts
    filters = [upgrade] if log is None else [Noting(log, "a"), upgrade]
    stage = Stage(filters)
    if log is not None:
        stage.log = log
    stage.start(upgrade=b"h2c, WebSocket")
    stage.sink.on_response(Response(101, [(b"sec-websocket-accept", b"x")], None))
    return stage


def test_a_tunnel_opens_and_passes_both_ways_until_both_have_ended() -> None:
    stage = opened()
    assert stage.sent[0].upgrade == b"websocket"
    assert stage.gateway.tunnels.open == 1
    assert stage.exchange is not None
    stage.sink.on_chunk(b"hello", False)
    stage.exchange.on_body(b"hi", False)
    stage.sink.on_chunk(b"", True)
    stage.exchange.on_body(b"more", False)
    stage.exchange.on_body(b"", True)
    assert stage.log == [
        "send a",
        "upgrade websocket",
        "resume a",
        "data b'hello'",
        "write a b'hi'",
        "end",
        "write a b'more'",
        "write a b'' last",
        "done 101",
    ]
    assert (stage.ctx.body_received, stage.ctx.body_sent) == (6, 5)
    assert stage.calls[0].silence == stage.snapshot.tunnel_idle
    tunnels = stage.gateway.tunnels
    assert (tunnels.open, tunnels.opened, tunnels.bytes_in, tunnels.bytes_out) == (0, 1, 6, 5)
    stage.assert_all_released()


def test_the_client_may_end_first() -> None:
    stage = opened()
    assert stage.exchange is not None
    stage.exchange.on_body(b"bye", True)
    assert stage.done == []
    stage.sink.on_chunk(b"bye", True)
    assert stage.log[-4:] == ["write a b'bye' last", "data b'bye'", "end", "done 101"]
    stage.assert_all_released()


def test_filters_see_the_handshake_and_nothing_of_the_tunnel() -> None:
    log: list[str] = []
    stage = opened(log)
    assert stage.exchange is not None
    stage.exchange.on_body(b"x", True)
    stage.sink.on_chunk(b"y", True)
    assert [line for line in log if line.startswith("a ")] == ["a request", "a response 101", "a done"]
    assert stage.answer is not None
    assert stage.answer.header(b"x-request-id") == stage.ctx.request_id
    stage.assert_all_released()


@pytest.mark.parametrize(
    "error", [UpstreamReset("gone"), UpstreamTimeout("silent")], ids=["reset", "silence"]
)
def test_a_tunnel_that_breaks_breaks_for_both(error: UpstreamReset | UpstreamTimeout) -> None:
    stage = opened()
    stage.sink.on_error(error)
    assert stage.log[-2:] == ["abort", "done 101"]
    assert stage.ctx.error is error
    assert stage.gateway.tunnels.open == 0
    stage.assert_all_released()


def test_a_client_that_leaves_a_tunnel_ends_the_call() -> None:
    stage = opened()
    assert stage.exchange is not None
    stage.exchange.on_client_gone()
    assert stage.log[-2:] == ["cancel a", "done 101"]
    assert stage.gateway.tunnels.open == 0
    stage.assert_all_released()


def test_slow_ends_of_a_tunnel_hold_each_other_back() -> None:
    stage = opened()
    assert stage.exchange is not None
    stage.exchange.on_writable(False)
    stage.sink.on_writable(False)
    stage.exchange.on_writable(True)
    stage.sink.on_writable(True)
    assert stage.log[-4:] == ["pause a", "pause body", "resume a", "resume body"]


@pytest.mark.parametrize(
    ("wished", "asked"),
    [
        (b"websocket", b"websocket"),
        (b"h2c", b""),
        (b"websocket/13", b""),
        (b"", b""),
        (b"a,WEBSOCKET , b", b"websocket"),
    ],
)
def test_only_what_is_allowed_is_asked_for(wished: bytes, asked: bytes) -> None:
    (upgrade,) = KIND.build([Rule(ALLOWED)], None)  # type: ignore[arg-type]  # needs no parts
    stage = Stage([upgrade])
    stage.start(upgrade=wished)
    assert stage.sent[0].upgrade == asked


def test_nothing_is_asked_for_without_the_verb() -> None:
    stage = Stage()
    stage.start(upgrade=b"websocket")
    assert stage.sent[0].upgrade == b""


# Streams


EVENTS: Headers = [(b"content-type", b"text/event-stream; charset=utf-8")]


def test_an_answer_without_an_announced_end_may_be_silent_but_not_late() -> None:
    stage = Stage()
    stage.start()
    assert stage.calls[0].silence == 0.0
    stage.sink.on_response(Response(200, [], None))
    assert stage.calls[0].silence == stage.snapshot.stream_idle


def test_an_answer_with_a_length_keeps_its_deadline() -> None:
    stage = Stage()
    stage.start()
    stage.sink.on_response(Response(200, [], None, length=100))
    assert stage.calls[0].silence == 0.0


def test_a_deadline_of_the_clients_own_holds_for_a_stream_too() -> None:
    stage = Stage()
    exchange = stage.start()
    exchange.ctx.hurried = True
    stage.sink.on_response(Response(200, [], None))
    assert stage.calls[0].silence == 0.0


def test_a_stream_is_not_gathered_for_who_would_like_it_whole() -> None:
    stage = Stage()
    exchange = stage.start()
    exchange.ctx.want_whole = 1 << 20
    stage.sink.on_response(Response(200, list(EVENTS), None))
    stage.sink.on_chunk(b"data: 1\n\n", False)
    assert stage.log[-1] == "data b'data: 1\\n\\n'"


# Before and after the answer


def test_interim_answers_go_to_the_client_before_the_answer() -> None:
    stage = Stage()
    stage.start()
    stage.sink.on_interim(Response(103, [(b"link", b"</a>"), (b"connection", b"x"), (b"x", b"1")]))
    stage.respond(200, b"ok")
    assert stage.log == ["send a", "interim 103", "reply 200", "done 200"]


def test_trailers_of_a_streamed_answer_come_with_its_end() -> None:
    stage = Stage()
    stage.start()
    head = Response(200, [], None)
    stage.sink.on_response(head)
    head.trailers = [(b"x-sum", b"1")]
    stage.sink.on_chunk(b"x", True)
    assert stage.log[-2:] == ["end [(b'x-sum', b'1')]", "done 200"]


def test_announced_trailers_of_a_request_go_on_with_its_last_piece() -> None:
    stage = Stage(replay_limit=0)
    announced: Headers = [(b"trailer", b"X-Sum, X-Other")]
    exchange = stage.start(b"POST", headers=announced, body=None, length=None)
    stage.sink.on_ready()
    exchange.ctx.request.trailers = [(b"x-sum", b"1"), (b"x-late", b"2"), (b"x-other", b"3")]
    exchange.on_body(b"x", True)
    assert stage.log[-1] == "write a b'x' last [(b'x-sum', b'1'), (b'x-other', b'3')]"
    assert exchange.ctx.body_received == 1


# OPTIONS that end here


def test_options_for_the_server_itself_is_answered_here() -> None:
    stage = Stage()
    stage.found = Found(None, None)
    stage.start(b"OPTIONS", b"*")
    assert stage.log == ["reply 204", "done 204"]
    assert stage.answer is not None
    assert b"GET" in (stage.answer.header(b"allow") or b"")
    stage.assert_all_released()


@pytest.mark.parametrize(
    ("method", "said", "sent"),
    [
        (b"OPTIONS", b"3", b"2"),
        (b"OPTIONS", b"1", b"0"),
        (b"OPTIONS", b"x", b"x"),
        (b"GET", b"3", b"3"),
        (b"GET", b"0", b"0"),
    ],
)
def test_hops_are_counted_where_they_count(method: bytes, said: bytes, sent: bytes) -> None:
    stage = Stage()
    stage.start(method, headers=[(b"max-forwards", said)])
    assert stage.sent[0].header(b"max-forwards") == sent


def test_an_options_whose_last_hop_this_is_goes_no_further() -> None:
    stage = Stage()
    stage.start(b"OPTIONS", headers=[(b"max-forwards", b"0")])
    assert stage.log == ["reply 204", "done 204"]
    assert stage.sent == []
    stage.assert_all_released()
