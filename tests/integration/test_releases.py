"""Releases on a whole gateway with two versions behind it."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.fakes.versions import ROLLING, Fleet, page, version
from tests.runtime.running import Running, question, running, until, write

INFER = "/v2/models/m/infer"


async def ask(gateway: Running) -> tuple[int, str]:
    async with gateway.http.post(INFER, json=question(1, 2)) as answer:
        await answer.read()
        return answer.status, answer.headers.get("x-served-by", "")


async def drive(gateway: Running, rate: float, seconds: float, seen: Counter[tuple[int, str]]) -> None:
    """Open loop: `rate` requests/s, whatever comes of them."""
    tasks = []
    for _ in range(int(rate * seconds)):

        async def one() -> None:
            seen[await ask(gateway)] += 1

        tasks.append(asyncio.create_task(one()))
        await asyncio.sleep(1 / rate)
    await asyncio.gather(*tasks)


async def release_of(gateway: Running) -> dict[str, Any]:
    async with gateway.admin.get("/releases") as answer:
        (one,) = await answer.json()
        return dict(one)


async def move(gateway: Running, act: str, name: str = "m") -> tuple[int, dict[str, Any]]:
    async with gateway.admin.post(f"/releases/{name}/{act}") as answer:
        return answer.status, await answer.json()


async def phase_is(gateway: Running, phase: str, patience: float = 10.0) -> dict[str, Any]:
    started = time.monotonic()
    while (shown := await release_of(gateway))["phase"] != phase:
        assert time.monotonic() - started < patience, shown
        await asyncio.sleep(0.05)
    return shown


def events(folder: Path) -> list[dict[str, Any]]:
    log = folder / ".headgate/releases.jsonl"
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


async def test_a_half_broken_candidate_is_gone_in_seconds(tmp_path: Path) -> None:
    random.seed(11)
    release = "{weight: 20%, judge: {errors: 1.25x}}"
    async with (
        version("v1") as one,
        version("v2", broken=0.5) as two,
        running(tmp_path, page(one, two, release)) as gateway,
    ):
        seen: Counter[tuple[int, str]] = Counter()
        began = time.monotonic()
        driving = asyncio.create_task(drive(gateway, 20, 10, seen))
        shown = await phase_is(gateway, "rolled_back")
        took = time.monotonic() - began
        driving.cancel()
        asked = two.asked
        assert took <= 10
        assert shown["requests"]["candidate"] <= 20
        assert shown["weight"] == 0
        assert [await ask(gateway) for _ in range(20)] == [(200, "v1")] * 20
        assert two.asked == asked
        await until(lambda: events(tmp_path))
        (event,) = events(tmp_path)
        assert (event["event"], event["by"], event["weight"]) == ("rollback", "judge", 0)
        assert event["against"] >= event["needed"]
        assert "errors" in event["judge"]
        async with gateway.admin.get("/metrics") as answer:
            text = await answer.text()
        assert 'headgate_release_weight{release="m"} 0.0' in text
        assert 'headgate_release_verdicts_total{release="m",verdict="rollback"} 1.0' in text


async def test_an_equal_candidate_climbs_to_everything_by_itself(tmp_path: Path) -> None:
    judge = "{latency_p99: 3x, predictions: {sample: 50%}}"
    release = f"{{ramp: [20%, 50%, 100%], pause: 300ms, requests: 5, judge: {judge}}}"
    async with (
        version("v1") as one,
        version("v2") as two,
        running(tmp_path, page(one, two, release)) as gateway,
    ):
        seen: Counter[tuple[int, str]] = Counter()
        driving = asyncio.create_task(drive(gateway, 60, 6, seen))
        shown = await phase_is(gateway, "promoted")
        assert shown["pairs"] > 0
        assert two.mirrored > 0
        await driving
        assert {status for status, _ in seen} == {200}
        assert [await ask(gateway) for _ in range(20)] == [(200, "v2")] * 20
        await until(lambda: len(events(tmp_path)) >= 2)
        assert [(e["event"], e["weight"]) for e in events(tmp_path)] == [("step", 0.5), ("promote", 1.0)]
        status, _ = await move(gateway, "rollback")
        assert status == 200
        assert [await ask(gateway) for _ in range(5)] == [(200, "v1")] * 5


async def test_predictions_that_changed_are_found_by_pairs_before_a_client_meets_them(tmp_path: Path) -> None:
    release = "{ramp: [0%, 100%], pause: 1h, judge: {predictions: {max_abs: 0.001, sample: 100%}}}"
    async with (
        version("v1") as one,
        version("v2", corrupted=0.1) as two,
        running(tmp_path, page(one, two, release)) as gateway,
    ):
        for _ in range(300):
            assert await ask(gateway) == (200, "v1")
            if (await release_of(gateway))["phase"] == "rolled_back":
                break
        shown = await phase_is(gateway, "rolled_back")
        assert (two.asked, shown["requests"]["candidate"]) == (0, 0)
        assert "values apart by up to 0.5" in shown["last_difference"]


async def test_a_restart_forgets_nothing_and_a_new_candidate_starts_anew(tmp_path: Path) -> None:
    release = "{weight: 50%, judge: {errors: 1.25x}}"
    async with version("v1") as one, version("v2") as two, version("v3") as three:
        text = page(one, two, release)
        async with running(tmp_path, text) as gateway:
            assert (await move(gateway, "rollback"))[0] == 200
            assert [await ask(gateway) for _ in range(10)] == [(200, "v1")] * 10
            state = tmp_path / ".headgate/releases.json"
            await until(state.exists)
        async with running(tmp_path, text) as gateway:
            assert (await release_of(gateway))["phase"] == "rolled_back"
            assert [await ask(gateway) for _ in range(10)] == [(200, "v1")] * 10
            # an edit that does not touch the release, and one that brings another candidate
            before = gateway.worker.policies.reloads
            write(tmp_path, text.replace("authenticate: none", "authenticate: none\n    timeout: 9s"))
            await until(lambda: gateway.worker.policies.reloads > before)
            assert [await ask(gateway) for _ in range(10)] == [(200, "v1")] * 10
            newer = text.replace(
                "endpoints:", f"  m3: {{instances: ['127.0.0.1:{three.port}']}}\nendpoints:", 1
            )
            write(tmp_path, newer.replace("2: m2}", "2: m2, 3: m3}"))
            await until(lambda: gateway.worker.policies.reloads > before + 1)
            shown = await phase_is(gateway, "ramping")
            assert shown["candidate"] == "m3 3"
            assert shown["weight"] == 0.5


async def test_after_a_promotion_the_next_candidate_is_measured_against_the_promoted_one(
    tmp_path: Path,
) -> None:
    async with version("v1") as one, version("v2") as two, version("v3") as three:
        text = page(one, two, "{weight: 50%}")
        async with running(tmp_path, text) as gateway:
            await move(gateway, "promote")
            assert {await ask(gateway) for _ in range(10)} == {(200, "v2")}
            newer = text.replace(
                "endpoints:", f"  m3: {{instances: ['127.0.0.1:{three.port}']}}\nendpoints:", 1
            )
            write(tmp_path, newer.replace("2: m2}", "2: m2, 3: m3}"))
            shown = await phase_is(gateway, "ramping")
            assert (shown["stable"], shown["candidate"]) == ("m2 2", "m3 3")
            assert {await ask(gateway) for _ in range(40)} == {(200, "v2"), (200, "v3")}


async def test_what_a_person_does_and_what_can_t_be_done(tmp_path: Path) -> None:
    async with (
        version("v1") as one,
        version("v2") as two,
        running(tmp_path, page(one, two, "{weight: 50%}")) as gateway,
    ):
        assert (await move(gateway, "pause"))[1]["phase"] == "paused"
        assert (await move(gateway, "resume"))[1]["phase"] == "ramping"
        assert (await move(gateway, "promote"))[1]["weight"] == 1.0
        status, told = await move(gateway, "pause")
        assert (status, told["code"]) == (409, "impossible")
        assert (await move(gateway, "promote", "nobody"))[0] == 404
        assert (await move(gateway, "dance"))[0] == 404


async def test_a_blue_green_flip_waits_for_the_sample_and_loses_nothing(tmp_path: Path) -> None:
    sample = '{path: /v2/models/m/infer, body: \'{"inputs": [{"shape": [1, 2]}]}\'}'
    release = f"{{kind: blue_green, ready: {{sample: {sample}}}}}"
    async with (
        version("v1") as one,
        version("v2", broken=1.0) as two,
        running(tmp_path, page(one, two, release)) as gateway,
    ):
        seen: Counter[tuple[int, str]] = Counter()
        driving = asyncio.create_task(drive(gateway, 60, 5, seen))
        await until(lambda: two.asked >= 1)
        assert (await release_of(gateway))["weight"] == 0
        two.broken = 0.0
        await phase_is(gateway, "promoted")
        assert {await ask(gateway) for _ in range(10)} == {(200, "v2")}
        await driving
        assert seen.keys() == {(200, "v1"), (200, "v2")}
        await move(gateway, "rollback")
        assert {await ask(gateway) for _ in range(10)} == {(200, "v1")}


async def test_a_rolling_update_follows_the_instances_and_loses_nothing(tmp_path: Path) -> None:
    base = "log: {access: off}\nregistry: local\n"
    async with (
        version("v1") as a,
        version("v1") as b,
        version("v2") as c,
        version("v2") as d,
        running(tmp_path, ROLLING, base) as gateway,
    ):
        fleet = Fleet(gateway.admin)
        pools = gateway.worker.snapshot.pools
        for one in (a, b):
            await fleet.add("m-1", one)
        await until(lambda: len(pools["m1"].members.instances) == 2)
        await asyncio.sleep(0.3)
        seen: Counter[tuple[int, str]] = Counter()
        driving = asyncio.create_task(drive(gateway, 60, 4, seen))
        weights = []
        for old, new in ((a, c), (b, d)):
            await fleet.add("m-2", new)
            await asyncio.sleep(0.5)
            weights.append((await release_of(gateway))["weight"])
            await fleet.remove(old)
            await asyncio.sleep(0.2)
        await phase_is(gateway, "promoted")
        await driving
        assert weights == [0.5, 1.0]
        assert seen.keys() == {(200, "v1"), (200, "v2")}


async def test_blue_green_waits_for_as_many_instances_as_are_wanted_and_a_sample_of_each(
    tmp_path: Path,
) -> None:
    sample = '{path: /v2/models/m/infer, body: \'{"inputs": [{"shape": [1, 2]}]}\'}'
    release = f"{{kind: blue_green, ready: {{instances: 2, sample: {sample}}}}}"
    async with version("v1") as one, version("v2") as two, version("v2", broken=1.0) as three:
        text = page(one, two, release)
        async with running(tmp_path, text) as gateway:
            await asyncio.sleep(0.5)  # some looks
            assert (two.asked, (await release_of(gateway))["weight"]) == (0, 0)
            first = f"'127.0.0.1:{two.port}'"
            write(tmp_path, text.replace(first, f"{first}, '127.0.0.1:{three.port}'"))
            await until(lambda: two.asked and three.asked)
            await asyncio.sleep(0.3)
            assert (await release_of(gateway))["weight"] == 0
            three.broken = 0.0
            await phase_is(gateway, "promoted")


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b'{"m": {"phase": 1}}'])
async def test_a_damaged_state_is_no_reason_not_to_start(tmp_path: Path, content: bytes) -> None:
    (tmp_path / ".headgate").mkdir()
    (tmp_path / ".headgate/releases.json").write_bytes(content)
    async with (
        version("v1") as one,
        version("v2") as two,
        running(tmp_path, page(one, two, "{weight: 100%}")) as gateway,
    ):
        assert await ask(gateway) == (200, "v2")


async def test_a_browser_stays_with_its_version_and_testers_meet_the_candidate(tmp_path: Path) -> None:
    release = "{weight: 50%, sticky: cookie, headers: {x-canary: always}}"
    async with (
        version("v1") as one,
        version("v2") as two,
        running(tmp_path, page(one, two, release)) as gateway,
    ):
        address = "http://{}:{}".format(*gateway.worker.http_address)
        met = []
        for _ in range(16):  # with one of two versions each, all the same is one in 30,000
            async with aiohttp.ClientSession(address, cookie_jar=aiohttp.CookieJar(unsafe=True)) as browser:
                served = set()
                for _ in range(6):
                    async with browser.post(INFER, json=question(1, 2)) as answer:
                        served.add(answer.headers["x-served-by"])
                assert len(served) == 1
                met += served
                async with browser.post(INFER, json=question(1, 2), headers={"x-canary": "always"}) as answer:
                    assert answer.headers["x-served-by"] == "v2"
        assert set(met) == {"v1", "v2"}
