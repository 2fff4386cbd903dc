"""Bodies on their way, both ways, over the streams of one HTTP/2 connection. RFC 9113 §5.2. Sans-io.

A server's streams and a client's calls differ in what they mean, not in how their bodies flow: what came
waits in `pieces` until its reader takes it, and only then the peer may send as much again; what goes out
waits in `out` until the peer's windows and the connection's send buffer let it. So `Flow` is what both are
made of, and `Flows` moves all those of one connection, in turn, a frame at a time, so that no one starves
the others.

What goes out is gathered over a burst of events and leaves in one write (`Outbox`), or in several where it
is more than `BATCH`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

from gateway.http.h2_heads import write_trailers
from gateway.http.h2_machine import Machine
from gateway.http.message import Headers
from gateway.http.outbox import Outbox, Writable

BATCH: Final = 64 * 1024  # bytes of frames gathered before they are written


class Flow:
    """The two bodies of one stream.

    In: `pieces` came and wait (bytes, and bytes that they took of the windows), in_ended once the last one
    is among them. Out: `out` waits, out_ended once the last of it was said, then `out_trailers` follow;
    waiting: a window or the send buffer is awaited.
    """

    __slots__ = (
        "id",
        "in_ended",
        "out",
        "out_ended",
        "out_size",
        "out_trailers",
        "paused",
        "pieces",
        "waiting",
    )

    def __init__(self) -> None:
        self.id = 0
        self.pieces: deque[tuple[bytes, int]] = deque()
        self.in_ended = False
        self.paused = False
        self.out: deque[memoryview] = deque()
        self.out_size = 0
        self.out_ended = False
        self.out_trailers: Headers | None = None
        self.waiting = False

    def put(self, data: bytes) -> None:
        """Let a piece go out after those that wait."""
        self.out.append(memoryview(data))
        self.out_size += len(data)

    def drop_out(self) -> None:
        """Let nothing more go out."""
        self.out.clear()
        self.out_size = 0
        self.out_ended = False
        self.out_trailers = None

    # What the owner is told

    def takes(self) -> bool:
        """Whether pieces may be handed on now."""
        return not self.paused

    def on_piece(self, data: bytes, last: bool) -> None:
        """A piece of the body that comes in."""

    def on_wait(self) -> None:
        """What goes out has begun to wait."""

    def on_sent(self, size: int) -> None:
        """A frame with so many bytes of the body went out."""

    def on_end_sent(self) -> None:
        """The last frame went out."""

    def on_out_lost(self) -> None:
        """The stream was closed before its end could be sent."""


class Flows:
    """All flows of one connection."""

    __slots__ = (
        "_announced",
        "_bursting",
        "_call_soon",
        "_gathered",
        "_outbox",
        "blocked",
        "held",
        "machine",
        "ready",
        "rest",
        "transport",
    )

    def __init__(
        self, machine: Machine, outbox: Outbox, call_soon: Callable[..., object], rest: Callable[[], None]
    ) -> None:
        """rest: called after each burst, when everything has been written."""
        self.machine = machine
        self.transport: Writable | None = None  # None: nothing leaves yet, or any more
        self.rest = rest
        self.held: dict[int, Flow] = {}  # that wait for a window, or for the send buffer
        self.ready: list[Flow] = []  # that may hand on what came
        self.blocked = False  # the peer doesn't read: the send buffer is full
        self._outbox = outbox
        self._call_soon = call_soon
        self._bursting = False  # events are being handled: what goes out is gathered
        self._announced = False  # a burst of our own was asked for
        self._gathered = 0  # bytes of data that wait to be written

    # Bursts

    def begin_burst(self) -> None:
        """Gather what goes out from here on."""
        self._bursting = True

    def end_burst(self) -> None:
        """Write what was gathered."""
        self._bursting = False
        self.flush()

    def wake(self) -> None:
        """Let what is gathered leave at the end of the burst, or have one soon."""
        if not (self._bursting or self._announced):
            self._announced = True
            self._call_soon(self._burst)

    def _burst(self) -> None:
        self._announced = False
        if self.transport is None:
            return
        self._bursting = True
        try:
            self.hand_on()
        finally:
            self.end_burst()
        self.rest()

    def flush(self) -> None:
        """Write what is there."""
        self._gathered = 0
        data = self.machine.data_to_send()
        if data and self.transport is not None:
            self._outbox.post(self.transport, data)

    # What comes in

    def take(self, flow: Flow, data: bytes, taken: int) -> None:
        """A piece came; it is handed on at the end of the burst."""
        flow.pieces.append((data, taken))
        if flow.takes():
            self.ready.append(flow)

    def resume(self, flow: Flow) -> None:
        """Hand on what has come, soon, but not from within the caller."""
        if flow.pieces:
            self.ready.append(flow)
            self.wake()

    def hand_on(self) -> None:
        """Give the pieces to those who take them; the peer may send as many bytes again."""
        ready = self.ready
        while ready:
            flow = ready.pop()
            pieces = flow.pieces
            while pieces and flow.takes():
                data, taken = pieces.popleft()
                if taken:
                    self.machine.acknowledge(taken, flow.id)
                last = flow.in_ended and not pieces
                if data or last:
                    flow.on_piece(data, last)

    def take_whole(self, flow: Flow) -> bytes:
        """Return all that came, at once."""
        pieces = flow.pieces
        if not pieces:
            return b""
        whole = pieces[0][0] if len(pieces) == 1 else b"".join([data for data, _ in pieces])
        self.discard(flow)
        return whole

    def discard(self, flow: Flow) -> None:
        """Forget what came and nobody takes; the windows get it back."""
        taken = 0
        for _, size in flow.pieces:
            taken += size
        flow.pieces.clear()
        if taken:
            self.machine.acknowledge(taken, flow.id)

    # What goes out

    def pump(self, flow: Flow) -> None:
        """Send what the windows allow, in order."""
        while self._send_one(flow):
            pass

    def pump_held(self) -> None:
        """There is room again: one frame of each flow that waits, and once more, so that none starves."""
        held = self.held
        going = True
        while going and held and not self.blocked:
            going = False
            for flow in tuple(held.values()):
                if self._send_one(flow):
                    going = True
                elif not (flow.out or flow.out_ended):
                    self.release(flow)
        self.wake()

    def release(self, flow: Flow) -> None:
        """It waits no more."""
        flow.waiting = False
        self.held.pop(flow.id, None)

    def _send_one(self, flow: Flow) -> bool:
        """Send one frame of a flow. False: nothing is left, or it must wait."""
        if not (flow.out or flow.out_ended):
            return False
        if self.blocked or not self._send_frame(flow):
            if not flow.waiting:
                flow.waiting = True
                self.held[flow.id] = flow
                flow.on_wait()
            return False
        self.wake()
        return bool(flow.out)

    def _send_frame(self, flow: Flow) -> bool:
        """Send data or the end. False: there is no room in a window."""
        machine = self.machine
        ends = flow.out_ended
        went = True
        size = 0
        if flow.out:
            room = machine.room(flow.id)
            if not room:
                return False
            piece = flow.out[0]
            if len(piece) > room:
                flow.out[0] = piece[room:]
                piece = piece[:room]
            else:
                flow.out.popleft()
            size = len(piece)
            flow.out_size -= size
            ends = ends and not flow.out
            went = machine.send_piece(flow.id, piece, ends and flow.out_trailers is None)
        elif flow.out_trailers is None:
            went = machine.send_piece(flow.id, b"", True)
        if went and ends and flow.out_trailers is not None:
            went = machine.send_headers(flow.id, write_trailers(flow.out_trailers), True)
        if not went:  # the peer reset it: that event is on its way
            flow.drop_out()
            flow.on_out_lost()
            return True
        if size:
            self._gathered += size
            if self._gathered >= BATCH:
                self.flush()  # which may find the send buffer full
            flow.on_sent(size)
        if ends:
            flow.drop_out()
            flow.on_end_sent()
        return True

    def forget(self) -> None:
        """Let go of everything: the connection is over."""
        self.held.clear()
        self.ready.clear()

    def __repr__(self) -> str:
        return f"<Flows | {len(self.held)} held, {len(self.ready)} ready>"
