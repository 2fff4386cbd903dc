"""Several sessions of one model, on one device or several, behind the face of one.

A call takes the session that was free last (its caches are warm); where none is free, the next in turn is
shared: ONNX Runtime's sessions may be called from several threads at once.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Mapping, Sequence

from backends.engine import Engine
from backends.errors import BackendError
from backends.tensors import Array, Tensors


class Instances:
    """Open sessions of one model."""

    __slots__ = ("_engines", "_free", "_turn", "provider", "signature")

    def __init__(self, engines: Sequence[Engine]) -> None:
        """engines: at least one."""
        self._engines = tuple(engines)
        self._free = deque(engines)  # its ends are atomic: no lock
        self._turn = itertools.cycle(engines)
        self.provider = engines[0].provider
        self.signature = engines[0].signature

    def run(self, inputs: Tensors) -> dict[str, Array]:
        """Compute every output, on whichever session is free."""
        try:
            engine = self._free.pop()
        except IndexError:
            return next(self._turn).run(inputs)
        try:
            return engine.run(inputs)
        finally:
            self._free.append(engine)

    def start(self, inputs: Tensors, done: Callable[[Mapping[str, Array] | BackendError], None]) -> None:
        """Begin a call on the next session in turn."""
        next(self._turn).start(inputs, done)

    def close(self) -> None:
        """Let go of the sessions."""
        for engine in self._engines:
            engine.close()

    def __len__(self) -> int:
        return len(self._engines)

    def __repr__(self) -> str:
        return f"<Instances {len(self._free)}/{len(self._engines)} free, {self._engines[0]!r}>"
