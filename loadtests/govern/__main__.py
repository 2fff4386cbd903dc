"""`make govern`: a gateway before stub backends that are offered more than they can do, over loopback.

    python -m loadtests.govern [--quick] [NAME ...]
    python -m loadtests.govern detection          how soon what fails is found (detection.py)

Clients give 500 ms, the policy says `concurrency: {target: 400ms}` and nothing else is tuned. Good: answered
200 within 500 ms of the instant when it was due. Goodput is good answers over what the backend can do. At
once: share of the refusals that came within 50 ms. With `flood` one tenant of five offers everything above
half of the capacity, and the others are judged, for longer: they are few. The gateway is a process of its
own, backends and generator share one. Exit code 1 when a target is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import sys
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Final, NamedTuple

from loadtests.govern import detection
from loadtests.govern.backends import KINDS, Backend, Kind
from loadtests.govern.generator import TENANTS, Plan, Sent, fire, schedule
from loadtests.govern.process import serving
from loadtests.sims.report import Cell, Report, Target

if TYPE_CHECKING:
    from matplotlib.axes import Axes

OUT: Final = Path(__file__).parents[1] / "out" / "govern"
PROMISE: Final = 0.5
FAST: Final = 0.05  # s: a refusal
SETTLE: Final = 1.0  # s of the surge until it is judged: connections are made, the limit is found
FLOOD: Final = 4.0  # times as long as other surges: of the others' calls .999 are to be told from .99
IMPORTANCES: Final = ("critical", "normal", "sheddable")

PAGE: Final = """
listen: {{http: "127.0.0.1:0", admin: "127.0.0.1:0"}}
log: {{level: warning, access: off}}
limits: {{connections: 20000, connections_per_client: 20000}}
pools:
  model:
    instances: ["127.0.0.1:{port}"]
    concurrency: {{target: 400ms}}
    eject: {{consecutive: 100000}}
    retry: off
    health: off
