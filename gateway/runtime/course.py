"""One release as the process sees it that decides: its course, its evidence, and what it stands between.

A course outlives reloads and restarts. It starts anew when its words mean another candidate than before (a
newer version came): then the last promoted one is what stable means, until the policies say otherwise. While
both words mean the same version, nothing is being released, and the course rests.
"""

from __future__ import annotations

from collections.abc import Mapping

from gateway.filters.release import ReleaseFilter
from gateway.governance.judge import Judge, Verdict
from gateway.governance.ramp import Change, Facts, Phase, Ramp
from gateway.pipeline.releases import Arms, Gathered, Told


class Course:
    """The state of one release. between: stable and candidate as they were at its beginning."""

    def __init__(self, filter: ReleaseFilter, now: float) -> None:
        """now: s since the epoch."""
        self.filter = filter
        self.ramp = Ramp(filter.live.plan, now)
        self.epoch = 0
        self.base = ""
        self.between = ("", "")
        self.written = ""
        self.wanted = 0
        self.told = filter.live.told
        self.changed = False  # something that must be kept
        self.flip: Told | None = None  # what follows when all workers hold
        self.flip_by = 0.0
        self.heard: set[int] = set()  # workers
        self.is_ready = False  # blue_green
        self._start_anew()

    def _start_anew(self) -> None:
        criteria = self.filter.live.criteria
        self.judge: Judge | None = criteria.judge() if criteria.exist else None
        self.verdict: Verdict | None = None
        self.requests = [0, 0]
        self.errors = [0, 0]
        self.pairs = 0
        self.fallbacks = 0
        self.last = ""

    def forget(self) -> None:
        """Let the evidence start anew; what is still on its way counts no more."""
        self.epoch += 1
        self._start_anew()
        self.changed = True

    def follow(self, filter: ReleaseFilter) -> None:
        """The policies were read again: keep the course, judge by what is written now."""
        before, self.filter = self.filter, filter
        if filter.live.plan != self.ramp.plan:
            self.ramp.replan(filter.live.plan)
            self.changed = True
        if filter.live.criteria != before.live.criteria:
            self.forget()

    def gather(self, one: Gathered) -> None:
        """Take in what a process gathered."""
        if one.epoch != self.epoch:
            return
        self.requests = [have + more for have, more in zip(self.requests, one.requests, strict=True)]
        self.errors = [have + more for have, more in zip(self.errors, one.errors, strict=True)]
        self.pairs += one.pairs
        self.fallbacks += one.fallbacks
        self.last = one.last or self.last
        self.ramp.seen += one.requests[1] if self.ramp.weight > 0 else one.pairs
        if self.judge is not None and one.judged:
            self.judge.add(one.judged)
            self.verdict = self.judge.verdict()
        self.changed = True

    def look(self, arms: Arms, now: float, climbs: bool = True) -> Change | None:
        """Move by itself; unless it `climbs`, only as the judge says. now: s since the epoch."""
        if arms.stable == arms.candidate:
            return None
        condemned = self.verdict is not None and self.verdict.take_back
        if not climbs and (not condemned or self.ramp.alarmed):
            return None
        self.wanted = max(self.wanted, arms.members[0], 1)
        rolled = min(1.0, arms.usable[1] / self.wanted)
        if arms.usable[1] and not arms.usable[0]:
            rolled = 1.0
        change = self.ramp.look(Facts(condemned, self.is_ready, round(rolled, 4)), now)
        if change is not None:
            self.changed = True
        return change

    def meets(self, arms: Arms) -> bool:
        """Tell whether the words still mean what they meant; a release that rests means nothing new."""
        if arms.stable == arms.candidate:
            return True
        return self.between in (("", ""), (arms.stable, arms.candidate))

    def begin_between(self, arms: Arms) -> None:
        """Remember what is being released."""
        if arms.stable != arms.candidate and self.between == ("", ""):
            self.between = (arms.stable, arms.candidate)

    def renew(self, now: float) -> None:
        """Another candidate is there: the course begins, from what was promoted last."""
        candidate = self.between[1]
        if self.ramp.phase is Phase.PROMOTED and candidate:
            pool, _, version = candidate.partition(" ")
            self.base = version or pool
        self.ramp = Ramp(self.filter.live.plan, now)
        self.between = ("", "")
        self.wanted = 0
        self.is_ready = False
        self.forget()

    def telling(self, revision: int) -> Told:
        """What every process is to know."""
        over = self.ramp.phase in (Phase.PROMOTED, Phase.ROLLED_BACK)
        live = self.filter.live
        return Told(live.name, live.key, self.epoch, self.ramp.weight, self.base, False, over, revision)

    def numbers(self) -> dict[str, object]:
        """The numbers that decide."""
        shown: dict[str, object] = {
            "requests": {"stable": self.requests[0], "candidate": self.requests[1]},
            "errors": {"stable": self.errors[0], "candidate": self.errors[1]},
            "pairs": self.pairs,
            "fallbacks": self.fallbacks,
        }
        if self.last:
            shown["last_difference"] = self.last
        if self.verdict is not None:
            shown["evidence"] = {name: round(side[2], 3) for name, side in self.verdict.sides.items()}
            shown["bad"] = {name: list(side[:2]) for name, side in self.verdict.sides.items()}
            shown["against"] = round(self.verdict.against, 3)
            shown["needed"] = round(self.verdict.needed, 3)
            shown["judge"] = str(self.verdict)
        return shown

    # Over restarts

    def state(self) -> dict[str, object]:
        """Plain values from which `restore` goes on."""
        judged = None if self.judge is None else self.judge.state()
        return {
            "key": list(self.filter.live.key),
            "criteria": repr(self.filter.live.criteria),
            "between": list(self.between),
            "written": self.written,
            "wanted": self.wanted,
            "base": self.base,
            "epoch": self.epoch,
            "ramp": self.ramp.state(),
            "requests": self.requests,
            "errors": self.errors,
            "pairs": self.pairs,
            "fallbacks": self.fallbacks,
            "judged": judged,
        }

    def restore(self, kept: Mapping[str, object], now: float, anew: bool = True) -> None:
        """Go on where a former process stopped. Raises ValueError: kept makes no sense, or is of another
        release.

        anew: what is still on its way counts no more; else another gateway goes on at this very moment.
        """
        match kept:
            case {
                "key": [str(), str(), str()] as key,
                "between": [str(stable), str(candidate)],
                "written": str(written),
                "wanted": int(wanted),
                "base": str(base),
                "epoch": int(epoch),
                "ramp": dict() as ramp,
                "requests": [int(), int()] as requests,
                "errors": [int(), int()] as errors,
                "pairs": int(pairs),
                "fallbacks": int(fallbacks),
            }:
                if tuple(key) != self.filter.live.key:
                    raise ValueError("it is of another release")
                self.ramp = Ramp.restored(self.filter.live.plan, ramp, now)
                self.between, self.written = (stable, candidate), written
                self.base, self.epoch, self.wanted = base, epoch + anew, wanted
                judged = kept.get("judged")
                self._start_anew()
                if kept.get("criteria") == repr(self.filter.live.criteria):
                    self.requests, self.errors = list(requests), list(errors)
                    self.pairs, self.fallbacks = pairs, fallbacks
                    if self.judge is not None and isinstance(judged, dict):
                        self.judge.add(judged)
                        self.verdict = self.judge.verdict()
            case _:
                raise ValueError("it is damaged")

    def __repr__(self) -> str:
        return f"<Course {self.filter.live.name} | {self.ramp!r}>"
