"""A model in processes of its own: its crash, its memory and its hanging are its own.

Each process (child.py) holds one session and answers one call at a time over a socket. A call blocks one
thread of the model's pool, and nothing else.

    call -> free process -> answer
               |- it dies, or takes longer than call_timeout (then it is killed) -> EngineFailure, and a new
               |  process takes its place: at once, or after a back-off when it keeps dying (backoff.py)
               `- it is backing off -> a short rest is waited for, a longer one is Unavailable (503)
"""

from __future__ import annotations

import logging
import queue
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from backends.backoff import Backoff
from backends.card import Binding
from backends.errors import EngineFailure, LoadError, Unavailable
from backends.frames import Ended, Head, receive, send
from backends.providers import EngineSettings
from backends.tensors import BY_NAME, Array, Signature, Tensors, TensorSpec

PATIENCE = 0.5  # s: a back-off that ends within it is waited for
START = 120.0  # s for a model to load
ROOT = Path(__file__).resolve().parents[1]

_log = logging.getLogger("backends.isolated")


@dataclass(frozen=True, slots=True)
class ChildSettings:
    """What a process is told before it opens the model."""

    model: Path
    engine: EngineSettings
    binding: Binding = "auto"
    memory: int | None = None  # bytes of data; None: no limit
    nice: int = 0
    call_timeout: float | None = None  # s


class Child:
    """One process and its socket. `start` and `call` block; one thread at a time."""

    __slots__ = ("_process", "_settings", "_sock", "backoff", "told")

    def __init__(self, settings: ChildSettings) -> None:
        self._settings = settings
        self._process: subprocess.Popen[bytes] | None = None
        self._sock: socket.socket | None = None
        self.backoff = Backoff()
        self.told: Head = {}  # what it said when it had loaded: provider, inputs, outputs

    @property
    def is_alive(self) -> bool:
        """Whether it can be asked: it may have been killed while nobody asked."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int | None:
        """The living process's id."""
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        """Start the process and wait until it has loaded. LoadError."""
        ours, theirs = socket.socketpair()
        ours.settimeout(START)
        settings = self._settings
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "backends.child", str(theirs.fileno())],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                cwd=ROOT,
            )
        self._sock = ours
        try:
            send(ours, _settings_head(settings))
            self.told, _ = receive(ours)
        except (Ended, TimeoutError) as e:
            self.stop()
            raise LoadError(f"{settings.model}: its process ended before the model was loaded") from e
        if "refused" in self.told:
            self.stop()
            raise LoadError(str(self.told["refused"]))
        ours.settimeout(settings.call_timeout)
        self.backoff.started(time.monotonic())

    def call(self, inputs: Tensors) -> dict[str, Array]:
        """Ask for every output. Ended: it died of it or before; TimeoutError. EngineFailure: it lives."""
        if self._sock is None:
            raise Ended
        send(self._sock, {}, inputs)
        head, outputs = receive(self._sock)
        if "failed" in head:
            raise EngineFailure(str(head["failed"]))
        return outputs

    def stop(self) -> None:
        """End the process, whatever it does."""
        if self._sock is not None:
            self._sock.close()
            self._sock = None
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


class Isolated:
    """A Runner whose sessions live in processes. `run` may be called from any thread."""

    __slots__ = ("_children", "_closing", "_free", "_name", "_on_restart", "provider", "signature")

    def __init__(self, name: str, children: list[Child]) -> None:
        """name: for the log. children: started, at least one."""
        self._name = name
        self._children = children
        self._free: queue.LifoQueue[Child] = queue.LifoQueue()
        for child in children:
            self._free.put(child)
        self._closing = threading.Event()
        self._on_restart: Callable[[], None] = _nothing
        told = children[0].told
        self.provider = str(told["provider"])
        self.signature = Signature(_read_specs(told["inputs"]), _read_specs(told["outputs"]))

    @classmethod
    def open(cls, name: str, settings: list[ChildSettings]) -> Isolated:
        """Start a process for each. LoadError."""
        children = [Child(one) for one in settings]
        try:
            for child in children:
                child.start()
        except LoadError:
            for child in children:
                child.stop()
            raise
        return cls(name, children)

    def tell(self, on_restart: Callable[[], None]) -> None:
        """Have `on_restart` called whenever a process is started in a dead one's place; from any thread."""
        self._on_restart = on_restart

    @property
    def pids(self) -> list[int]:
        """The living processes."""
        return [child.pid for child in self._children if child.pid is not None]

    def run(self, inputs: Tensors) -> dict[str, Array]:
        """Compute every output in a free process. EngineFailure, Unavailable."""
        child = self._free.get()
        try:
            self._revive(child)
            try:
                return child.call(inputs)
            except Ended as e:
                self._buried(child, "crashed")
                raise EngineFailure("the model's process died on this request") from e
            except TimeoutError as e:
                self._buried(child, "hung")
                raise EngineFailure("the model took longer than its call_timeout") from e
        finally:
            self._free.put(child)

    def close(self) -> None:
        """End the processes."""
        self._closing.set()
        for child in self._children:
            child.stop()

    def _revive(self, child: Child) -> None:
        if child.is_alive:
            return
        if child.pid is not None:
            self._buried(child, "gone")
        rest = child.backoff.until - time.monotonic()
        if rest > PATIENCE:
            raise Unavailable("the model's process keeps crashing; it is started again in a while")
        if rest > 0 and self._closing.wait(rest):
            raise Unavailable("the model is being unloaded")
        self._on_restart()
        try:
            child.start()
        except LoadError as e:
            child.backoff.crashed(time.monotonic())
            _log.error("process_did_not_start model=%s reason=%r", self._name, str(e))
            raise Unavailable("the model's process does not start; it is tried again in a while") from e

    def _buried(self, child: Child, how: str) -> None:
        child.backoff.crashed(time.monotonic())
        _log.error("process_%s model=%s pid=%s %r", how, self._name, child.pid, child.backoff)
        child.stop()

    def __repr__(self) -> str:
        return f"<Isolated {len(self.pids)}/{len(self._children)} processes, {self.provider}>"


def _nothing() -> None:
    """What nobody asked to be told."""


def _settings_head(settings: ChildSettings) -> Head:
    engine = asdict(settings.engine)
    engine["cache"] = None if settings.engine.cache is None else str(settings.engine.cache)
    return {
        "model": str(settings.model),
        "settings": engine,
        "binding": settings.binding,
        "memory": settings.memory,
        "nice": settings.nice,
    }


def _read_specs(told: list[tuple[str, str, list[int]]]) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(name, BY_NAME[dtype], tuple(shape)) for name, dtype, shape in told)
