"""What must hold of a play: one function per claim of the gateway, each a row of the table.

Where a bound is a time, the control measurement is added to it: the latest that the crowd's own process woke
up during the run. On a quiet machine that is a few milliseconds; on a busy one the bounds give way by as much
as the clients themselves were late, and the table says so.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from math import inf

from loadtests.scenarios import timetable as at
from loadtests.scenarios.director import Play
from loadtests.scenarios.stage import Sight
from loadtests.scenarios.verdicts import (
    Between,
    Check,
    binomial_interval,
    first,
    granted_bounds,
    percentile,
)
from loadtests.users.record import Answer

CONFIDENCE = 0.999
RELOAD = 1.0  # s from saving to acting
NOTICE = 1.5  # s: the health check every 500 ms, twice, and its time out
FREE = "free plan"
FORCED = "forced to the candidate"
LITE = "pool:digits-lite"


def judge(play: Play) -> list[Check]:
    """Return all rows, in the order of the timetable."""
    return [
        no_client_error(play),
        counted_alike(play),
        free_plan(play, "free plan, 5/s", (0.5, at.EDIT), at.FREE_BEFORE),
        free_plan(play, "free plan, edited to 15/s", (play.events["edit"] + 1.5, at.KILL), at.FREE_AFTER),
        cache_hits(play),
        canary_split(play),
        edit_is_live(play),
        edit_costs_nothing(play),
        mistake_changes_nothing(play),
        kill_costs_nothing(play),
        killed_is_left_alone(play),
        restarted_serves(play),
        breaker_opens(play),
        breaker_closes(play),
        ladder_answers(play),
        nobody_waits_for_ever(play),
        surge_is_cut(play),
    ]


# The whole play


def no_client_error(play: Play) -> Check:
    """Outside the freeze (one instance, no other of its version) nobody sees an error."""
    begin, end = _freeze(play)
    rest = [one for one in play.answers if not begin <= one.sent <= end]
    wrong = [one for one in rest if one.problem]
    return Check(
        "no client error, all answers right",
        f"0 of {len(rest)}",
        f"{len(wrong)}{_examples(wrong)}",
        not wrong and len(rest) > 1000,
    )


def counted_alike(play: Play) -> Check:
    """The gateway's metrics count what the clients counted; the crowd also read the metadata, twice."""
    clients = Counter(one.status for one in play.answers)
    clients[200] += 2
    gateway = Counter({status: number for status, number in play.counted.items() if number})
    return Check(
        "/metrics counts what clients saw", _counts(clients), _counts(gateway), Counter(clients) == gateway
    )


# Calm


def free_plan(play: Play, name: str, window: tuple[float, float], rate: int) -> Check:
    """The share of 429 is what a token bucket does with these arrivals."""
    asked = [one for one in _within(play.answers, *window) if one.user == FREE]
    granted = sum(1 for one in asked if one.status == 200)
    jitter = percentile([one.took for one in asked], 0.99) + 0.02 if asked else 0.0
    low, high = granted_bounds([one.sent for one in asked], rate, at.FREE_BURST, empty=True, jitter=jitter)
    total = max(1, len(asked))
    return Check(
        f"{name}: share of 429",
        f"{1 - high / total:.1%}–{1 - low / total:.1%} of {len(asked)}",
        f"{1 - granted / total:.1%}, {granted} granted",
        low <= granted <= high and granted < len(asked),
    )


def cache_hits(play: Play) -> Check:
    """A dozen tensors in two dialects reach a backend once per version and lifetime."""
    asked = [one for one in _within(play.answers, 0.0, at.CALM_ENDS) if one.user.startswith("repeated")]
    misses = sum(1 for one in asked if one.missed)
    hits = sum(1 for one in asked if one.hit)
    periods = 1 + int(at.CALM_ENDS / at.CACHE_TTL)
    most = at.REPEATED * 2 * periods
    return Check(
        "cache: misses of the repeated dozen",
        f"≤ {most} ({at.REPEATED} tensors × 2 versions), the rest hits",
        f"{misses}; {hits} hits of {len(asked)} ({hits / max(1, len(asked)):.1%})",
        0 < misses <= most and hits + most >= len(asked) and hits > 0,
    )


def canary_split(play: Play) -> Check:
    """A tenth of what nobody asked before goes to the candidate, as often as chance allows.

    Repeated questions don't count: they are answered by the version that knows the answer.
    """
    versions = Counter(one.version for one in chosen(play))
    n, candidate = versions["1"] + versions["2"], versions["2"]
    low, high = binomial_interval(n, at.CANARY_SHARE, CONFIDENCE)
    return Check(
        "canary: share of version 2",
        f"{low / max(1, n):.2%}–{high / max(1, n):.2%} ({CONFIDENCE:.1%} of chance around 10 %)",
        f"{candidate / max(1, n):.2%} of {n}",
        n > 1000 and low <= candidate <= high and set(versions) == {"1", "2"},
    )


