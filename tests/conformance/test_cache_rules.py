"""RFC 9111, rule by rule, through a real gateway to a real origin. The rules: caching.py."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.conformance.caching import RULES, Fields, Rule, Step
from tests.runtime.crews import page
from tests.runtime.running import Running, running

BODY = b"whole"
VERB = "    cache: {ttl: 0s, scope: shared}\n"
OWN = ("user-agent", "accept", "accept-encoding")  # what the client would say by itself


def listed(fields: Fields) -> list[tuple[str, str]]:
    return [(name, value) for name, value in (fields.items() if hasattr(fields, "items") else fields)]


class Origin:
    """Answers with the fields that it is told, and no others; remembers the fields of the last request."""

    def __init__(self) -> None:
        self.port = 0
        self.answer: tuple[int, Fields] | None = (200, {})
        self.path = ""
        self.asked: list[dict[str, str]] = []
        self._open: dict[asyncio.StreamWriter, asyncio.Future[None]] = {}

    async def close(self) -> None:
        """End all connections."""
        for writer in self._open:
            writer.close()
        await asyncio.gather(*self._open.values())

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        over = self._open[writer] = asyncio.get_running_loop().create_future()
        try:
            while await self._one(reader, writer):
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()
            over.set_result(None)

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        line, *fields = head.split("\r\n")
        asked: dict[str, str] = {}
        for name, _, value in [one.partition(":") for one in fields]:
            known = asked.get(name.lower())
            asked[name.lower()] = value.strip() if known is None else f"{known}, {value.strip()}"
        await reader.readexactly(int(asked.get("content-length", "0")))
        self.asked.append(asked)
        if self.answer is None:
            return False
        status, said = self.answer
        bodiless = status in (204, 304) or line.startswith("HEAD ")
        told = [(name, value.replace("{path}", self.path)) for name, value in listed(said)]
        if status not in (204, 304) and not any(name == "content-length" for name, _ in told):
            told.append(("content-length", str(len(BODY))))
        lines = [f"HTTP/1.1 {status} X", *(f"{name}: {value}" for name, value in told)]
        writer.write("\r\n".join([*lines, "", ""]).encode("latin-1") + (b"" if bodiless else BODY))
        breaks_off = not bodiless and ("content-length", str(len(BODY))) not in told
        return not breaks_off and not any(name == "connection" for name, _ in told)


@asynccontextmanager
async def origin() -> AsyncIterator[Origin]:
    made = Origin()
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.port = server.sockets[0].getsockname()[1]
    try:
        yield made
    finally:
        server.close()
        await made.close()


async def take(step: Step, at: Origin, gateway: Running, path: str) -> str:
    """Take one step; returns what was wrong, or nothing."""
    at.answer, at.path = step.answer, path
    before = len(at.asked)
    says = [*listed(step.says), *([("host", step.host)] if step.host else [])]
    async with gateway.http.request(
        step.method, path + step.at, headers=says, skip_auto_headers=OWN, allow_redirects=False
    ) as answer:
        if await answer.read() != BODY and answer.status == 200 and step.method != "HEAD":
            return "the client got another body"
        seen = {name.lower(): value for name, value in answer.headers.items()}
        return _wrong(step, answer.status, seen, at.asked[before:])


def _wrong(step: Step, status: int, seen: dict[str, str], asked: list[dict[str, str]]) -> str:
    if bool(asked) != step.reached:
        return f"the origin was {'' if asked else 'not '}asked; {seen.get('cache-status')}"
    expected = step.gets if step.gets is not None else (step.answer or (502, {}))[0]
    if status != expected:
        return f"the client got {status} instead of {expected}"
    for name, value in (step.sees or {}).items():
        if not _equal(name, seen.get(name), value):
            return f"the client saw {name}: {seen.get(name)} instead of {value}"
    for name in step.misses:
        if name in seen:
            return f"the client saw {name}: {seen[name]}"
    for name, value in (step.tells or {}).items():
        if asked[-1].get(name) != value:
            return f"the origin saw {name}: {asked[-1].get(name)} instead of {value}"
    return next((f"the origin saw {name}" for name in step.omits if name in asked[-1]), "")


def _equal(name: str, seen: str | None, value: str) -> bool:
    if name == "age":  # a slow machine may take a few seconds
        return seen is not None and int(value) <= int(seen) <= int(value) + 5
    return seen == value


@pytest.mark.parametrize("group", RULES)
async def test_a_shared_cache_does_what_rfc_9111_says(tmp_path: Path, group: str) -> None:
    async with origin() as at, running(tmp_path, page(at.port, VERB)) as gateway:
        failed = [
            f"{rule.name} ({rule.word}, {rule.section}), step {number + 1}: {wrong}"
            for index, rule in enumerate(RULES[group])
            if (found := await first_wrong(rule, at, gateway, f"/{group}/{index}")) is not None
            for number, wrong in (found,)
        ]
    assert not failed, "\n".join(["", *failed])


async def first_wrong(rule: Rule, at: Origin, gateway: Running, path: str) -> tuple[int, str] | None:
    for number, step in enumerate(rule.steps):
        wrong = await take(step, at, gateway, path)
        if wrong:
            return number, wrong
    return None


def test_every_rule_has_a_name_of_its_own() -> None:
    names = [(group, rule.name) for group, rules in RULES.items() for rule in rules]
    assert len(set(names)) == len(names)
