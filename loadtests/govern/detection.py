"""How soon is it found that an instance, or a release, fails? A whole gateway before stub backends, loopback.

    broken     one of 4 instances at 5 calls/s each fails every call for six seconds; then it is well, until
               it gets half of its share again over two seconds
    doubtful   one of 10 instances at 5 calls/s each fails 5 % of its calls for a minute
    release    a candidate with 20 % of 20 calls/s fails every call, until it is rolled back

Whatever spares a sick instance (the ejector, its doubt, the picker, to which a failure is a slow answer), its
clients notice only how many calls it still gets. So these are counted, in the stubs, and told as the seconds
in which its even share would have brought as many: 20 s are what clients meet of an instance that is
out after 20 s. What an operator sees is told beside it: s until `GET /instances`, asked four times a second,
shows the sick one as anything but `up` (its first call may take seconds to come), and the share of the looks
at well ones that do. A release's phase is asked of the admin API twenty times a second. Each plays in seven
pools, or endpoints, at once. Nothing retries and nothing is tuned. Who isn't found counts as the whole time.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from random import Random
from statistics import median
from typing import TYPE_CHECKING, Final, NamedTuple

import aiohttp

from loadtests.govern.backends import Backend, Kind
from loadtests.govern.generator import fire
from loadtests.govern.process import serving
from loadtests.sims.report import Cell, Report, Target

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TRIALS: Final = 7
RATE: Final = 5.0  # calls/s of an instance
LOOK: Final = 0.05  # s between two looks at the releases,
GLANCE: Final = 0.25  # and at the instances: there are seventy
WELL: Final = Kind("well", 800.0, 8, False, lambda _: 0.01)
SETTLED: Final = 2.0  # s of health before one falls ill
ILL: Final = 6.0  # s that a broken one stays so
AGAIN: Final = 2.0  # s over which an instance's share is counted

PAGE: Final = """
listen: {{http: "127.0.0.1:0", admin: "127.0.0.1:0"}}
log: {{level: warning, access: off}}
pools:
{pools}
endpoints:
{endpoints}
"""
POOL: Final = "  {name}: {{instances: {instances}, retry: off, health: off}}"
ENDPOINT: Final = "  {name}: {{match: {{path: /{name}}}, authenticate: none, {sends}}}"
RELEASE: Final = (
    "versions: {{1: {name}-1, 2: {name}-2}}, labels: {{stable: 1}}, "
    "release: {{weight: 20%, judge: {{errors: 1.25x}}}}"
)


class Sick(Backend):
    """An instance that fails `share` of its calls, by chance, from `begin` to `end` (loop time)."""

    def __init__(self, share: float, rng: Random) -> None:
        super().__init__(WELL)
        self.share = share
        self.begin = self.end = float("inf")
        self.came: list[float] = []
        self.address = ""
        self._rng = rng

    def take(self, transport: asyncio.Transport) -> None:
        """Fail at once, or serve."""
        now = self._loop.time()
        self.came.append(now)
        if self.begin <= now < self.end and self._rng.random() < self.share:
            self.fail(transport)
        else:
            super().take(transport)

    def calls(self, begin: float, end: float) -> int:
        """Count those that came from `begin` to `end`."""
        return sum(begin <= at < end for at in self.came)

    def back(self, never: float) -> float:
        """Return the s from `end` until it got half of its share over AGAIN s; until `never` if it didn't."""
        needed = max(1, round(RATE * AGAIN / 2))
        since = [at for at in self.came if at >= self.end]
        for first, last in zip(since, since[needed - 1 :], strict=False):
            if last - first <= AGAIN:
                return last - self.end
        return never - self.end


class Detected(NamedTuple):
    """Of each trial. found: s until it was, or of its share; back: s until it was; calls: that it got.

    shown: s until the admin API showed the sick one as such. blamed: share of the looks at well ones
    that did.
    """

    found: list[float]
    back: list[float]
    calls: list[int]
    shown: Sequence[float] = ()
    blamed: float = 0.0


async def _rolled_back(admin: int, until: float) -> dict[str, float]:
    """Return the loop time at which each release was first seen to be taken back."""
    loop = asyncio.get_running_loop()
    first: dict[str, float] = {}
    async with aiohttp.ClientSession(f"http://127.0.0.1:{admin}") as session:
        while loop.time() < until:
            async with session.get("/releases") as answer:
                shown = await answer.json()
            for one in shown:
                if one["phase"] == "rolled_back":
                    first.setdefault(one["name"], loop.time())
            await asyncio.sleep(LOOK)
    return first


async def _shown(admin: int, until: float) -> list[tuple[float, dict[str, str]]]:
    """Return what state each address had, at which loop time."""
    loop = asyncio.get_running_loop()
    looks: list[tuple[float, dict[str, str]]] = []
    async with aiohttp.ClientSession(f"http://127.0.0.1:{admin}") as session:
        while loop.time() < until:
            async with session.get("/instances") as answer:
                looks.append((loop.time(), {one["address"]: one["state"] for one in await answer.json()}))
            await asyncio.sleep(GLANCE)
    return looks


@asynccontextmanager
async def _stubs(shares: Sequence[float], rng: Random) -> AsyncIterator[list[Sick]]:
    """Serve one instance per share of calls that it fails."""
    made = [Sick(share, rng) for share in shares]
    for one in made:
        one.address = f"127.0.0.1:{await one.start()}"
    try:
        yield made
    finally:
        for one in made:
            await one.stop()


