"""The scenario's users: who asks what, how often and from when to when (timetable.py has the numbers).

A locustfile; `python -m loadtests.scenarios` runs it headless. HEADGATE_LOAD_START is the start's instant of
the monotonic clock, HEADGATE_LOAD_LATENESS the file for the control measurement: how late this very process
wakes up, every 50 ms. A client that is late by itself must not be mistaken for a gateway that is.
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
from pathlib import Path
from typing import ClassVar

import gevent
import numpy as np
from locust import events
from locust.env import Environment
from locust.exception import StopUser

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # locust runs this file as a script

from loadtests.scenarios import timetable
from loadtests.scenarios.timetable import Part
from loadtests.users.http import Predictor
from loadtests.users.tensors import Batch

START = float(os.environ.get("HEADGATE_LOAD_START") or time.monotonic())
TICK = 0.05  # s between two looks at the clock


class Member(Predictor):
    """A user that keeps the timetable: one request per period, each at its own instant, none made up for."""

    abstract = True
    part: ClassVar[Part]
    key: ClassVar[str] = "demo-pro"
    fresh: ClassVar[bool] = True

    def on_start(self) -> None:
        """Learn the model at once, ask when it is time."""
        super().on_start()
        self._next = START + self.part.begins + random.random() * self.part.period
        gevent.sleep(max(0.0, self._next - time.monotonic()))

    def wait_time(self) -> float:
        """Until the next instant that is not past; the end of the part ends the user."""
        now = time.monotonic()
        while self._next <= now:
            self._next += self.part.period
        if self._next >= START + self.part.ends:
            raise StopUser
        return self._next - now

    def headers(self) -> dict[str, str]:
        """As the principal of this part."""
        return {**super().headers(), "X-API-Key": self.key}

    def batch(self) -> Batch:
        """A digit: one that nobody asked before, or one of a dozen."""
        assert self.records is not None
        if self.fresh:
            return self.records.draw(1, self.rng, noise=0.001)
        chosen = np.random.default_rng(int(self.rng.integers(timetable.REPEATED)))
        return self.records.draw(1, chosen, noise=0.001)


class FreeUser(Member):
    """Asks four times as often as its plan allows."""

    dialect = "tensorflow-serving"
    label = "free plan"
    part = timetable.FREE
    fixed_count = part.users
    key = "demo-free"


class FreshTensorFlowUser(Member):
    """Never asks the same twice."""

    dialect = "tensorflow-serving"
    label = "fresh, TensorFlow Serving"
    part = timetable.FRESH
    fixed_count = part.users


class FreshKServeUser(Member):
    """Never asks the same twice."""

    dialect = "kserve-v2"
    label = "fresh, KServe V2"
    part = timetable.FRESH
    fixed_count = part.users


class RepeatTensorFlowUser(Member):
    """Asks for the same dozen tensors as the other dialect's repeaters."""

    dialect = "tensorflow-serving"
    label = "repeated, TensorFlow Serving"
    part = timetable.REPEAT
    fixed_count = part.users
    fresh = False


class RepeatKServeUser(Member):
    """Asks for the same dozen tensors as the other dialect's repeaters."""

    dialect = "kserve-v2"
    label = "repeated, KServe V2"
    part = timetable.REPEAT
    fixed_count = part.users
    fresh = False


class ForcedUser(Member):
    """Insists on the candidate while it is frozen."""

    dialect = "kserve-v2"
    label = "forced to the candidate"
    part = timetable.FORCED
    fixed_count = part.users

    def headers(self) -> dict[str, str]:
        """With the override header."""
        return {**super().headers(), "x-headgate-send": "canary"}


class SurgeUser(Member):
    """One of a crowd that comes all at once."""

    dialect = "tensorflow-serving"
    label = "surge"
    part = timetable.CROWD
    fixed_count = part.users
    fresh = False


# The control measurement


@events.init.add_listener
def watch_lateness(environment: Environment, **_: object) -> None:
    """Note how late a sleep of TICK ends, in this process, on this machine, during this run."""
    target = os.environ.get("HEADGATE_LOAD_LATENESS")
    if not target:
        return
    late: list[tuple[float, float]] = []

    def look() -> None:
        while True:
            due = time.monotonic() + TICK
            gevent.sleep(TICK)
            now = time.monotonic()
            late.append((round(now - START, 3), round(now - due, 4)))

    gevent.spawn(look)
    events.quitting.add_listener(lambda **_: Path(target).write_text(json.dumps(late)))
