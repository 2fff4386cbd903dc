"""A stream of predictions, event by event: each a request of its own, one at a time, in order."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from gateway.dialects import wire
from gateway.dialects.catalogue import KSERVE_V2_GRPC, recognise
from gateway.filters import throttle
from gateway.http.forwarded import Forwarding
from gateway.http.message import Headers, Request, Response
from gateway.pipeline.chain import Chain
from gateway.pipeline.errors import BodyTimeout, UpstreamReset
from gateway.pipeline.exchange import begin
from gateway.pipeline.gateway import Gateway
from gateway.pipeline.ports import Peer
from gateway.pipeline.snapshot import Endpoint, Found, Snapshot
from tests.dialects.models import a_request, a_response, a_tensor
from tests.fakes.traffic import FakeDownstream, Traffic

PATH = b"/inference.GRPCInferenceService/ModelStreamInfer"
GRPC = (b"content-type", b"application/grpc")


class Client(FakeDownstream):
    """What the client of a stream gets; paused: it is not read."""

    def __init__(self) -> None:
        super().__init__()
        self.paused = False
        self.trailers: Headers = []

    def pause_body(self) -> None:
        self.paused = True

    def resume_body(self) -> None:
        self.paused = False

    def end(self, trailers: Headers | None = None) -> None:
        super().end()
        self.trailers = trailers or []

    @property
    def said(self) -> list[str]:
        """Each answer's first number, or the error, behind the id of its request."""
        found, body = [], self.body
        while body:
            size = 5 + int.from_bytes(body[1:5], "big")
            found.append(_said(body[5:size]))
            body = body[size:]
        return found

    @property
    def outcome(self) -> str:
        return b" ".join(value for _, value in self.trailers).decode()


def _said(message: bytes) -> str:
    error, answer = "", b""
    for field in wire.fields(message):
        if field[0] == 1:
            error = wire.text(field)
        elif field[0] == 2:
            answer = wire.nested(field)
    id = "".join(wire.text(field) for field in wire.fields(answer) if field[0] == 3)
    if error:
        return f"{id} {error}"
    (y,) = KSERVE_V2_GRPC.read_response([], wire.frame(answer), None).outputs
    return f"{id} {y.data[0]}"