def chosen(play: Play) -> list[Answer]:
    """The answers to whose questions the release chose a version by chance, while both versions were well."""
    begin, end = _freeze(play)
    return [
        one
        for one in play.answers
        if one.status == 200
        and one.user != FORCED
        and "fwd=miss" in one.cache
        and not one.degraded
        and not begin <= one.sent <= end
        and not one.user.startswith(("repeated", "surge"))
    ]


# The edited policy


def edit_is_live(play: Play) -> Check:
    """The first answer that names the new rate comes within a second of the save."""
    edit = play.events["edit"]
    live = min(
        (
            one.received
            for one in play.answers
            if one.sent > edit - 1 and one.quota("free-tier") == at.FREE_AFTER
        ),
        default=inf,
    )
    late = [one for one in play.answers if one.sent > live and one.quota("free-tier") == at.FREE_BEFORE]
    return Check(
        "an edited policy is live",
        f"≤ {RELOAD:g} s{_control(play)} after the save, for everybody at once",
        f"{live - edit:.2f} s, {len(late)} old afterwards" if live < inf else "never",
        live - edit <= RELOAD + play.late and not late,
    )


def edit_costs_nothing(play: Play) -> Check:
    """No request fails while policies change three times."""
    asked = list(_within(play.answers, at.EDIT - 0.5, at.KILL))
    wrong = [one for one in asked if one.problem]
    return Check("three edits under load", f"0 failed of {len(asked)}", f"{len(wrong)}", not wrong)


def mistake_changes_nothing(play: Play) -> Check:
    """A file with a mistake is reported with its line and changes nothing; mended, all is well."""
    errors = play.spoilt.get("errors")
    said = str(errors[0]) if isinstance(errors, list) and errors else "nothing"
    during = {
        one.quota("free-tier")
        for one in _within(play.answers, play.events["mistake"], play.events["mend"])
        if one.quota("free-tier") is not None
    }
    ok = play.spoilt.get("ok") is False and "house-rules.yaml:" in said and during == {at.FREE_AFTER}
    return Check(
        "a mistake in a policy",
        "reported with its line; nothing changes; mended within 1 s",
        f"{said.rpartition('/')[2][:60]}…; mended: {play.mended.get('ok')}",
        ok and play.mended.get("ok") is True,
    )


# The killed instance


def kill_costs_nothing(play: Play) -> Check:
    """Nobody sees that one of two instances dies, nor that it comes back."""
    asked = list(_within(play.answers, at.KILL - 0.5, at.FREEZE - 0.5))
    wrong = [one for one in asked if one.problem]
    return Check(
        "kill -9 of one of two instances",
        f"0 failed of {len(asked)}",
        f"{len(wrong)}{_examples(wrong)}",
        not wrong,
    )


def killed_is_left_alone(play: Play) -> Check:
    """Ejection or the health check notices, and calls go elsewhere."""
    kill = play.events["kill"]
    out = _seen(play, kill, lambda sight: (sight.of(play.killed) or {"state": "gone"})["state"] != "up")
    away = out.minus(Between(kill, kill))
    states = {
        str(one["state"])
        for sight in play.sights
        if kill < sight.asked < play.events["restart"] and (one := sight.of(play.killed)) is not None
    }
    return Check(
        "the killed instance is left alone",
        f"≤ {NOTICE:g} s{_control(play)}",
        f"{away} ({', '.join(sorted(states - {'up'})) or 'gone'})",
        away.may_be_within(0.0, NOTICE + play.late),
    )


def restarted_serves(play: Play) -> Check:
    """Once it is in the registry, the new instance gets traffic at once."""
    up = _seen(
        play,
        play.events["restart"],
        lambda sight: (sight.of(play.restarted) or {"state": ""})["state"] == "up",
    )
    served = [one.received for one in play.answers if play.restarted and one.instance == play.restarted]
    if not served or up.low == inf:
        return Check("restarted, traffic returns", "≤ 1 s after it registered", "never", False)
    took = Between(served[0], served[0]).minus(up)
    return Check(
        "restarted, traffic returns",
        f"≤ 1 s{_control(play)} after it registered",
        f"{took}; it started within {up.minus(Between(play.events['restart'], play.events['restart']))}",
        took.low <= 1.0 + play.late,
    )


# The frozen candidate


def breaker_opens(play: Play) -> Check:
    """When the first calls have timed out, a second's worth of them is enough."""
    freeze = play.events["freeze"]
    opened = _opened(play).minus(Between(freeze, freeze))
    low, high = at.PER_TRY - 0.1, at.PER_TRY + 1.5
    return Check(
        "breaker opens after SIGSTOP",
        f"{low:g}–{high:g} s{_control(play)} (one try: {at.PER_TRY:g} s, half of ≥ 10 calls)",
        f"{opened}",
        opened.may_be_within(low, high + play.late),
    )


