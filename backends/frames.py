"""What passes between a server and the processes of its isolated models: tensors, and words about them.

    u32 length of the head | u32 length of the rest | head: JSON | the tensors' bytes, in order

Little-endian, row-major; text is JSON in the head. No pickle: a process that runs somebody's model is not
trusted with objects of ours. Blocking sockets; a timeout is the socket's.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np
import orjson

from backends.tensors import BY_NAME, Array, Tensors

_LENGTHS = struct.Struct("<II")
_NAMES = {dtype.numpy: dtype.name for dtype in BY_NAME.values()}

Head = dict[str, Any]


class Ended(Exception):
    """The other side is gone."""


def send(sock: socket.socket, head: Mapping[str, object], tensors: Tensors | None = None) -> None:
    """Send one frame. Ended, TimeoutError."""
    described: list[dict[str, object]] = []
    raw: list[bytes | memoryview] = []
    for name, tensor in (tensors or {}).items():
        entry: dict[str, object] = {
            "name": name,
            "dtype": _NAMES.get(tensor.dtype, "BYTES"),
            "shape": tensor.shape,
        }
        if tensor.dtype.kind in "OUS":
            entry["text"] = [str(text) for text in tensor.ravel().tolist()]
        else:
            raw.append(np.ascontiguousarray(tensor).reshape(-1).view(np.uint8).data)
            entry["bytes"] = len(raw[-1])
        described.append(entry)
    text = orjson.dumps({**head, "tensors": described})
    try:
        sock.sendall(_LENGTHS.pack(len(text), sum(map(len, raw))) + text)
        for piece in raw:
            sock.sendall(piece)
    except TimeoutError:
        raise
    except OSError as e:
        raise Ended from e


def receive(sock: socket.socket) -> tuple[Head, dict[str, Array]]:
    """Receive one frame. Ended, TimeoutError."""
    lengths = _exactly(sock, _LENGTHS.size)
    text, rest = _LENGTHS.unpack(lengths)
    head: Head = orjson.loads(_exactly(sock, text))
    raw = memoryview(_exactly(sock, rest))
    tensors: dict[str, Array] = {}
    at = 0
    for entry in head.pop("tensors"):
        dtype = BY_NAME[entry["dtype"]].numpy
        if "text" in entry:
            flat: Array = np.array(entry["text"], dtype=np.object_)
        else:
            flat = np.frombuffer(raw[at : at + entry["bytes"]], dtype=dtype)
            at += entry["bytes"]
        tensors[entry["name"]] = flat.reshape(entry["shape"])
    return head, tensors


def _exactly(sock: socket.socket, size: int) -> bytearray:
    data = bytearray(size)
    view = memoryview(data)
    while view:
        try:
            count = sock.recv_into(view)
        except TimeoutError:
            raise
        except OSError as e:
            raise Ended from e
        if count == 0:
            raise Ended
        view = view[count:]
    return data
