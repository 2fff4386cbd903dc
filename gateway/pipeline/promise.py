"""A value that may come later, without an event loop.

A filter or store that has its answer returns it; one that must wait returns a `Promise`. The exchange goes
on at once with the former and attaches a callback to the latter, so that no Task is born for a request that
never waits, and the whole pipeline runs in tests without asyncio. The edges settle promises from their own
callbacks or tasks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeAlias, TypeVar

T = TypeVar("T")
U = TypeVar("U")


class Promise(Generic[T]):
    """One value or one exception, delivered once to whoever asked with `then`.

    Settling it again does nothing.
    """

    __slots__ = ("_callbacks", "_error", "_value", "done")

    def __init__(self) -> None:
        self.done = False
        self._value: T | None = None
        self._error: Exception | None = None
        self._callbacks: list[tuple[Callable[[T], None], Callable[[Exception], None]]] = []

    def resolve(self, value: T) -> None:
        """Deliver the value, now, to everyone waiting."""
        if self.done:
            return
        self.done = True
        self._value = value
        callbacks, self._callbacks = self._callbacks, []
        for on_value, _ in callbacks:
            on_value(value)

    def reject(self, error: Exception) -> None:
        """Deliver the failure, now, to everyone waiting."""
        if self.done:
            return
        self.done = True
        self._error = error
        callbacks, self._callbacks = self._callbacks, []
        for _, on_error in callbacks:
            on_error(error)

    def then(self, on_value: Callable[[T], None], on_error: Callable[[Exception], None]) -> None:
        """Call exactly one of the two, once: at once when the promise is settled already."""
        if not self.done:
            self._callbacks.append((on_value, on_error))
        elif self._error is not None:
            on_error(self._error)
        else:
            on_value(self._value)  # type: ignore[arg-type]  # settled without error: the value is a T

    def chain(self, step: Callable[[T], Eventual[U]]) -> Promise[U]:
        """Go on with `step` once the value is there, and return the promise of what it gives.

        What `step` raises becomes that promise's failure, so that whoever waits learns of it.
        """
        later: Promise[U] = Promise()

        def arrived(value: T) -> None:
            try:
                result = step(value)
            except Exception as error:
                later.reject(error)
                return
            if isinstance(result, Promise):
                result.then(later.resolve, later.reject)
            else:
                later.resolve(result)

        self.then(arrived, later.reject)
        return later

    def __repr__(self) -> str:
        state = "waiting" if not self.done else ("failed" if self._error is not None else "resolved")
        return f"<Promise {state}>"


Eventual: TypeAlias = T | Promise[T]


def resolved(value: T) -> Promise[T]:
    """Return a promise that has its value already."""
    promise: Promise[T] = Promise()
    promise.resolve(value)
    return promise
