"""The client for plain code and threads, on the standard library's `http.client`.

No package is needed for it: connections are kept in a stack that threads share, each used by one call at a
time, and one that the server closed meanwhile is replaced by a new try (a prediction may be repeated).
"""

from __future__ import annotations

import http.client
import socket
import time
from collections import deque
from types import TracebackType
from typing import Self, TypeVar
from urllib.parse import urlsplit

from gateway.client.asking import Asking, Broken, Pause, Reply, Send, Steps
from gateway.client.calls import Calls
from gateway.client.tensors import Inputs, Prediction
from gateway.client.trust import context, roots
from gateway.dialects.metadata import Metadata

T = TypeVar("T")


class Client:
    """Asks models through a gateway, or a model server directly. Safe to share between threads.

    url: like http://127.0.0.1:8080. dialect: one of asking.DIALECT_NAMES; those over gRPC need grpcio
    (ImportError). timeout: seconds for a whole call. signature: the models', for servers that tell none.
    ca: a PEM file of authorities to trust over https, "" for the system's; ValueError where it is none.
    All methods raise ClientError (errors.py).
    """

    def __init__(
        self,
        url: str,
        *,
        dialect: str = "kserve-v2",
        key: str = "",
        bearer: str = "",
        timeout: float = 30.0,
        retries: int = 2,
        signature: str = "",
        ca: str = "",
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"url must be like http://127.0.0.1:8080, not {url!r}")
        self._host, self._port = parts.hostname, parts.port
        self._trust = context(ca) if parts.scheme == "https" else None
        self._base = parts.path.rstrip("/")
        self._asking = Asking(dialect, key, bearer, timeout, retries, signature)
        self._idle: deque[http.client.HTTPConnection] = deque()
        self._calls = Calls(url, roots(ca)) if self._asking.dialect.is_grpc else None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections that are kept."""
        if self._calls is not None:
            self._calls.close()
        while self._idle:
            self._idle.pop().close()

    def predict(
        self,
        model: str,
        inputs: Inputs,
        *,
        target: str = "",
        outputs: tuple[str, ...] | None = None,
        timeout: float | None = None,
    ) -> Prediction:
        """Predict.

        inputs: an array for a model with one input, or arrays by name. target: a version or a label.
        """
        return self._run(self._asking.predict(model, inputs, target, outputs, timeout))

    def metadata(self, model: str, *, target: str = "", timeout: float | None = None) -> Metadata:
        """Tell what the model takes and gives."""
        return self._run(self._asking.metadata(model, target, timeout))

    def ready(self, model: str = "", *, timeout: float | None = None) -> bool:
        """Tell whether the model (or the server) can serve; False where nobody answers."""
        return self._run(self._asking.ready(model, timeout))

    def _run(self, steps: Steps[T]) -> T:
        outcome: Reply | Broken | None = None
        while True:
            try:
                wanted = steps.send(outcome)
            except StopIteration as done:
                result: T = done.value
                return result
            if isinstance(wanted, Pause):
                time.sleep(wanted.seconds)
                outcome = None
            else:
                outcome = self._send(wanted)

    def _send(self, wanted: Send) -> Reply | Broken:
        if self._calls is not None:
            return self._calls.send(wanted)
        ends = time.monotonic() + wanted.left
        try:
            connection = self._idle.pop()
        except IndexError:
            connection = self._connection()
        try:
            reply, reusable = _exchange(connection, self._base, wanted, ends)
        except TimeoutError:
            connection.close()
            return Broken(f"no answer within {wanted.left:.3g} s", expired=True)
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            return Broken(f"no answer from {self._host}: {error or type(error).__name__}")
        if reusable:
            self._idle.append(connection)
        else:
            connection.close()
        return reply

    def _connection(self) -> http.client.HTTPConnection:
        if self._trust is None:
            return http.client.HTTPConnection(self._host, self._port)
        return http.client.HTTPSConnection(self._host, self._port, context=self._trust)


def _exchange(
    connection: http.client.HTTPConnection, base: str, wanted: Send, ends: float
) -> tuple[Reply, bool]:
    """Send and read within the time; each read waits only for what is left of it."""
    connection.timeout = wanted.left
    if connection.sock is None:
        connection.connect()
    sock: socket.socket | None = connection.sock
    assert sock is not None
    sock.settimeout(_left(ends))
    call = wanted.call
    fields = {name.decode("latin-1"): value.decode("latin-1") for name, value in call.headers}
    connection.request(call.method.decode(), base + call.path.decode("latin-1"), call.body or None, fields)
    response = connection.getresponse()
    parts = []
    while True:
        sock.settimeout(_left(ends))
        part = response.read1(1 << 18)
        if not part:
            break
        parts.append(part)
    left_out = response.length
    response.close()  # read1 leaves it open where a length was announced, and the connection then stays taken
    if left_out:
        raise http.client.IncompleteRead(b"", left_out)
    headers = [
        (name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in response.getheaders()
    ]
    return Reply(response.status, headers, b"".join(parts)), not response.will_close


def _left(ends: float) -> float:
    left = ends - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left
