"""Runs the play: starts the demo and the crowd, does to them what the timetable says, and writes down when.

Nothing is judged here. The result is a `Play`: the answers that the clients saw, the looks at /instances, the
instants of the events, and the control measurements.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from loadtests.scenarios import timetable
from loadtests.scenarios.stage import ROOT, Member, Sight, Stage, StageError, Watch
from loadtests.users.record import Answer, read

LEAD = 7.0  # s for locust to start its users


@dataclass(slots=True)
class Play:
    """What happened. All instants are seconds after the start."""

    answers: list[Answer] = field(default_factory=list)
    sights: list[Sight] = field(default_factory=list)
    events: dict[str, float] = field(default_factory=dict)  # name -> when
    killed: str = ""  # instance ids
    restarted: str = ""
    frozen: str = ""
    spoilt: dict[str, object] = field(default_factory=dict)  # last_reload after the mistake
    mended: dict[str, object] = field(default_factory=dict)
    counted: dict[int, int] = field(default_factory=dict)  # by the gateway's own metrics, during the play
    lateness: list[tuple[float, float]] = field(default_factory=list)  # when, s late: of the crowd's process
    demo_start: float = 0.0  # s until the demo was up

    @property
    def late(self) -> float:
        """The control: the latest that the crowd's own process woke up, s."""
        return max((late for _, late in self.lateness), default=0.0)


def perform(folder: Path, say: Callable[[str], None]) -> Play:
    """Run it all in this folder, which keeps the logs and locust's report."""
    play = Play()
    began = time.monotonic()
    with Stage(folder) as stage:
        say("starting the demo on ports of its own, over a copy of policies/")
        stage.wait()
        play.demo_start = time.monotonic() - began
        counted_before = stage.requests_by_status()
        start = time.monotonic() + LEAD
        say(f"it is up at {stage.url}; the crowd of {timetable.USERS} users gathers")
        crowd = _crowd(folder, stage.url, start)
        watch = Watch(stage)
        watch.start()
        try:
            _direct(stage, play, watch, start, say)
            if crowd.wait(timeout=40) not in (0, 1):  # 1: there were failures; the checks say which count
                raise StageError(f"locust failed:\n{(folder / 'locust.log').read_text()[-2000:]}")
        finally:
            watch.stop()
            if crowd.poll() is None:
                crowd.kill()
                crowd.wait()
        for status, number in stage.requests_by_status().items():
            play.counted[status] = number - counted_before.get(status, 0)
    play.answers = sorted(
        (replace(one, sent=one.sent - start) for one in read(folder / "answers.jsonl")), key=_sent
    )
    play.sights = [Sight(one.asked - start, one.seen - start, one.instances) for one in watch.sights]
    play.lateness = [(when, late) for when, late in json.loads((folder / "lateness.json").read_text())]
    return play


def _crowd(folder: Path, url: str, start: float) -> subprocess.Popen[bytes]:
    log = (folder / "locust.log").open("wb")
    seconds = start - time.monotonic() + timetable.END + 1.0
    users = str(timetable.USERS)
    command = [
        *(sys.executable, "-m", "locust", "-f", str(Path(__file__).with_name("crowd.py")), "--host", url),
        *("--headless", "-u", users, "-r", users, "-t", f"{seconds:.0f}s", "--stop-timeout", "3"),
        *("--only-summary", "--html", str(folder / "locust.html"), "--timeout", "10"),
        *("--record", str(folder / "answers.jsonl")),
    ]
    control = {
        "HEADGATE_LOAD_START": repr(start),
        "HEADGATE_LOAD_LATENESS": str(folder / "lateness.json"),
        "PYTHONPATH": str(ROOT),
    }
    try:
        return subprocess.Popen(command, cwd=folder, env={**os.environ, **control}, stdout=log, stderr=log)
    finally:
        log.close()


def _direct(stage: Stage, play: Play, watch: Watch, start: float, say: Callable[[str], None]) -> None:
    """Do what the timetable says, when it says so."""

    def at(when: float, what: str) -> None:
        time.sleep(max(0.0, start + when - time.monotonic()))
        say(f"{when:4.0f} s  {what}")

    def mark(name: str) -> None:
        play.events[name] = time.monotonic() - start

    at(0.0, "calm: both dialects, fresh and repeated tensors, a free user past its plan")
    at(
        timetable.EDIT,
        f"the free plan's line is edited: {timetable.FREE_BEFORE}/s → {timetable.FREE_AFTER}/s",
    )
    stage.set_free_plan(f"{timetable.FREE_AFTER}/s")
    mark("edit")
    at(timetable.BREAK, "a mistake is saved")
    text = stage.spoil()
    mark("mistake")
    time.sleep(1.0)
    play.spoilt = stage.last_reload()
    at(timetable.MEND, "and mended")
    stage.mend(text)
    mark("mend")
    time.sleep(1.0)
    play.mended = stage.last_reload()

    victim, *_ = stage.members("digits-v1")
    frozen, *_ = stage.members("digits-v2")
    play.killed, play.frozen = victim.id, frozen.id
    at(timetable.KILL, f"kill -9 of {victim.id}, one of two instances of version 1")
    stage.kill(victim)
    mark("kill")
    known = {str(one["id"]) for one in stage.instances()} | {victim.id}
    at(timetable.RESTART, "and it is started again")
    stage.restart(victim)
    mark("restart")
    play.restarted = _newcomer(watch, known, start + timetable.FREEZE - 1.0)

    at(timetable.FREEZE, f"{frozen.id}, the candidate, is frozen (SIGSTOP), and clients insist on it")
    stage.freeze(frozen)
    mark("freeze")
    _thaw_when_open(stage, frozen, watch, start)
    mark("thaw")
    say(f"{play.events['thaw']:4.0f} s  and goes on, its breaker open")

    at(timetable.SURGE, f"a surge of {timetable.CROWD.rate:.0f} requests/s more")
    at(timetable.END, "the end")


def _newcomer(watch: Watch, known: set[str], until: float) -> str:
    """Wait for an instance of version 1 that was not there before; "" when none came."""
    while time.monotonic() < until:
        for one in watch.sights[-1].instances if watch.sights else []:
            if one["pool"] == "digits-v1" and one["id"] not in known:
                return str(one["id"])
        time.sleep(0.05)
    return ""


def _thaw_when_open(stage: Stage, frozen: Member, watch: Watch, start: float) -> None:
    """Let it go on as soon as its breaker is open, or when it must, for its lease."""
    while time.monotonic() < start + timetable.THAW_AT_LATEST:
        seen = watch.sights[-1].of(frozen.id) if watch.sights else None
        if seen is not None and seen["breaker"] == "open":
            break
        time.sleep(0.02)
    stage.thaw(frozen)


def _sent(answer: Answer) -> float:
    return answer.sent