def due(names: Sequence[str], rate: float, seconds: float, rng: Random) -> list[tuple[float, str, int]]:
    """Return when which path is asked for; each `rate` times a second, by chance."""
    calls: list[tuple[float, str, int]] = []
    at = rng.expovariate(rate * len(names))
    while at < seconds:
        calls.append((at, rng.choice(names), 0))
        at += rng.expovariate(rate * len(names))
    return calls


async def instances(size: int, share: float, ill: float, seconds: float) -> Detected:
    """Let the first instance of each pool of `size` fall ill, for `ill` s of `seconds`."""
    rng = Random(17)
    names = [f"p{trial}" for trial in range(TRIALS)]
    async with _stubs([share, *[0.0] * (size - 1)] * TRIALS, rng) as made:
        pools = (
            POOL.format(name=name, instances=[one.address for one in made[i * size : (i + 1) * size]])
            for i, name in enumerate(names)
        )
        ends = (ENDPOINT.format(name=name, sends=f"send: {name}") for name in names)
        with serving(PAGE.format(pools="\n".join(pools), endpoints="\n".join(ends))) as (port, admin):
            began = asyncio.get_running_loop().time() + 0.1
            sick = made[::size]
            for one in sick:
                one.begin, one.end = began + SETTLED, began + SETTLED + ill
            never = began + seconds
            looking = asyncio.create_task(_shown(admin, never))
            await fire(port, due(names, RATE * size, seconds, rng), began)
            looks = await looking
    calls = [one.calls(one.begin, min(one.end, never)) for one in sick]
    well = [state for _, states in looks for one in made if not one.share for state in [states[one.address]]]
    return Detected(
        [count / RATE for count in calls],
        [one.back(never) for one in sick if one.end < never],
        calls,
        [
            next((at for at, states in looks if at >= one.begin and states[one.address] != "up"), never)
            - one.begin
            for one in sick
        ],
        sum(state != "up" for state in well) / len(well),
    )


async def releases(share: float, seconds: float) -> Detected:
    """Release a candidate that fails `share` of its calls."""
    rng = Random(19)
    names = [f"r{trial}" for trial in range(TRIALS)]
    async with _stubs([0.0, share] * TRIALS, rng) as made:
        pools = (
            POOL.format(name=f"r{i // 2}-{i % 2 + 1}", instances=[one.address]) for i, one in enumerate(made)
        )
        ends = (ENDPOINT.format(name=name, sends=RELEASE.format(name=name)) for name in names)
        with serving(PAGE.format(pools="\n".join(pools), endpoints="\n".join(ends))) as (port, admin):
            began = asyncio.get_running_loop().time() + 0.1
            for one in made[1::2]:
                one.begin = began
            firing = asyncio.create_task(fire(port, due(names, 20.0, seconds, rng), began))
            never = began + seconds
            first = await _rolled_back(admin, never)
            await firing
    found = [first.get(name, never) - began for name in names]
    return Detected(found, [], [len(one.came) for one in made[1::2]])


async def measure() -> dict[str, Detected]:
    """Play all three, one after the other."""
    return {
        "broken": await instances(4, 1.0, ILL, 30.0),
        "doubtful": await instances(10, 0.05, float("inf"), 62.0),
        "release": await releases(1.0, 12.0),
    }


def report(outcomes: dict[str, Detected]) -> Report:
    """Table, targets and picture."""
    rows: list[list[Cell]] = [
        [
            name,
            round(median(one.found), 2),
            round(max(one.found), 2),
            round(median(one.back), 2) if one.back else "",
            round(max(one.back), 2) if one.back else "",
            max(one.calls),
            round(median(one.shown), 2) if one.shown else "",
            round(max(one.shown), 2) if one.shown else "",
        ]
        for name, one in outcomes.items()
    ]
    broken, doubtful, release = (outcomes[name] for name in ("broken", "doubtful", "release"))
    return Report(
        "Detection on loopback: s of its share that a failing instance got; s until a release is gone",
        f"{TRIALS} of each at once; generator, gateway and backends share the machine.",
        ("scene", "s, or s of share", "most", "back s", "latest back", "calls at most", "shown s", "latest"),
        rows,
        (
            Target("a broken instance, latest, s of its share", max(broken.found), "<=", 2.0),
            Target("an instance that fails 5 %, median, s of its share", median(doubtful.found), "<=", 20.0),
            Target("an instance that fails 5 % is shown, median, s", median(doubtful.shown), "<=", 20.0),
            Target("a broken instance is shown, median, s", median(broken.shown), "<=", 2.0),
            Target(
                "looks at well ones that show them as ill", max(broken.blamed, doubtful.blamed), "<=", 0.01
            ),
            Target("a broken release is gone, latest, s", max(release.found), "<=", 10.0),
            Target("calls that a broken release got, at most", max(release.calls), "<=", 20),
            Target("a broken instance that is well is back, median, s", median(broken.back), "<=", 15.0),
        ),
        lambda axes: _draw(axes, outcomes),
    )


def _draw(axes: Axes, outcomes: dict[str, Detected]) -> None:
    lines = {**{name: one.found for name, one in outcomes.items()}, "broken, back": outcomes["broken"].back}
    for place, (name, seconds) in enumerate(lines.items()):
        axes.plot(seconds, [place] * len(seconds), "o", alpha=0.5, label=name)
        axes.plot([median(seconds)], [place], "|", markersize=22, color="black")
    axes.set_yticks(range(len(lines)), list(lines))
    axes.invert_yaxis()
    axes.set_xlim(left=0.0)
    axes.set_xlabel("s (broken, doubtful: of its even share); one dot per trial, the bar is the median")
