"""Releases over several workers, over crashes, and over whatever is on the disk."""

from __future__ import annotations

import asyncio
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from gateway.filters.release_terms import Release
from gateway.runtime.policies import read
from gateway.runtime.release_file import ReleaseFile
from tests.fakes.versions import ROLLING, Fleet, Version, load, page, version
from tests.runtime.crews import Crewed, crewed
from tests.runtime.running import question, running, until, write

INFER = "/v2/models/m/infer"


@pytest.fixture
async def stable() -> AsyncIterator[Version]:
    async with version("v1") as made:
        yield made


@pytest.fixture
async def candidate() -> AsyncIterator[Version]:
    async with version("v2") as made:
        yield made


async def ask(gateway: Crewed, count: int, pause: float = 0.0) -> Counter[tuple[int, str]]:
    """Requests over connections of their own, so that all workers get some."""
    seen: Counter[tuple[int, str]] = Counter()
    for _ in range(count):
        async with (
            aiohttp.ClientSession(f"http://127.0.0.1:{gateway.port}") as http,
            http.post(INFER, json=question(1, 2)) as answer,
        ):
            await answer.read()
            seen[answer.status, answer.headers.get("x-served-by", "")] += 1
        await asyncio.sleep(pause)
    return seen


async def release_of(gateway: Crewed) -> dict[str, Any]:
    (one,) = await gateway.json("/releases")
    return dict(one)


async def move(gateway: Crewed, act: str) -> int:
    async with gateway.admin.post(f"/releases/m/{act}") as answer:
        return answer.status


async def test_the_evidence_of_all_workers_adds_up_to_one_decision(
    tmp_path: Path, stable: Version, candidate: Version
) -> None:
    async with crewed(tmp_path, page(stable, candidate, "{weight: 50%, judge: {}}"), 2) as gateway:
        await ask(gateway, 24)

        async def all_arrived() -> bool:
            return sum((await release_of(gateway))["requests"].values()) == 24

        await gateway.until(all_arrived, "what every worker saw")
        candidate.broken = 1.0

        async def taken_back() -> bool:
            await ask(gateway, 5)
            return (await release_of(gateway))["phase"] == "rolled_back"

        await gateway.until(taken_back, "the verdict")
        assert await gateway.metric("headgate_release_weight", release="m") == 0

        async def all_heard() -> bool:
            return {served for _, served in await ask(gateway, 12)} == {"v1"}

        await gateway.until(all_heard, "the weight at every worker")
        asked = candidate.asked
        assert await ask(gateway, 20) == {(200, "v1"): 20}
        assert candidate.asked == asked


async def test_a_decision_survives_the_death_of_a_worker_and_of_the_whole_gateway(
    tmp_path: Path, stable: Version, candidate: Version
) -> None:
    text = page(stable, candidate, "{weight: 50%, judge: {}}")
    async with crewed(tmp_path, text, 2) as gateway:
        await ask(gateway, 10)
        assert await move(gateway, "rollback") == 200
        before = await gateway.pids()
        for pid in before.values():
            os.kill(pid, signal.SIGKILL)
        await gateway.until_exchanged(before)
        assert await ask(gateway, 20) == {(200, "v1"): 20}
        await gateway.until((tmp_path / ".headgate/releases.json").exists)
        gateway.signal(signal.SIGKILL)
        await gateway.process.wait()
    async with crewed(tmp_path, text, 2) as gateway:
        shown = await release_of(gateway)
        assert (shown["phase"], shown["weight"]) == ("rolled_back", 0)
        assert await ask(gateway, 20) == {(200, "v1"): 20}


