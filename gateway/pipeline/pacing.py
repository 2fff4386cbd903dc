"""How a filter slows a body down without a buffer: it says until when, and whoever sends it is not read.

What is not read fills the kernel's buffers and then stops its sender (TCP's window, HTTP/2's flow control),
so a paced body costs no more memory than one whose reader is slow.
"""

from __future__ import annotations

from collections.abc import Callable

from gateway.pipeline.ports import Cancellable, Timers


class Pace:
    """One request's, made by the filter that paces it.

    answer_until, body_until: no more of the instance's answer, of the client's body, is read before.
    """

    __slots__ = ("_answer", "_body", "answer_until", "body_until")

    def __init__(self) -> None:
        self.answer_until = 0.0
        self.body_until = 0.0
        self._answer: Cancellable | None = None
        self._body: Cancellable | None = None

    @property
    def holds_answer(self) -> bool:
        """Whether the answer has to wait."""
        return self._answer is not None

    @property
    def holds_body(self) -> bool:
        """Whether the client's body has to wait."""
        return self._body is not None

    def hold_answer(self, timers: Timers, now: float, go_on: Callable[[], None]) -> bool:
        """Let the answer wait, if it must; returns whether it does. go_on: called once when it need not."""
        if self._answer is None and self.answer_until > now:

            def over() -> None:
                self._answer = None
                go_on()

            self._answer = timers.punctual(self.answer_until, over)
        return self._answer is not None

    def hold_body(self, timers: Timers, now: float, go_on: Callable[[], None]) -> bool:
        """Do the same for the client's body."""
        if self._body is None and self.body_until > now:

            def over() -> None:
                self._body = None
                go_on()

            self._body = timers.punctual(self.body_until, over)
        return self._body is not None

    def close(self) -> None:
        """The request is over."""
        for timer in (self._answer, self._body):
            if timer is not None:
                timer.cancel()
        self._answer = self._body = None