class Streamed(Traffic):
    """A stream to an endpoint of a model whose one instance speaks V2 over gRPC."""

    def __init__(self, *headers: tuple[bytes, bytes]) -> None:
        super().__init__(speaks="kserve-v2-grpc")
        self.down = Client()
        self.headers = headers

    def _snapshot(self) -> Snapshot:
        endpoint = Endpoint("digits", Chain(self.filters), self.pools["digits-v1"], model="digits")

        def find(request: Request) -> Found:
            target = recognise(request.method, request.path)
            return Found(None, target, models={"digits": endpoint} if request.path != PATH else None)

        return Snapshot(1, "", self.pools, {"digits": endpoint}, find, Forwarding(()))

    def begin(self) -> Streamed:
        """Send the stream's head."""
        gateway = Gateway(
            self._snapshot(),
            upstream=self.upstream,
            clock=self.clock,
            timers=self.timers,
            ids=self.ids,
            signatures=self.parts.signatures,
            observer=self.observer,
            pressure=self.parts.pressure,
        )
        request = Request(b"POST", PATH, [GRPC, *self.headers], body=None, length=None, minor=2)
        self.exchange = begin(gateway, request, Peer("10.0.0.1", 5000), self.down)
        self.exchange.start()
        return self

    def later(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.timers.fire()

    def ask(self, *ids: str, last: bool = False, model: str = "digits") -> None:
        """Send requests in one piece."""
        self.exchange.on_body(b"".join([asking(id, model) for id in ids]), last)

    @property
    def asked(self) -> list[str]:
        """The ids of the requests that reached the instance."""
        return [_id(call.request.body or b"") for call in self.upstream.calls]

    def answer(self, value: float) -> None:
        """Answer the newest call."""
        call = self.upstream.calls[-1]
        said = a_response(a_tensor("y", "FP32", [value]))
        headers, body = KSERVE_V2_GRPC.write_response(said, a_request(id=_id(call.request.body or b"")))
        response = Response(200, [GRPC], body)
        response.trailers = [field for field in headers if field[0] == b"grpc-status"]
        call.sink.on_response(response)

    def assert_over(self, requests: int) -> None:
        """All was given back, and each request and the stream itself recorded once."""
        assert self.parts.pressure.in_flight == 0
        assert self.pools["digits-v1"].in_flight == 0
        assert len(self.observer.done) == requests + 1


def asking(id: str, model: str = "digits") -> bytes:
    return KSERVE_V2_GRPC.write_request(a_request(a_tensor("x", "FP32", [1]), id=id), model, None).body


def _id(body: bytes) -> str:
    return "".join(wire.text(field) for field in wire.fields(body[5:]) if field[0] == 3)


def test_one_is_asked_at_a_time_and_answers_keep_the_order() -> None:
    stream = Streamed().begin()
    stream.ask("a", "b")
    assert stream.asked == ["a"]
    assert stream.down.paused  # nobody needs more of it now
    stream.answer(1)
    assert (stream.asked, stream.down.said) == (["a", "b"], ["a 1.0"])
    stream.answer(2)
    assert not stream.down.paused
    stream.ask("c", last=True)
    assert not stream.down.ended
    stream.answer(3)
    assert stream.down.said == ["a 1.0", "b 2.0", "c 3.0"]
    assert (stream.down.ended, stream.down.outcome) == (True, "0")
    stream.assert_over(3)


def test_a_message_may_come_in_pieces() -> None:
    stream = Streamed().begin()
    message = asking("a")
    for place in range(len(message)):
        assert stream.asked == []
        stream.exchange.on_body(message[place : place + 1], False)
    stream.answer(1)
    assert stream.down.said == ["a 1.0"]


def test_an_error_is_one_request_s_and_the_next_is_asked() -> None:
    stream = Streamed().begin()
    stream.ask("a", model="other")
    stream.ask("b")
    stream.upstream.calls[-1].fail(UpstreamReset("gone"))
    stream.ask("c", last=True)
    stream.answer(3)
    first, second, third = stream.down.said
    assert first == "a NOT_FOUND: no endpoint serves the model 'other'"
    assert second.startswith("b UNAVAILABLE: ")
    assert third == "c 3.0"
    stream.assert_over(3)


def test_each_request_is_throttled_like_any_other() -> None:
    stream = Streamed()
    stream.use(throttle.KIND, throttle.Throttle.from_text("2/h burst 2"))
    stream.begin()
    stream.ask("a", "b", "c", last=True)
    stream.answer(1)
    stream.answer(2)
    assert [one.split(":")[0] for one in stream.down.said] == ["a 1.0", "b 2.0", "c RESOURCE_EXHAUSTED"]
    stream.assert_over(3)


def test_thousands_of_refusals_are_no_recursion() -> None:
    stream = Streamed().begin()
    stream.ask(*map(str, range(3000)), model="other", last=True)
    assert len(stream.down.said) == 3000
    stream.assert_over(3000)


def test_a_client_that_reads_too_slowly_is_not_read() -> None:
    stream = Streamed().begin()
    stream.exchange.on_writable(False)
    stream.ask("a")
    assert (stream.asked, stream.down.paused) == ([], True)
    stream.exchange.on_writable(True)
    assert stream.asked == ["a"]


def test_a_client_that_leaves_calls_off_what_is_under_way() -> None:
    stream = Streamed().begin()
    stream.ask("a", "b")
    stream.exchange.on_client_gone()
    assert stream.upstream.calls[0].cancelled
    assert stream.asked == ["a"]
    stream.assert_over(1)


def test_a_body_that_breaks_ends_all_of_it() -> None:
    stream = Streamed().begin()
    stream.ask("a")
    stream.exchange.on_body_error(BodyTimeout("too slow"))
    assert stream.down.aborted
    stream.assert_over(1)


@pytest.mark.parametrize(
    ("pieces", "outcome"),
    [
        pytest.param([b"\0\xff\xff\xff\xff"], "8 a message has more than", id="too long"),
        pytest.param([b"\0\0\0\0\x05ab"], "3 the last message is cut off", id="cut off"),
        pytest.param([b"\0\0"], "3 the last message is cut off", id="cut off in its head"),
        pytest.param([b""], "0", id="nothing"),
    ],
)
def test_what_is_no_stream_of_messages_ends_it(pieces: Sequence[bytes], outcome: str) -> None:
    stream = Streamed().begin()
    for place, piece in enumerate(pieces):
        stream.exchange.on_body(piece, place == len(pieces) - 1)
    assert stream.down.ended
    assert stream.down.outcome.startswith(outcome)
    stream.assert_over(0)


def test_a_message_that_can_not_be_read_is_an_error_and_not_the_end() -> None:
    stream = Streamed().begin()
    stream.exchange.on_body(b"\0\0\0\0\x02\xff\xff", False)
    stream.ask("b", last=True)
    stream.answer(2)
    broken, fine = stream.down.said
    assert broken.startswith(" INVALID_ARGUMENT: the message is malformed")
    assert fine == "b 2.0"


def test_silence_ends_it_unless_a_call_is_under_way() -> None:
    stream = Streamed().begin()
    stream.ask("a")
    stream.later(301.0)
    assert not stream.down.ended
    stream.answer(1)
    stream.later(299.0)
    assert not stream.down.ended
    stream.later(302.0)
    assert stream.down.outcome.startswith("4 the client said nothing")
    stream.assert_over(1)


def test_the_client_s_time_is_for_the_whole_stream() -> None:
    stream = Streamed((b"grpc-timeout", b"10S")).begin()
    stream.ask("a")
    assert stream.upstream.calls[0].request.header(b"grpc-timeout") == b"10000000u"
    stream.later(4.0)
    stream.answer(1)
    stream.ask("b")
    assert stream.upstream.calls[1].request.header(b"grpc-timeout") == b"6000000u"
    stream.answer(2)
    stream.later(7.0)
    stream.ask("c")
    assert stream.down.outcome == "4 the stream's time is over"
    stream.assert_over(2)
