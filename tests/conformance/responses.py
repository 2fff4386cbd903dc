"""Responses that two clients could read differently, and what must not be heard of them. RFC 9112 §6, §7, §9.

REFUSED: an instance's bytes that are no answer: 502 to the client, the connection to the instance closed.
CUT: the head is good and the body is not: the client must see that its answer is broken.
TAINTED: good answers on connections that must not be used again; `next` is what they hide.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

from tests.conformance.requests import BOTH, BROKEN_BODIES, CODINGS, CONTROLS, FORBIDDEN, LENGTHS, show

OK = b"HTTP/1.1 200 OK\r\n"
HIDDEN = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nhidden"  # must never reach any client


def ok(*lines: bytes, body: bytes = b"") -> bytes:
    """A 200 with these header lines, and a body."""
    return OK + b"".join(line + b"\r\n" for line in lines) + b"\r\n" + body


STATUS_LINES = [
    *(
        b"HTTP/1.1 99 X",
        b"HTTP/1.1 600 X",
        b"HTTP/1.1 999 X",
        b"HTTP/1.1 2000 X",
        b"HTTP/1.1 20 X",
        b"HTTP/1.1 2x0 X",
    ),
    *(
        b"HTTP/1.1  200 X",
        b"HTTP/1.1\t200 X",
        b"HTTP/1.1 -200 X",
        b"HTTP/1.1 +200 X",
        b"HTTP/1.1 200X",
        b"HTTP/1.1",
    ),
    *(
        b"HTTP/2.0 200 OK",
        b"HTTP/1.2 200 OK",
        b"HTTP/0.9 200 OK",
        b"HTTP/2 200",
        b"http/1.1 200 OK",
        b"ICY 200 OK",
    ),
    *(
        b"HTTP/1.1200 OK",
        b" HTTP/1.1 200 OK",
        b"200 OK",
        b"SSH-2.0-x",
        b"GET / HTTP/1.1",
        b"<html>",
        b"HTTPS/1.1 200 OK",
    ),
    *(
        b"HTTP/1.1 200 O\x00K",
        b"HTTP/1.1 200 O\x0bK",
        b"HTTP/1.1 200 O\x7fK",
        b"HTTP/1.1 0200 OK",
        b"HTTP/1.1 2 0 0 OK",
    ),
    *(
        b"HTTP/01.1 200 OK",
        b"HTTP/1.10 200 OK",
        "HTTP/1.1 ２００ OK".encode(),
        b"\x00",
        b"\x16\x03\x01\x02\x00",
        b"{}",
    ),
]


def _refused() -> Iterator[tuple[str, bytes]]:
    for value in LENGTHS:
        if value == b"4294967301":  # a number like any other to a client that lets bodies be large: see CUT
            continue
        yield f"length {show(value)}", ok(b"Content-Length: " + value, body=b"hello")
    for first, second in product((b"5", b"6", b"0"), repeat=2):
        lines = (b"Content-Length: " + first, b"Content-Length: " + second)
        yield f"lengths {show(first)} and {show(second)}", ok(*lines, body=b"hello")
    for value in CODINGS:
        if (
            value.lower() != b"chunked"
        ):  # codings are case-insensitive (RFC 9110 §10.1.4), and all clients agree
            yield f"coding {show(value)}", ok(b"Transfer-Encoding: " + value, body=b"5\r\nhello\r\n0\r\n\r\n")
    for lines in (BOTH, BOTH[::-1]):
        yield f"both, {lines[0][:8].decode()} first", ok(*lines, body=b"5\r\nhello\r\n0\r\n\r\n")
    yield "chunked twice", ok(BOTH[1], BOTH[1], body=b"0\r\n\r\n")
    yield "chunked in HTTP/1.0", ok(BOTH[1], body=b"0\r\n\r\n").replace(b"1.1", b"1.0", 1)
    for line in STATUS_LINES:
        yield f"status line {show(line)}", line + b"\r\nContent-Length: 5\r\n\r\nhello"
    for code in CONTROLS:
        yield f"{show(code)} in a value", ok(b"X: a" + code + b"b", b"Content-Length: 5", body=b"hello")
        yield f"{show(code)} in a name", ok(b"X" + code + b": a", b"Content-Length: 5", body=b"hello")
    for name in (b"Content-Length", b"Transfer-Encoding", b"X"):
        for gap in (b" ", b"\t", b"\x0b"):
            yield f"{name.decode()}, {show(gap)} before the colon", ok(name + gap + b": 5", body=b"hello")
        yield f"{name.decode()} folded", ok(name + b":\r\n 5", body=b"hello")
        yield f"{name.decode()} continued", ok(name + b": 5\r\n 5", body=b"hello")
        yield f"{name.decode()} behind a bare CR", ok(b"Y: z\r" + name + b": 5", body=b"hello")
        yield f"{name.decode()} behind a bare LF", ok(b"Y: z\n" + name + b": 5", body=b"hello")
    for end in (b"\n", b"\r", b"\n\r"):
        yield (
            f"lines ended by {show(end)}",
            end.join((b"HTTP/1.1 200 OK", b"Content-Length: 5", b"", b"hello")),
        )
    yield "no colon", ok(b"nonsense", b"Content-Length: 5", body=b"hello")
    yield "empty name", ok(b": x", b"Content-Length: 5", body=b"hello")
    yield "space in a name", ok(b"X Y: x", b"Content-Length: 5", body=b"hello")
    yield "head too large", ok(b"X: " + b"y" * 100_000, b"Content-Length: 5", body=b"hello")
    yield "too many fields", ok(*[b"X: y"] * 500, b"Content-Length: 5", body=b"hello")
    yield (
        "switching unasked",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n" + HIDDEN,
    )
    yield "interim answers without end", b"HTTP/1.1 103 Early Hints\r\n\r\n" * 100 + HIDDEN
    yield "nothing", b""
    yield "half a status line", b"HTTP/1.1 2"
    yield "half a head", b"HTTP/1.1 200 OK\r\nContent-Le"


def _forbidden(body: bytes) -> bool:
    return any(trailer in body for trailer in FORBIDDEN)


REFUSED: dict[str, bytes] = dict(_refused())
CUT: dict[str, bytes] = {
    "shorter than its length": ok(b"Content-Length: 10", body=b"hello"),
    "chunks without end": ok(BOTH[1], body=b"5\r\nhello\r\n"),
    "half a chunk": ok(BOTH[1], body=b"50\r\nhello"),
    "no empty line at the end": ok(BOTH[1], body=b"5\r\nhello\r\n0\r\n"),
    "beyond 32 bits": ok(b"Content-Length: 4294967301", body=b"hello"),
    **{f"chunks: {name}": ok(BOTH[1]) + body for name, body in BROKEN_BODIES.items() if not _forbidden(body)},
}
# Trailers that may not be there: dropped, for a client that merges them would be misled (RFC 9110 §6.5.1).
TRAILED: dict[str, bytes] = {
    name: ok(BOTH[1]) + body for name, body in BROKEN_BODIES.items() if _forbidden(body)
}
TAINTED: dict[str, bytes] = {
    "a second answer": ok(b"Content-Length: 5", body=b"hello") + HIDDEN,
    "a second answer behind chunks": ok(BOTH[1], body=b"5\r\nhello\r\n0\r\n\r\n") + HIDDEN,
    "half a second answer": ok(b"Content-Length: 5", body=b"hello") + HIDDEN[:20],
    "one byte more": ok(b"Content-Length: 5", body=b"hello!"),
    "an empty line more": ok(b"Content-Length: 5", body=b"hello\r\n"),
    "close": ok(b"Content-Length: 5", b"Connection: close", body=b"hello"),
    "close among others": ok(b"Content-Length: 5", b"Connection: x, Close", body=b"hello"),
    "HTTP/1.0": ok(b"Content-Length: 5", body=b"hello").replace(b"1.1", b"1.0", 1),
}