async def test_a_blue_green_flip_is_one_moment_for_all_workers(
    tmp_path: Path, stable: Version, candidate: Version
) -> None:
    candidate.broken = 1.0
    sample = '{path: /v2/models/m/infer, body: \'{"inputs": [{"shape": [1, 2]}]}\'}'
    release = f"{{kind: blue_green, ready: {{sample: {sample}}}}}"
    async with crewed(tmp_path, page(stable, candidate, release), 2) as gateway:
        order: list[tuple[int, str]] = []

        async def client() -> None:
            for _ in range(60):
                (one,) = await ask(gateway, 1, 0.01)
                order.append(one)

        clients = [asyncio.create_task(client()) for _ in range(3)]
        await gateway.until(lambda: len(order) > 20)
        candidate.broken = 0.0

        async def flipped() -> bool:
            return (await release_of(gateway))["phase"] == "promoted"

        await gateway.until(flipped)
        await asyncio.gather(*clients)
        assert {status for status, _ in order} == {200}
        assert await ask(gateway, 10) == {(200, "v2"): 10}
        assert await move(gateway, "rollback") == 200
        await asyncio.sleep(0.2)
        assert await ask(gateway, 10) == {(200, "v1"): 10}


@pytest.mark.parametrize(
    ("hold", "flips"),
    [pytest.param("10s", False, id="it is waited for"), pytest.param("200ms", True, id="not for ever")],
)
async def test_a_flip_waits_for_a_worker_that_has_not_heard_of_it(
    tmp_path: Path, stable: Version, candidate: Version, hold: str, flips: bool
) -> None:
    release = f"{{kind: blue_green, ready: {{instances: 2}}, hold: {hold}}}"  # never: a person promotes it
    async with crewed(tmp_path, page(stable, candidate, release), 2) as gateway:
        assert await ask(gateway, 10) == {(200, "v1"): 10}
        stopped = min((await gateway.pids()).values())
        os.kill(stopped, signal.SIGSTOP)
        try:
            assert await move(gateway, "promote") == 200
            asking = [asyncio.create_task(ask(gateway, 1)) for _ in range(12)]
            await asyncio.sleep(0.8)
            assert (candidate.asked > 0) == flips
        finally:
            os.kill(stopped, signal.SIGCONT)
        seen = sum(await asyncio.gather(*asking), Counter())
        assert {status for status, _ in seen} == {200}
        await gateway.until(lambda: candidate.asked)
        assert await ask(gateway, 10) == {(200, "v2"): 10}


async def test_a_rolling_update_behind_two_workers_loses_nothing(tmp_path: Path) -> None:
    base = "registry: local\nlimits: {drain: 5s}\n"
    async with (
        version("v1") as a,
        version("v1") as b,
        version("v2") as c,
        version("v2") as d,
        crewed(tmp_path, ROLLING, 2, base=base) as gateway,
    ):
        fleet = Fleet(gateway.admin)
        for one in (a, b):
            await fleet.add("m-1", one)

        async def serves() -> bool:
            return set(await ask(gateway, 8)) == {(200, "v1")}

        await gateway.until(serves)
        async with load(f"http://127.0.0.1:{gateway.port}") as seen:
            weights = []
            for old, new in ((a, c), (b, d)):
                await fleet.add("m-2", new)
                await asyncio.sleep(0.6)
                weights.append((await release_of(gateway))["weight"])
                await fleet.remove(old)
                await asyncio.sleep(0.2)

            async def promoted() -> bool:
                return (await release_of(gateway))["phase"] == "promoted"

            await gateway.until(promoted)
        assert weights == [0.5, 1.0]
        assert seen.keys() == {(200, "v1"), (200, "v2")}
        assert await ask(gateway, 10) == {(200, "v2"): 10}


async def test_what_a_worker_sees_drift_is_told_by_the_gateway(tmp_path: Path, stable: Version) -> None:
    policies = page(stable, stable, "{weight: 0%}") + "    drift: {sample: 100%}\n"
    async with crewed(tmp_path, policies, 2) as gateway:
        address = f"http://127.0.0.1:{gateway.port}"
        async with aiohttp.ClientSession(address) as http:  # one connection: one worker

            async def predict(count: int) -> None:
                for _ in range(count):
                    async with http.post(INFER, json=question(1, 2)) as answer:
                        assert answer.status == 200

            await predict(300)
            assert await gateway.json("/drifts") == []
            stable.corrupted = 1.0
            await predict(80)

            async def told() -> bool:
                alarms = await gateway.json("/drifts")
                return {(one["version"], one["of"]) for one in alarms} == {
                    ("m1 1", "class"),
                    ("m1 1", "score"),
                }

            await gateway.until(told, "the alarm")
            log = tmp_path / ".headgate/releases.jsonl"
            await gateway.until(lambda: log.exists() and log.read_text().count('"event":"drift"') == 2)


