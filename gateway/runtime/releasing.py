"""Who decides on releases: once per host, some times a second, for all of its workers.

    processes gather ──► evidence adds up ──► the course moves ──► all are told the weight
                                                       └──► state file, event log, metrics

What the judge did stands beside the policies, never in them: it is kept over reloads, restarts and crashes,
shown by `headgate releases` and `headgate diff`, and ends when the policies name another candidate. A step is
told first and written down at once after; evidence is written every `KEEP` seconds, so that a crash costs a
few seconds of it and no decision.

Several gateways over one Redis are one, too (circle.py): their leader decides, the others follow.

A blue-green flip over several workers is told twice: hold, until all have heard it or `hold` is over, then
the weight. No request is answered by the old version after another one was by the new.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final

import orjson
from prometheus_client.core import CounterMetricFamily, Metric

from gateway.admin.views import View
from gateway.filters.release import ReleaseFilter
from gateway.filters.release_terms import Sample
from gateway.governance.ramp import Act, Change, Impossible
from gateway.pipeline.chain import Chosen
from gateway.pipeline.pool import Instance
from gateway.pipeline.ports import Clock
from gateway.pipeline.releases import ALARMS, Arms, Drifted, Gathered, Releases, Told
from gateway.pipeline.snapshot import Snapshot
from gateway.runtime.circle import SYNC, Asked, Circle
from gateway.runtime.course import Course
from gateway.runtime.release_file import ReleaseFile, State
from gateway.telemetry.metrics import gauge

LOOK: Final = 0.1  # s between two looks
KEEP: Final = 5.0  # s between two writings of the evidence
LOST: Final = 120  # releases that are kept though no policy names them any more
AGAIN: Final = 2.0  # s between two samples of a candidate that was not ready

log = logging.getLogger("headgate.releases")

Ask = Callable[[Instance, Sample], Awaitable[bool]]


class Releasing:
    """The releases of one host.

    book: this process's, where requests or builds happen. tell: passes on to other processes. workers: the
    numbers of those that must hear of a flip. ask: puts the sample to an instance. circle: of the gateways
    that release together.
    """

    def __init__(
        self,
        file: ReleaseFile,
        book: Releases,
        clock: Clock,
        ask: Ask,
        tell: Callable[[Told], None] | None = None,
        workers: Callable[[], frozenset[int]] = frozenset,
        circle: Circle | None = None,
    ) -> None:
        self._file = file
        self._book = book
        self._clock = clock
        self._ask = ask
        self._tell = tell
        self._workers = workers
        self._circle = circle
        self._meets_at = 0.0
        self._kept: State = file.load()
        self._courses: dict[str, Course] = {}
        self._events: list[dict[str, object]] = []
        self._drifts: deque[View] = deque(maxlen=ALARMS)
        self._verdicts: dict[tuple[str, str], int] = {}
        self._revision = 0
        self._saved_at = 0.0
        self._asking: dict[str, asyncio.Task[None]] = {}

    # What the policies say

    def adopt(self, snapshot: Snapshot) -> None:
        """Follow these policies; called before a request meets them."""
        now = self._clock.wall()
        before, self._courses = self._courses, {}
        for filter in releases_of(snapshot):
            name = filter.live.name
            course = before.pop(name, None)
            if course is not None and course.filter.live.key == filter.live.key:
                course.follow(filter)
            else:
                course = self._begin(filter, now)
            self._courses[name] = course
            self._publish(course)
        for name, course in before.items():
            self._kept[name] = course.state()
        while len(self._kept) > LOST:
            self._kept.pop(next(iter(self._kept)))

    def _begin(self, filter: ReleaseFilter, now: float) -> Course:
        course = Course(filter, now)
        kept = self._kept.pop(filter.live.name, None)
        if kept is not None:
            try:
                course.restore(kept, now)
            except ValueError as wrong:
                log.warning("release %s starts anew: %s", filter.live.name, wrong)
                course = Course(filter, now)
                course.epoch += 1
        return course

    # What processes say

    def gather(self, gathered: Iterable[Gathered]) -> None:
        """Take in what a process of this host gathered, or hand it to who decides."""
        found = list(gathered)
        circle = self._circle
        if circle is not None and not circle.leads and found:
            circle.gathered(found)
        if circle is None or circle.leads or circle.is_alone:
            self._count(found)

    def _count(self, gathered: Iterable[Gathered]) -> None:
        for one in gathered:
            course = self._courses.get(one.name)
            if course is not None:
                course.gather(one)

    def drifted(self, alarms: Iterable[Drifted]) -> None:
        """Write down what `drift` found in a process of this host."""
        for one in alarms:
            event = {"time": round(self._clock.wall(), 3), "event": "drift", "by": "drift", **one._asdict()}
            self._drifts.append(event)
            self._events.append(event)
            self._saved_at = 0.0

    def drifts(self) -> list[View]:
        """The last alarms of `drift` since this process started, the oldest first."""
        return list(self._drifts)

    def heard(self, worker: int, name: str, revision: int) -> None:
        """A worker holds its requests."""
        course = self._courses.get(name)
        if course is not None and revision == course.told.revision:
            course.heard.add(worker)

    def telling(self) -> list[Told]:
        """What a new process must know."""
        return [course.told for course in self._courses.values()]

    # Looking

    async def run(self) -> None:
        """Look for ever."""
        while True:
            await asyncio.sleep(LOOK)
            await self.meet()
            self.look()
            if self._circle is not None:
                await self._circle.decide({name: one.state() for name, one in self._courses.items()})
            await self._keep()

    # With other gateways

    async def meet(self) -> None:
        """Hear what the other gateways say, now and then."""
        circle, now = self._circle, self._clock.now()
        if circle is None or now < self._meets_at:
            return
        self._meets_at = now + SYNC
        led = circle.leads
        news = await circle.meet()
        if circle.leads and not led:
            log.info("this gateway decides on releases now")
        for name, kept in (news.releases or {}).items():
            self._take_over(name, kept)
        self._count(news.gathered)
        for one in news.asked:
            self._do_too(one)

    def _take_over(self, name: str, kept: Mapping[str, object]) -> None:
        """Stand where the one who decides stands."""
        course = self._courses.get(name)
        if course is None:
            self._kept[name] = dict(kept)
            return
        before = course.ramp.phase, course.ramp.weight, course.epoch, course.base
        try:
            course.restore(kept, self._clock.wall(), anew=False)
        except ValueError as wrong:
            log.debug("release %s is another one elsewhere: %s", name, wrong)
            return
        course.changed = True
        if (course.ramp.phase, course.ramp.weight, course.epoch, course.base) != before:
            log.info("release %s is %s at %g elsewhere", name, course.ramp.phase.value, course.ramp.weight)
            self._spread(course, course.ramp.weight)

    def _do_too(self, asked: Asked) -> None:
        """Do what was done at another gateway, if it is still about the same and can be done."""
        course = self._courses.get(asked.release)
        if course is None or asked.between != course.between:
            return
        try:
            change = course.ramp.do(Act(asked.act), self._clock.wall())
        except (Impossible, ValueError) as wrong:
            log.info("release %s: what another gateway asked for is over: %s", asked.release, wrong)
            return
        self._moved(course, change, asked.by)

    def look(self) -> None:
        """Let every course move that can."""
        wall, now = self._clock.wall(), self._clock.now()
        self.drifted(self._book.take_drifted())
        for course in self._courses.values():
            self.gather(filter(None, [course.filter.live.take()]))
            if course.flip is not None:
                self._flip(course, now)
                continue
            arms = course.filter.arms(now)
            if self._circle is not None and not self._circle.leads:
                self._look_alone(course, arms, wall)
                continue
            if course.written and arms.written != course.written and course.base:
                course.base = ""  # the policies moved stable: what they say holds again
                self._publish(course)
                arms = course.filter.arms(now)
            course.written = arms.written
            if not course.meets(arms):
                course.renew(wall)
                self._publish(course)
                arms = course.filter.arms(now)
                course.begin_between(arms)
                self._event(course, "started", f"{arms.stable} -> {arms.candidate}")
            course.begin_between(arms)
            self._check_ready(course, now)
            change = course.look(arms, wall)
            if change is not None:
                by = "judge" if change.act in (Act.HOLD, Act.ALARM, Act.ROLL_BACK) else "ramp"
                self._moved(course, change, by)

    def _look_alone(self, course: Course, arms: Arms, wall: float) -> None:
        """Another gateway decides; while nobody can be asked, take back what is bad and do no more."""
        circle = self._circle
        if circle is None or not circle.is_alone or not course.meets(arms):
            return
        course.begin_between(arms)
        change = course.look(arms, wall, climbs=False)
        if change is not None:
            self._moved(course, change, "judge")
            if change.act is not Act.ALARM:
                act = Act.ROLL_BACK if change.act is Act.ROLL_BACK else Act.PAUSE
                circle.asked(Asked(course.filter.live.name, act.value, "judge", course.between))

    def _moved(self, course: Course, change: Change, by: str) -> None:
        self._event(course, change.act.value, by)
        if by == "judge":
            key = (course.filter.live.name, change.act.value)
            self._verdicts[key] = self._verdicts.get(key, 0) + 1
        if change.anew:
            course.forget()
        self._spread(course, change.weight)

    def _spread(self, course: Course, weight: float) -> None:
        """Tell every process; of a blue-green flip twice."""
        both = self._workers()
        if course.filter.live.plan.kind == "blue_green" and weight != course.told.weight and both:
            self._revision += 1
            course.told = course.told._replace(holding=True, revision=self._revision)
            course.flip = course.telling(self._revision)
            course.flip_by = self._clock.now() + course.filter.rule.value.hold
            course.heard.clear()
            self._send(course)
        else:
            self._publish(course)

    def _flip(self, course: Course, now: float) -> None:
        """All hold, or it lasts too long: tell the weight."""
        if now >= course.flip_by or course.heard >= self._workers():
            course.flip = None
            self._publish(course)

    def _publish(self, course: Course) -> None:
        self._revision += 1
        course.flip = None
        course.told = course.telling(self._revision)
        self._send(course)

    def _send(self, course: Course) -> None:
        self._book.heed(course.told, course.filter.live)
        if self._tell is not None:
            self._tell(course.told)

    # Whether a candidate is ready

    def _check_ready(self, course: Course, now: float) -> None:
        live = course.filter.live
        if live.plan.kind != "blue_green" or live.told.over or course.is_ready or live.name in self._asking:
            return
        wanted = course.filter.rule.value.ready
        usable = [i for i in course.filter.candidates().members.instances if i.usable(now)]
        if len(usable) < wanted.instances:
            return
        if wanted.sample is None:
            course.is_ready = True
            return
        task = asyncio.get_running_loop().create_task(self._sample(course, usable, wanted.sample))
        self._asking[live.name] = task

    async def _sample(self, course: Course, instances: list[Instance], sample: Sample) -> None:
        try:
            epoch = course.epoch
            answers = await asyncio.gather(*(self._ask(one, sample) for one in instances))
            if all(answers) and course.epoch == epoch:
                course.is_ready = True
            else:
                await asyncio.sleep(AGAIN)
        finally:
            self._asking.pop(course.filter.live.name, None)

    # By hand

    def act(self, name: str, act: Act) -> View:
        """Move a release by hand. Raises KeyError (no such release) and Impossible."""
        course = self._find(name)
        change = course.ramp.do(act, self._clock.wall())
        course.changed = True
        self._moved(course, change, "hand")
        if self._circle is not None and not self._circle.leads:
            self._circle.asked(Asked(course.filter.live.name, act.value, "hand", course.between))
        self._saved_at = 0.0
        return self._view(course)

    def _find(self, name: str) -> Course:
        """By its name, or by its policy's or endpoint's, where that is only one."""
        known = self._courses.get(name)
        if known is not None:
            return known
        found = [one for full, one in self._courses.items() if name in full.split("@")]
        if len(found) != 1:
            raise KeyError(f"there is no release '{name}'; there are: {', '.join(self._courses) or 'none'}")
        return found[0]

    # Being seen

    def views(self) -> list[View]:
        """Every release."""
        return [self._view(course) for course in self._courses.values()]

    def _view(self, course: Course) -> View:
        live, ramp = course.filter.live, course.ramp
        arms = course.filter.arms(self._clock.now())
        resting = arms.stable == arms.candidate
        return {
            "name": live.name,
            "endpoint": live.endpoint,
            "kind": live.plan.kind,
            "stable": arms.stable,
            "candidate": arms.candidate,
            "phase": "resting" if resting else ramp.phase.value,
            "weight": round(course.told.weight, 4),
            "step": ramp.step,
            "steps": list(live.plan.steps),
            "since": round(ramp.since, 3),
            "seen": ramp.seen,
            "can": [] if resting else ramp.open_to(),
            "decided": "here" if self._circle is None else self._circle.role,
            **course.numbers(),
        }

    def _event(self, course: Course, what: str, by: str) -> None:
        stable, candidate = course.between
        event: dict[str, object] = {
            "time": round(self._clock.wall(), 3),
            "release": course.filter.live.name,
            "event": what,
            "by": by,
            "stable": stable,
            "candidate": candidate,
            "phase": course.ramp.phase.value,
            "step": course.ramp.step,
            "weight": round(course.ramp.weight, 4),
            **course.numbers(),
        }
        course.changed = True
        self._saved_at = 0.0
        self._events.append(event)
        severe = what in ("rollback", "hold", "alarm")
        log.log(logging.WARNING if severe else logging.INFO, "release %s", orjson.dumps(event).decode())

    def metrics(self) -> Iterator[Metric]:
        """Weight, step, evidence, verdicts, requests."""
        courses = self._courses
        yield gauge(
            "headgate_release_weight",
            "The candidate's share of the requests.",
            ("release",),
            {(name,): one.told.weight for name, one in courses.items()},
        )
        yield gauge(
            "headgate_release_step",
            "Index of the ramp's step.",
            ("release",),
            {(name,): float(one.ramp.step) for name, one in courses.items()},
        )
        yield gauge(
            "headgate_release_evidence",
            "Evidence against the candidate as a share of what would condemn it (logarithms).",
            ("release", "metric"),
            {
                (name, metric): value / one.verdict.needed
                for name, one in courses.items()
                if one.verdict is not None
                for metric, value in [
                    *((metric, side[2]) for metric, side in one.verdict.sides.items()),
                    ("all", one.verdict.against),
                ]
            },
        )
        verdicts = CounterMetricFamily(
            "headgate_release_verdicts", "What the judge made of releases.", labels=("release", "verdict")
        )
        for key, number in sorted(self._verdicts.items()):
            verdicts.add_metric(key, number)
        yield verdicts

    # Keeping

    async def _keep(self) -> None:
        """Write what changed: events at once, evidence now and then."""
        now = self._clock.now()
        if self._saved_at and now - self._saved_at < KEEP:
            return
        if not self._events and not any(course.changed for course in self._courses.values()):
            return
        await asyncio.to_thread(self._file.save, *self._taken(now))

    def _taken(self, now: float) -> tuple[State, list[dict[str, object]]]:
        events, self._events = self._events, []
        self._saved_at = now
        for course in self._courses.values():
            course.changed = False
        state = {name: one.state() for name, one in self._courses.items()}
        return {**self._kept, **state}, events

    async def close(self) -> None:
        """Write the last of it."""
        for task in tuple(self._asking.values()):
            task.cancel()
        if self._events or any(course.changed for course in self._courses.values()):
            await asyncio.to_thread(self._file.save, *self._taken(self._clock.now()))


def releases_of(snapshot: Snapshot) -> Iterator[ReleaseFilter]:
    """Every release that acts; those that only rehearse decide nothing."""
    for endpoint in snapshot.endpoints.values():
        for filter in endpoint.chain.filters:
            candidates = [one for _, one in filter.candidates] if isinstance(filter, Chosen) else [filter]
            for one in candidates:
                if isinstance(one, ReleaseFilter):
                    yield one


def catch_up(snapshot: Snapshot, book: Releases) -> None:
    """Let the releases of new policies do as was told, before a request meets them."""
    for one in releases_of(snapshot):
        told = book.told.get(one.live.name)
        if told is not None and told.key == one.live.key:
            one.live.heed(told)


def aside(work: Callable[[], None]) -> None:
    """Run a comparison in a thread: some milliseconds that no request should wait for."""
    asyncio.get_running_loop().run_in_executor(None, work)


def read_act(word: str) -> Act:
    """Read what a person may do. Raises KeyError."""
    return {act.value: act for act in (Act.PROMOTE, Act.ROLL_BACK, Act.PAUSE, Act.RESUME)}[word]


def state_file(folder: Path, setting: str) -> ReleaseFile:
    """The file that `stores.releases` names; `memory`: none."""
    return ReleaseFile(None if setting == "memory" else folder / setting)
