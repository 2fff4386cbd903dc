"""An instance and clients that misbehave as a seed says, so that a failure can be played again.

A scenario is one client connection with one to four requests. The seed of a scenario decides what the client
does; the seed that a request carries in its path decides what the instance does with it. Every request has a
token of its own, every good answer repeats it, and both sides write down what they saw.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from tests.fakes.chaos import Asked, Asker, Recorder

HANG = 10.0  # s that an instance which never answers waits
TIMEOUT = 15.0  # s: no scenario may take longer
UNSAFE = b"POST"


# The instance

Trick = Callable[
    [Asker, Asked, bytes, random.Random], Awaitable[bool]
]  # returns whether the connection goes on


def good(token: bytes, rng: random.Random) -> bytes:
    """An answer that bears the token, framed by its length or in chunks."""
    body = token + b"." * rng.choice((0, 1, 100, 5000, 70_000))
    if rng.random() < 0.5:
        return b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)
    cut = rng.randint(1, len(body))
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (body[:cut], body[cut:]) if part)
    return b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"


def reset(asker: Asker) -> None:
    """Close so that the other side gets a reset."""
    sock = asker.writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    asker.writer.transport.abort()


async def answers(asker: Asker, asked: Asked, token: bytes, rng: random.Random) -> bool:
    await asker.body(asked)
    await asker.send(good(token, rng))
    return True


async def answers_until_close(asker: Asker, asked: Asked, token: bytes, rng: random.Random) -> bool:
    await asker.body(asked)
    await asker.send(b"HTTP/1.1 200 OK\r\n\r\n" + token)
    return False


async def trickles(asker: Asker, asked: Asked, token: bytes, rng: random.Random) -> bool:
    await asker.body(asked)
    wire = good(token, random.Random(1))[:300]
    if not wire.endswith(b"0\r\n\r\n"):
        wire = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(token), token)
    for at in range(0, len(wire), 7):
        await asker.send(wire[at : at + 7])
        await asyncio.sleep(0.001)
    return True


async def says_early_hints(asker: Asker, asked: Asked, token: bytes, rng: random.Random) -> bool:
    await asker.send(b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n")
    return await answers(asker, asked, token, rng)


async def answers_then_closes(asker: Asker, asked: Asked, token: bytes, rng: random.Random) -> bool:
    await answers(asker, asked, token, rng)
    return False


async def answers_then_half_closes(asker: Asker, asked: Asked, token: bytes, rng: random.Random) -> bool:
    await answers(asker, asked, token, rng)
    with contextlib.suppress(OSError):
        asker.writer.write_eof()
    await asker.reader.read()  # a request that crossed our end on its way is lost
    return False


async def fails(asker: Asker, asked: Asked, token: bytes, rng: random.Random) -> bool:
    await asker.body(asked)
    status = rng.choice((b"500 Internal Server Error", b"503 Service Unavailable", b"404 Not Found"))
    await asker.send(b"HTTP/1.1 %b\r\ncontent-length: %d\r\n\r\n%b" % (status, len(token), token))
    return True


async def resets_at_the_head(asker: Asker, asked: Asked, token: bytes, rng: random.Random) -> bool:
    reset(asker)
    return False


async def resets_behind_the_body(asker: Asker, asked: Asked, token: bytes, rng: random.Random) -> bool:
    await asker.body(asked)
    reset(asker)
    return False


async def closes_without_answer(asker: Asker, asked: Asked, token: bytes, rng: random.Random) -> bool:
    await asker.body(asked)
    return False


async def dies_somewhere(asker: Asker, asked: Asked, token: bytes, rng: random.Random) -> bool:
    await asker.body(asked)
    wire = good(token, rng)
    await asker.send(wire[: rng.randrange(len(wire))])
    if rng.random() < 0.5:
        await asyncio.sleep(0.005)
        reset(asker)
    return False


async def lies_longer(asker: Asker, asked: Asked, token: bytes, rng: random.Random) -> bool:
    await asker.body(asked)
    await asker.send(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(token) + 50, token))
    return False


async def lies_shorter(asker: Asker, asked: Asked, token: bytes, rng: random.Random) -> bool:
    await asker.body(asked)
    await asker.send(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%bFORGED" % (len(token), token))
    return True


async def says_more(asker: Asker, asked: Asked, token: bytes, rng: random.Random) -> bool:
    await asker.body(asked)
    await asker.send(good(token, rng) + b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nFORGED")
    return True


async def says_more_later(asker: Asker, asked: Asked, token: bytes, rng: random.Random) -> bool:
    """Answer, and answer once more while nobody asks.

    Not among TRICKS: what comes in the very instant in which the next request leaves can't be told from its
    answer (RFC 9112 §9.2), by no client of HTTP/1.1. So it is played alone.
    """
    await answers(asker, asked, token, rng)
    await asyncio.sleep(rng.choice((0.0, 0.002, 0.01)))
    await asker.send(b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nFORGED")
    return True


async def says_nonsense(asker: Asker, asked: Asked, token: bytes, rng: random.Random) -> bool:
    await asker.body(asked)
    await asker.send(rng.choice((b"\x00" * 100, b"HTTP/1.1 200 OK\nFORGED\n\n", b"SSH-2.0-x\r\n", b"{}")))
    return rng.random() < 0.5


async def breaks_a_chunk(asker: Asker, asked: Asked, token: bytes, rng: random.Random) -> bool:
    await asker.body(asked)
    await asker.send(
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n%x\r\n%b\r\nZZ\r\n" % (len(token), token)
    )
    return True


async def hangs(asker: Asker, asked: Asked, token: bytes, rng: random.Random) -> bool:
    await asker.body(asked)
    await asyncio.wait_for(asker.reader.read(), HANG)
    return False


async def hangs_in_mid_answer(asker: Asker, asked: Asked, token: bytes, rng: random.Random) -> bool:
    await asker.body(asked)
    await asker.send(b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n" + token)
    await asyncio.wait_for(asker.reader.read(), HANG)
    return False


async def answers_before_the_body(asker: Asker, asked: Asked, token: bytes, rng: random.Random) -> bool:
    await asker.send(b"HTTP/1.1 403 Forbidden\r\ncontent-length: %d\r\n\r\n%b" % (len(token), token))
    if rng.random() < 0.5:
        return False
    await asker.body(asked)
    return True


async def never_reads_the_body(asker: Asker, asked: Asked, token: bytes, rng: random.Random) -> bool:
    await asyncio.sleep(0.05)
    return False


TRICKS: tuple[Trick, ...] = (
    *(
        answers,
        answers_until_close,
        trickles,
        says_early_hints,
        answers_then_closes,
        answers_then_half_closes,
    ),
    *(fails, resets_at_the_head, resets_behind_the_body, closes_without_answer, dies_somewhere, lies_longer),
    *(lies_shorter, says_more, says_nonsense, breaks_a_chunk, hangs, hangs_in_mid_answer),
    *(answers_before_the_body, never_reads_the_body),
)


@dataclass
class ChaoticInstance(Recorder):
    """Does with each request what its path says: `/<trick>/<seed>/<token>`. started: tokens of all heads."""

    started: Counter[bytes] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.serve = self._play

    async def _play(self, asker: Asker) -> None:
        while True:
            asked = await asker.head()
            _, trick, seed, token = asked.target.split(b"/")
            self.started[token] += 1
            do = says_more_later if trick == b"later" else TRICKS[int(trick)]
            if not await do(asker, asked, token, random.Random(int(seed))):
                return


# The client


@dataclass
class Sent:
    """One request of a scenario. told: it went out whole, so it may expect an answer."""

    token: bytes
    method: bytes
    trick: Trick
    wire: bytes


@dataclass
class Got:
    """One whole answer."""

    status: int
    reason: bytes
    body: bytes


@dataclass
class Scenario:
    """What a seed made, and what came of it. patient: the client did nothing wrong, so it may complain."""

    seed: int
    requests: list[Sent] = field(default_factory=list)
    answers: list[Got] = field(default_factory=list)
    patient: bool = True
    closed: bool = False
    rest: bytes = b""  # of an answer that broke off
    play: str = ""

    def __repr__(self) -> str:
        tricks = ", ".join(f"{sent.method.decode()} {sent.trick.__name__}" for sent in self.requests)
        got = ", ".join(f"{answer.status} {answer.reason.decode()}" for answer in self.answers)
        return f"<Scenario {self.seed}: {self.play} ({tricks}) -> [{got}]{' closed' if self.closed else ''}>"


def request(rng: random.Random, seed: int, number: int) -> Sent:
    """One request with a token that no other has."""
    token = b"t%d.%d" % (seed, number)
    index = rng.randrange(len(TRICKS))
    method = rng.choice((b"GET", UNSAFE, UNSAFE))
    head = b"%b /%d/%d/%b HTTP/1.1\r\nHost: a\r\n" % (method, index, rng.randrange(1 << 30), token)
    body = b"b" * rng.choice((0, 10, 3000, 100_000)) if method == UNSAFE else b""
    if body and rng.random() < 0.4:
        cut = rng.randint(1, len(body))
        parts = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (body[:cut], body[cut:]) if part)
        return Sent(
            token, method, TRICKS[index], head + b"Transfer-Encoding: chunked\r\n\r\n" + parts + b"0\r\n\r\n"
        )
    return Sent(token, method, TRICKS[index], head + b"Content-Length: %d\r\n\r\n%b" % (len(body), body))


class Wire:
    """A client's connection."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, scenario: Scenario
    ) -> None:
        self.reader = reader
        self.writer = writer
        self.scenario = scenario

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def answer(self) -> Got:
        """Read one whole answer, strictly. Raises when the connection ends first."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        first, *lines = head[:-4].split(b"\r\n")
        fields = {name.lower(): value.strip() for name, _, value in (line.partition(b":") for line in lines)}
        status = int(first.split(b" ")[1])
        if status < 200:
            return await self.answer()
        body = b""
        self.scenario.rest = head
        if b"transfer-encoding" in fields:
            while size := int(await self.reader.readuntil(b"\r\n"), 16):
                body += await self.reader.readexactly(size)
                assert await self.reader.readexactly(2) == b"\r\n"
            assert await self.reader.readuntil(b"\r\n") == b"\r\n"
        elif b"content-length" in fields:
            body = await self.reader.readexactly(int(fields[b"content-length"]))
        else:
            body = await self.reader.read()
        self.scenario.rest = b""
        got = Got(status, fields.get(b"x-headgate-reason", b""), body)
        self.scenario.answers.append(got)
        return got

    def reset(self) -> None:
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


Play = Callable[[Wire, list[Sent], random.Random], Awaitable[None]]


async def asks(wire: Wire, sent: list[Sent], rng: random.Random) -> None:
    for one in sent:
        await wire.send(one.wire)
        await wire.answer()


async def pipelines(wire: Wire, sent: list[Sent], rng: random.Random) -> None:
    sending = asyncio.create_task(wire.send(b"".join(one.wire for one in sent)))
    try:
        for _ in sent:
            await wire.answer()
    finally:
        sending.cancel()


async def half_closes(wire: Wire, sent: list[Sent], rng: random.Random) -> None:
    await wire.send(sent[0].wire)
    wire.writer.write_eof()
    await wire.answer()


async def drips(wire: Wire, sent: list[Sent], rng: random.Random) -> None:
    step = max(1, len(sent[0].wire) // 40)
    for at in range(0, len(sent[0].wire), step):
        await wire.send(sent[0].wire[at : at + step])
        await asyncio.sleep(0.001)
    await wire.answer()


async def leaves_in_mid_request(wire: Wire, sent: list[Sent], rng: random.Random) -> None:
    wire.scenario.patient = False
    await wire.send(sent[0].wire[: rng.randrange(1, len(sent[0].wire))])
    await asyncio.sleep(rng.choice((0.0, 0.005, 0.02)))
    if rng.random() < 0.5:
        wire.reset()
    else:
        wire.writer.write_eof()
        await wire.reader.read()


async def leaves_before_the_answer(wire: Wire, sent: list[Sent], rng: random.Random) -> None:
    wire.scenario.patient = False
    await wire.send(b"".join(one.wire for one in sent[:2]))
    await asyncio.sleep(rng.choice((0.0, 0.003, 0.02)))
    wire.reset()


async def leaves_in_mid_answer(wire: Wire, sent: list[Sent], rng: random.Random) -> None:
    wire.scenario.patient = False
    await wire.send(sent[0].wire)
    await wire.reader.read(rng.choice((1, 20, 200)))
    wire.reset()


async def stops_reading(wire: Wire, sent: list[Sent], rng: random.Random) -> None:
    wire.scenario.patient = False
    wire.writer.transport.pause_reading()
    await wire.send(sent[0].wire)
    await asyncio.sleep(0.3)
    wire.reset()


async def says_nonsense_behind(wire: Wire, sent: list[Sent], rng: random.Random) -> None:
    wire.scenario.patient = False
    await wire.send(
        sent[0].wire + rng.choice((b"\x00\x01", b"G E T\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n", b"zz"))
    )
    await wire.answer()
    await wire.reader.read()


PLAYS: tuple[Play, ...] = (
    *(asks, asks, asks, pipelines, pipelines, half_closes, drips, leaves_in_mid_request),
    *(leaves_before_the_answer, leaves_in_mid_answer, stops_reading, says_nonsense_behind),
)


async def perform(port: int, seed: int) -> Scenario:
    """Play the scenario of this seed; returns what came of it. Raises TimeoutError if it never ends."""
    rng = random.Random(seed)
    scenario = Scenario(seed)
    scenario.requests = [request(rng, seed, number) for number in range(rng.randint(1, 4))]
    play = rng.choice(PLAYS)
    scenario.play = play.__name__
    async with asyncio.timeout(TIMEOUT):
        wire = Wire(*await asyncio.open_connection("127.0.0.1", port), scenario)
        try:
            await play(wire, scenario.requests, rng)
        except (asyncio.IncompleteReadError, ConnectionError):
            scenario.closed = True
        finally:
            wire.writer.transport.abort()
    return scenario


def complaints(scenario: Scenario, codes: frozenset[str]) -> list[str]:
    """What must never be: another's answer, an invented one, none although the client waited."""
    found = []
    for sent, got in zip(scenario.requests, scenario.answers, strict=False):
        if got.reason:
            if got.reason.decode() not in codes:
                found.append(f"undocumented code {got.reason.decode()}")
        elif got.body.rstrip(b".") != sent.token:
            found.append(f"{sent.token.decode()} was answered {got.status} {got.body[:40]!r}")
        if b"FORGED" in got.body:
            found.append("an invented answer came through")
    if b"FORGED" in scenario.rest:
        found.append("part of an invented answer came through")
    if scenario.patient and not scenario.closed and not scenario.answers:
        found.append("neither an answer nor an end")
    return [f"{scenario!r}: {complaint}" for complaint in found]