def breaker_closes(play: Play) -> Check:
    """It stays open for the cool-down, then one probe closes it."""
    opened = _opened(play)
    closed = _closed(play)
    took = closed.minus(opened)
    low, high = at.COOL_DOWN, at.COOL_DOWN * (1 + at.COOL_DOWN_JITTER) + 0.8
    return Check(
        "breaker closes again",
        f"{low:g}–{high:g} s{_control(play)} (cool-down {at.COOL_DOWN:g} s + 10 %, a probe)",
        f"{took}",
        took.may_be_within(low, high + play.late),
    )


def ladder_answers(play: Play) -> Check:
    """While the breaker is open, who insists on the candidate gets the lesser model, and is told."""
    opened, thaw = _opened(play), play.events["thaw"]
    until = max(thaw, opened.high + 1.5)
    asked = [one for one in _within(play.answers, opened.high, until) if one.user == FORCED]
    softened = [one for one in asked if one.status == 200 and one.degraded == LITE]
    return Check(
        "behind the open breaker: digits-lite",
        "every answer 200 with x-degraded",
        f"{len(softened)} of {len(asked)}{_examples(one for one in asked if one not in softened)}",
        bool(asked) and len(softened) == len(asked),
    )


def nobody_waits_for_ever(play: Play) -> Check:
    """Whoever was caught by the freeze has an answer when the timeout is over."""
    begin, end = _freeze(play)
    caught = [one for one in play.answers if begin <= one.sent <= end]
    worst = max((one.took for one in caught), default=inf)
    codes = Counter(one.status for one in caught)
    limit = at.TIMEOUT + 0.5
    return Check(
        "caught by the freeze: an answer in time",
        f"≤ {limit:g} s{_control(play)}; 200, 429, 503 or 504",
        f"{worst:.2f} s; {_counts(codes)}",
        worst <= limit + play.late and set(codes) <= {200, 429, 503, 504},
    )


# The surge


def surge_is_cut(play: Play) -> Check:
    """Never more than rate · time + burst, and never fewer: what the endpoint's throttle lets through."""
    asked = [
        one
        for one in _within(play.answers, at.SURGE, at.SURGE_ENDS)
        if one.status and one.policy != "free-tier"
    ]
    granted = sum(1 for one in asked if one.status != 429)
    low, high = granted_bounds(
        [one.sent for one in asked],
        at.ENDPOINT_RATE,
        at.ENDPOINT_BURST,
        empty=False,
        jitter=percentile([one.took for one in asked], 0.99) + 0.02,
    )
    return Check(
        "surge past the endpoint's 200/s",
        f"{low}–{high} granted of {len(asked)}",
        f"{granted}, {len(asked) - granted} throttled",
        low <= granted <= high and granted < len(asked),
    )


# Reading the play


def control_note(play: Play) -> str:
    """What the control measured, in a sentence."""
    late = [late for _, late in play.lateness]
    looks = [after.asked - before.asked for before, after in zip(play.sights, play.sights[1:], strict=False)]
    return (
        f"control: the crowd's own process woke up late by p50 {percentile(late, 0.5) * 1000:.0f} ms, "
        f"p99 {percentile(late, 0.99) * 1000:.0f} ms, at most {play.late * 1000:.0f} ms (added to the bounds "
        f"of times); looks at /instances lie p99 {percentile(looks, 0.99) * 1000:.0f} ms apart"
    )


def _within(answers: Iterable[Answer], begin: float, end: float) -> Iterable[Answer]:
    return (one for one in answers if begin <= one.sent < end)


def _seen(play: Play, since: float, is_so: object) -> Between:
    assert callable(is_so)
    return first(play.sights, is_so, lambda sight: sight.asked, lambda sight: sight.seen, since)


def _breaker(play: Play, sight: Sight) -> str:
    one = sight.of(play.frozen)
    return "" if one is None else str(one["breaker"])


def _opened(play: Play) -> Between:
    return _seen(play, play.events["freeze"], lambda sight: _breaker(play, sight) == "open")


def _closed(play: Play) -> Between:
    opened = _opened(play)
    if opened.low == inf:
        return opened
    return _seen(play, opened.high, lambda sight: _breaker(play, sight) == "closed")


def _freeze(play: Play) -> tuple[float, float]:
    """From just before the freeze until the breaker is closed again (or the surge begins)."""
    closed = _closed(play).high
    return play.events["freeze"] - 0.3, closed + 0.2 if closed < inf else at.SURGE


def _control(play: Play) -> str:
    return f" + {play.late:.2f} s" if play.late >= 0.005 else ""


def _counts(counter: Counter[int]) -> str:
    return ", ".join(f"{status}: {number}" for status, number in sorted(counter.items()))


def _examples(wrong: Iterable[Answer]) -> str:
    kinds = Counter(f"{one.status} {one.problem or one.degraded or one.reason}"[:80] for one in wrong)
    return "".join(f"; {number}× {kind}" for kind, number in kinds.most_common(3))