plans: {{all: {{}}}}
principals:
{principals}
endpoints:
{endpoints}
"""


class Scene(NamedTuple):
    """A backend, how many times its capacity is offered, and whether one tenant is to blame."""

    kind: str
    times: float
    flood: bool = False

    def __str__(self) -> str:
        return f"{self.kind}, {self.times:g} x{', one tenant' if self.flood else ''}"


SCENES: Final = (
    *(Scene(kind, times) for kind in KINDS for times in (2.0, 5.0, 10.0)),
    Scene("fixed", 10.0, flood=True),
)
QUICK: Final = (Scene("fixed", 5.0), Scene("batching", 5.0))


class Outcome(NamedTuple):
    """Shares of good answers: of the capacity, by importance, of the tenants that don't flood.

    p99: ms, of good answers. at_once: share of the refusals that came within FAST.
    """

    goodput: float
    by_importance: dict[str, float]
    others: float
    p99: float
    at_once: float
    unanswered: int


def page(port: int) -> str:
    """Return the policies."""
    principals = "\n".join(
        f"  t{number}: {{plan: all, tenant: t{number}, may: {{endpoints: ['*']}}, keys: ['sha256:{digest}']}}"
        for number in range(TENANTS)
        for digest in [hashlib.sha256(b"sk-govern-%d-0123456789abcdef0123456789" % number).hexdigest()]
    )
    endpoints = "\n".join(
        f"  {name}: {{match: {{path: /{name}}}, authenticate: {{methods: [api_key]}}, importance: {name}, "
        f"timeout: 500ms, send: model}}"
        for name in IMPORTANCES
    )
    return PAGE.format(port=port, principals=principals, endpoints=endpoints)


async def play(scene: Scene, calm: float, surge: float) -> Outcome:
    """Run one scene."""
    kind = KINDS[scene.kind]
    backend = Backend(kind)
    port = await backend.start()
    try:
        with serving(page(port)) as (at, _):
            plan = Plan(kind.capacity, scene.times, calm, surge, scene.flood)
            calls = schedule(plan, Random(7))
            began = asyncio.get_running_loop().time() + 0.1
            backend.surge_at = began + calm
            sent = await fire(at, calls, began)
    finally:
        await backend.stop()
    return judge(scene, kind, sent, calm + SETTLE, calm + surge)


def judge(scene: Scene, kind: Kind, sent: Sequence[Sent], begin: float, end: float) -> Outcome:
    """Count what was due from `begin` to `end`, s."""
    judged = [one for one in sent if begin <= one.due < end]
    good = [one for one in judged if one.status == 200 and one.latency <= PROMISE]
    possible = kind.capacity * (end - begin)
    return Outcome(
        len(good) / possible,
        {name: _share(judged, good, [name]) for name in IMPORTANCES},
        _of(judged, good) if scene.flood else 1.0,
        _p99([one.latency for one in good]),
        _at_once([one.latency for one in judged if one.status in (429, 503)]),
        sum(one.status == 0 for one in judged),
    )


def _share(judged: Sequence[Sent], good: Sequence[Sent], names: Sequence[str]) -> float:
    asked = sum(one.importance in names for one in judged)
    return sum(one.importance in names for one in good) / asked if asked else 1.0


def _of(judged: Sequence[Sent], good: Sequence[Sent]) -> float:
    asked = sum(one.tenant < TENANTS - 1 for one in judged)
    return sum(one.tenant < TENANTS - 1 for one in good) / asked if asked else 1.0


def _at_once(refusals: Sequence[float]) -> float:
    return sum(latency <= FAST for latency in refusals) / len(refusals) if refusals else 1.0


def _p99(seconds: Sequence[float]) -> float:
    ordered = sorted(seconds)
    return ordered[int(0.99 * (len(ordered) - 1))] * 1000 if ordered else 0.0


def measure(scenes: Sequence[Scene], calm: float, surge: float) -> dict[Scene, Outcome]:
    """Play them one after the other."""
    outcomes: dict[Scene, Outcome] = {}
    for scene in scenes:
        outcomes[scene] = asyncio.run(play(scene, calm, surge * FLOOD if scene.flood else surge))
        print(f"{scene}: {outcomes[scene]}", flush=True)
    return outcomes


def report(outcomes: dict[Scene, Outcome], goodput: float = 0.93) -> Report:
    """Table, targets and picture. goodput: least of fixed and batching that is asked for."""
    rows: list[list[Cell]] = [
        [
            str(scene),
            round(one.goodput, 3),
            *(round(one.by_importance[name], 3) for name in IMPORTANCES),
            round(one.others, 3),
            round(one.p99, 1),
            round(one.at_once, 3),
        ]
        for scene, one in outcomes.items()
    ]
    steady = [one for scene, one in outcomes.items() if scene.kind in ("fixed", "batching")]
    targets = [
        Target("goodput, least of fixed and batching", min(one.goodput for one in steady), ">=", goodput),
        Target(
            "critical calls in time, least of fixed and batching",
            min(one.by_importance["critical"] for one in steady),
            ">=",
            0.99,
        ),
        Target(
            "refused within 50 ms, least of fixed and batching from 5 x on",
            min(one.at_once for scene, one in outcomes.items() if one in steady and scene.times >= 5.0),
            ">=",
            0.9,
        ),
        *(
            Target("goodput of one that becomes half as fast", min(slowed), ">=", 0.9)
            for slowed in [[one.goodput for scene, one in outcomes.items() if scene.kind == "slow"]]
            if slowed
        ),
        Target("calls without an answer", sum(one.unanswered for one in outcomes.values()), "<=", 0),
    ]
    floods = [one.others for scene, one in outcomes.items() if scene.flood]
    if floods:
        targets.append(Target("the others in time while one floods", min(floods), ">=", 0.999))
    return Report(
        "Overload on loopback: good answers over what the backend can do",
        "Generator, gateway and backends share the machine; targets leave room for that.",
        ("scene", "goodput", *IMPORTANCES, "others", "p99 ms", "refused at once"),
        rows,
        targets,
        lambda axes: _draw(axes, rows),
    )


def _draw(axes: Axes, rows: list[list[Cell]]) -> None:
    places = range(len(rows))
    for index, label in enumerate(("goodput", *IMPORTANCES)):
        values = [float(row[1 + index] or 0.0) for row in rows]
        axes.barh([place + 0.2 * index for place in places], values, 0.18, label=label)
    axes.set_yticks([place + 0.3 for place in places], [str(row[0]) for row in rows], fontsize=7)
    axes.invert_yaxis()
    axes.set_xlabel("goodput / capacity; share of good answers by importance")
    axes.legend(frameon=False, fontsize=7, ncol=4, loc="lower center", bbox_to_anchor=(0.4, 1.04))


def main(arguments: Sequence[str] | None = None) -> int:
    """Play, print and save."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.govern", description=__doc__.splitlines()[0])
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"of {', '.join(KINDS)}, detection; none: all"
    )
    parser.add_argument("--quick", action="store_true", help="two scenes, ten seconds")
    parser.add_argument("--out", type=Path, default=OUT, help="folder for table and picture")
    options = parser.parse_args(arguments)
    chosen = set(options.names)
    if unknown := chosen - {*KINDS, "detection"}:
        parser.error(f"no such backend: {', '.join(unknown)}; there are {', '.join(KINDS)}, and detection")
    scenes = QUICK if options.quick else [s for s in SCENES if not chosen or s.kind in chosen]
    calm, surge = (1.0, 4.0) if options.quick else (1.5, 6.0)
    goodput = 0.93 if options.quick else 0.98  # three seconds are 300 calls
    made = {"govern": report(measure(scenes, calm, surge), goodput)} if scenes else {}
    if not options.quick and (not chosen or "detection" in chosen):
        made["detection"] = detection.report(asyncio.run(detection.measure()))
    for name, one in made.items():
        one.save(options.out, name)
        print(one.text())
    return 0 if all(target.holds for one in made.values() for target in one.targets) else 1


if __name__ == "__main__":
    sys.exit(main())
