"""The process of an isolated model: `python -m backends.child FD`, started by isolated.py and by nobody else.

It limits its own memory, opens the model, says what it takes and gives, and answers calls one after the
other over the socket that it was handed. When the other side is gone, so is it: nobody is left behind when a
server is killed.
"""

from __future__ import annotations

import os
import resource
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

from backends.errors import BackendError, LoadError
from backends.frames import Ended, Head, receive, send
from backends.tensors import TensorSpec


def main(descriptor: int) -> int:
    """Serve the socket until its other side closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the server, which drains first
    os.dup2(2, 1)  # stdout belongs to the server's ready line
    with socket.socket(fileno=descriptor) as sock:
        try:
            _serve(sock)
        except Ended:
            return 0
    return 1


def _serve(sock: socket.socket) -> None:
    told, _ = receive(sock)
    _limit(told)
    # Imported under the limits, and not by who only asks for help.
    from backends.engine import Engine
    from backends.providers import EngineSettings

    settings = EngineSettings(**{**told["settings"], "cache": _path(told["settings"].get("cache"))})
    try:
        engine = Engine.open(Path(told["model"]), settings, told["binding"])
    except LoadError as e:
        send(sock, {"refused": str(e)})
        return
    send(sock, {"provider": engine.provider, "inputs": _specs(engine.signature.inputs),
                "outputs": _specs(engine.signature.outputs)})  # fmt: skip
    while True:
        _, inputs = receive(sock)
        try:
            outputs = engine.run(inputs)
        except BackendError as e:
            send(sock, {"failed": str(e)})
        else:
            send(sock, {}, outputs)


def _limit(told: Head) -> None:
    if told["memory"] is not None:
        resource.setrlimit(resource.RLIMIT_DATA, (told["memory"], told["memory"]))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a crash is expected here, a core file is not
    if told["nice"]:
        os.nice(told["nice"])


def _path(text: str | None) -> Path | None:
    return None if text is None else Path(text)


def _specs(specs: Sequence[TensorSpec]) -> list[tuple[str, str, tuple[int, ...]]]:
    return [(one.name, one.dtype.name, one.shape) for one in specs]


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
