"""`headgate serve --workers N` as processes of this machine, on free ports."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from tests.runtime.running import write

PATIENCE = 30.0  # s: processes start slowly on a loaded machine


@dataclass
class Crewed:
    """A supervisor and its workers, ready."""

    folder: Path
    process: asyncio.subprocess.Process
    port: int
    admin: aiohttp.ClientSession
    lines: list[str] = field(default_factory=list)

    async def workers(self, state: str = "ready") -> list[dict[str, Any]]:
        async with self.admin.get("/workers") as answer:
            return [one for one in await answer.json() if one["state"] == state]

    async def pids(self) -> dict[int, int]:
        """Slot -> process id of those that serve."""
        return {one["slot"]: one["pid"] for one in await self.workers()}

    async def json(self, path: str) -> Any:
        async with self.admin.get(path) as answer:
            return await answer.json()

    async def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's lines that have these labels."""
        async with self.admin.get("/metrics") as answer:
            page = await answer.text()
        return sum(
            sample.value
            for family in text_string_to_metric_families(page)
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def said(self, what: str) -> int:
        """How many lines of the log say this."""
        return sum(what in line for line in self.lines)

    async def until(self, condition: Callable[[], Any], what: str = "it") -> None:
        """Wait for something that must come."""
        ends = asyncio.get_running_loop().time() + PATIENCE
        while True:
            held = condition()
            if asyncio.iscoroutine(held):
                held = await held
            if held:
                return
            assert self.process.returncode is None, "".join(self.lines)
            assert asyncio.get_running_loop().time() < ends, f"{what} did not come:\n{''.join(self.lines)}"
            await asyncio.sleep(0.05)

    async def until_said(self, what: str, times: int = 1) -> None:
        await self.until(lambda: self.said(what) >= times)

    async def until_exchanged(self, before: dict[int, int]) -> None:
        """Wait until every slot has another worker than before."""

        async def exchanged() -> bool:
            now = await self.pids()
            return len(now) == len(before) and not set(now.values()) & set(before.values())

        await self.until(exchanged)


@asynccontextmanager
async def crewed(
    folder: Path, page: str, workers: int = 2, *options: str, base: str = ""
) -> AsyncIterator[Crewed]:
    """Serve these policies with so many workers until the block is left."""
    write(folder, base or "registry: static\nlimits: {drain: 5s}\n", "gateway.yaml")
    write(folder, page)
    command = [sys.executable, "-m", "gateway", "serve", "--policies", str(folder), "--workers", str(workers)]
    command += ["--http", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"]
    if "--access-log" not in options:
        command += ["--access-log", "off"]
    process = await asyncio.create_subprocess_exec(
        *command, *options, stderr=asyncio.subprocess.PIPE, stdin=asyncio.subprocess.DEVNULL
    )
    assert process.stderr is not None
    lines: list[str] = []
    pids: set[int] = set()
    try:
        async with asyncio.timeout(PATIENCE):
            while not lines or not lines[-1].startswith("ready "):
                line = (await process.stderr.readline()).decode()
                assert line, "".join(lines)
                lines.append(line)
        _, http, _, admin = lines[-1].split()
        reading = asyncio.create_task(_keep_reading(process.stderr, lines))
        async with aiohttp.ClientSession(admin) as session:
            made = Crewed(folder, process, int(http.rpartition(":")[2]), session, lines)
            yield made
            with suppress(aiohttp.ClientError, OSError):
                pids = set((await made.pids()).values())
    finally:
        if process.returncode is None:
            process.terminate()
            try:
                async with asyncio.timeout(15):
                    await process.wait()
            except TimeoutError:
                process.kill()
                await process.wait()
        for pid in pids:  # the supervisor ends them; a bug must not leave them to the next test
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        await reading


async def _keep_reading(stream: asyncio.StreamReader, lines: list[str]) -> None:
    while line := await stream.readline():
        lines.append(line.decode())


def page(port: int, verbs: str = "") -> str:
    """One endpoint for everything."""
    return (
        f"pools: {{quick: {{instances: ['127.0.0.1:{port}']}}}}\n"
        f"endpoints:\n  quick:\n    match: /**\n    authenticate: none\n    send: quick\n{verbs}"
    )
