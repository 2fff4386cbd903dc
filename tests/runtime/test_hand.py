"""The supervisor's end of one worker."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from typing import cast

import pytest
import uvloop

from gateway.runtime import messages
from gateway.runtime.channel import Frames, frame
from gateway.runtime.hand import Hand
from gateway.runtime.nursery import Nursery


class Hasty:
    """A nursery whose workers say hello before anybody knows that they were born."""

    def __init__(self) -> None:
        self.end: socket.socket | None = None
        self.tell_end: Callable[[int], None] | None = None

    async def bear(self, slot: int, channel: int, on_end: Callable[[int], None]) -> int:
        self.end = socket.socket(fileno=os.dup(channel))
        self.end.sendall(frame(messages.encode(messages.Hello(messages.VERSION, slot, 1))))
        self.tell_end = on_end
        return 2**30  # nobody's


def hear(end: socket.socket) -> list[messages.FromSupervisor]:
    end.settimeout(5)
    return [messages.read_from_supervisor(data) for data in Frames().feed(end.recv(4096))]


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_a_worker_that_says_hello_at_once_is_answered(loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    def heed(hand: Hand, message: messages.FromWorker) -> None:
        hand.send(messages.Count())

    async def born() -> None:
        nursery = Hasty()
        hand = Hand(0, 1, asyncio.get_running_loop().time, heed)
        await hand.start(cast(Nursery, nursery))
        await asyncio.sleep(0.01)
        assert nursery.end is not None
        assert nursery.tell_end is not None
        try:
            assert hear(nursery.end) == [messages.Count()]
        finally:
            nursery.tell_end(0)
            nursery.end.close()
        await hand.gone.wait()

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(born())
