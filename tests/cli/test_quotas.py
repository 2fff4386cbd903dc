"""What a person is told about quotas by whole gateways: one process, workers, on a file and on Redis."""

from __future__ import annotations

import asyncio
from pathlib import Path

import aiohttp
import pytest

from gateway.cli.main import main
from gateway.cli.quotas import lines
from tests.runtime.crews import crewed
from tests.runtime.running import BASE, backend, echo_page, running
from tests.services.redis import redis_server

__all__ = ["redis_server"]

QUOTAS = "    quota: [10/day per header:team, 1000/1h]\n"


async def typed(capsys: pytest.CaptureFixture[str], admin: str, *words: str) -> tuple[int, str]:
    capsys.readouterr()
    code = await asyncio.to_thread(main, ["quotas", *words, "--admin", admin])
    said = capsys.readouterr()
    return code, said.out + said.err


async def test_who_spent_how_much_is_told_largest_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with backend() as server, running(tmp_path, echo_page(server.port, QUOTAS)) as gateway:
        code, said = await typed(capsys, gateway.admin_url)
        assert (code, said.count("nobody spent anything")) == (0, 2)
        for team, count in (("blue", 2), ("red", 12), ("green", 1)):
            for _ in range(count):
                await gateway.status("/echo/", team=team)
        await asyncio.sleep(2.0)  # what was drawn and lies idle goes back
        code, said = await typed(capsys, gateway.admin_url, "--most", "2")
        daily, where, red, blue, others, hourly, _, all_ = said.splitlines()
        assert code == 0
        assert daily.startswith("10/day per header:team, until 20")
        assert where == f"  endpoints.echo at {tmp_path / 'page.yaml'}:8:13, for echo"
        assert red.split() == ["header", "red", "10", "used", "0", "left", "100%"]
        assert blue.split() == ["header", "blue", "2", "used", "8", "left", "20%"]
        assert others == "  and 1 more; all together 13"
        assert hourly == "1000/1h, rolling"
        assert all_.split() == ["endpoint", "echo", "13", "used", "987", "left", "1%"]
        code, said = await typed(capsys, gateway.admin_url, "green")
        assert "header green             1 used             9 left   10%" in said
        assert "green spent nothing of it" in said
        async with gateway.admin.get("/quotas?whom=green") as answer:
            assert (answer.status, (await answer.json())["code"]) == (400, "unknown_question")


@pytest.mark.parametrize("ledger", ["quotas.db", "memory"])
async def test_workers_are_told_of_as_one(
    ledger: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = f"registry: static\nstores: {{quotas: {ledger}}}\n"
    async with backend() as server, crewed(tmp_path, echo_page(server.port, QUOTAS), 2, base=base) as crew:
        for number in range(40):  # each on a connection of its own, so that both workers get some
            async with (
                aiohttp.ClientSession(f"http://127.0.0.1:{crew.port}") as client,
                client.get("/echo/", headers={"team": f"team-{number % 8}"}) as answer,
            ):
                assert answer.status == 200
        await asyncio.sleep(2.0)
        told = await crew.json("/quotas")
        daily, hourly = told["quotas"]
        assert (told["shared"], told["trouble"]) == (ledger != "memory", None)
        assert (daily["spenders"], daily["used"], hourly["used"]) == (8, 40.0, 40.0)
        assert {row["used"] for row in daily["spent"]} == {5.0}
        assert hourly["spent"] == [
            {"who": "endpoint echo", "used": 40.0, "left": 1960.0 if ledger == "memory" else 960.0}
        ]


@pytest.mark.service("redis")
async def test_gateways_on_redis_tell_the_same_and_say_when_they_cannot(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], redis_server
) -> None:
    base = f"{BASE}stores: {{counters: '{redis_server.url}'}}\n"
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
    async with backend() as server:
        page = echo_page(server.port, QUOTAS)
        async with (
            running(tmp_path / "one", page, base) as one,
            running(tmp_path / "other", page, base) as other,
        ):
            for gateway in (one, one, other):
                assert await gateway.status("/echo/", team="red") == 200
            await asyncio.sleep(2.0)
            for gateway in (one, other):
                code, said = await typed(capsys, gateway.admin_url, "red")
                assert (code, "header red             3 used             7 left   30%" in said) == (0, True)
            redis_server.kill()
            code, said = await typed(capsys, one.admin_url)
            assert code == 1
            assert said.startswith("headgate: what was spent of quotas is not known now: ")


async def test_a_policy_without_quotas_and_wrong_words(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with backend() as server, running(tmp_path, echo_page(server.port)) as gateway:
        assert await typed(capsys, gateway.admin_url) == (0, "no policy has a quota\n")
        assert (await typed(capsys, gateway.admin_url, "--most", "0"))[0] == 2
    assert (await typed(capsys, "http://127.0.0.1:1"))[0] == 3


def test_fractions_are_shown_while_they_matter() -> None:
    quota = {
        "limit": "500 compute/day",
        "until": None,
        "policy": "plans",
        "defined_at": "a.yaml:1",
        "endpoints": ["a", "b"],
        "spenders": 1,
        "used": 12.25,
        "spent": [{"who": "plan free", "used": 12.25, "left": 4870.5}],
    }
    assert lines(quota) == [
        "500 compute/day, rolling",
        "  plans at a.yaml:1, for a, b",
        "  plan free          12.2 used         4,870 left    0%",
    ]