# The file


def test_what_was_saved_is_loaded_and_events_are_added(tmp_path: Path) -> None:
    file = ReleaseFile(tmp_path / "deep/releases.json")
    file.save({"m": {"epoch": 1}}, [{"event": "step"}])
    file.save({"m": {"epoch": 2}}, [{"event": "promote"}])
    assert file.load() == {"m": {"epoch": 2}}
    assert (tmp_path / "deep/releases.jsonl").read_text() == '{"event":"step"}\n{"event":"promote"}\n'
    assert sorted(path.name for path in (tmp_path / "deep").iterdir()) == ["releases.json", "releases.jsonl"]


def test_a_disk_that_takes_nothing_is_told_of_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    file = ReleaseFile(tmp_path / "file/releases.json")
    for _ in range(3):
        file.save({"m": {}}, [])
    assert caplog.text.count("can't be kept") == 1
    assert ReleaseFile(None).load() == {}


# The example


def test_the_example_of_the_documentation_is_a_release_that_climbs() -> None:
    loaded = read(Path(__file__).parents[2] / "policies/examples/release")
    assert loaded.schema is not None, loaded.report()
    (placed,) = loaded.schema.policies["digits-2"].verbs["release"]
    release = placed.value
    assert isinstance(release, Release)
    assert release.plan().steps == (0.0, 0.05, 0.25, 0.5, 1.0)
    assert release.judge is not None
    criteria = release.judge.criteria()
    assert criteria.judge().verdict().sides.keys() == {
        "errors",
        "rejections",
        "latency_p99",
        "predictions",
        "flips",
    }


def newest(pools: dict[int, Version], written: int) -> str:
    """One endpoint `m` whose newest version is a candidate without traffic; which is stable is written."""
    listed = "".join(
        f"  m{n}: {{instances: ['127.0.0.1:{one.port}'], speaks: kserve-v2}}\n" for n, one in pools.items()
    )
    versions = ", ".join(f"{n}: m{n}" for n in pools)
    return (
        f"pools:\n{listed}endpoints:\n  m:\n    model: m\n    authenticate: none\n"
        f"    versions: {{{versions}}}\n    labels: {{stable: {written}}}\n    release: {{weight: 0%}}\n"
    )


async def test_what_was_promoted_is_stable_until_the_policies_say_otherwise(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        v = [await stack.enter_async_context(version(f"v{n}")) for n in range(4)]
        gateway = await stack.enter_async_context(running(tmp_path, newest({0: v[0], 1: v[1], 2: v[2]}, 1)))

        async def serves(name: str, stable: str, candidate: str) -> None:
            """Soon it stands between these two, and this one answers."""

            def stands() -> bool:
                (shown,) = gateway.worker.releases()
                return (shown["stable"], shown["candidate"]) == (stable, candidate)

            await until(stands)
            await asyncio.sleep(0.3)
            served = set()
            for _ in range(5):
                async with gateway.http.post(INFER, json=question(1, 2)) as answer:
                    await answer.read()
                    served.add(answer.headers["x-served-by"])
            assert served == {name}

        await serves("v1", "m1 1", "m2 2")
        gateway.worker.move_release("m", "promote")
        await serves("v2", "m1 1", "m2 2")
        write(tmp_path, newest(dict(enumerate(v)), 1))  # a newer version comes; 1 is still written
        await serves("v2", "m2 2", "m3 3")
        write(tmp_path, newest(dict(enumerate(v)), 0))
        await serves("v0", "m0 0", "m3 3")
