"""What a request says about its arm, and when it says nothing."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.config.units import Duration, Factor, Ratio
from gateway.filters import cache, degrade
from gateway.filters.release import KIND, ReleaseFilter
from gateway.filters.release_terms import JudgeBy, Predictions, Release
from gateway.pipeline.errors import UpstreamReset
from gateway.pipeline.gateway import Gateway
from gateway.pipeline.mirroring import Mirrors
from gateway.pipeline.releases import Gathered
from tests.fakes.traffic import FakeCall, Sent, Traffic

JUDGE = JudgeBy(latency_p99=Factor(1.2))


class Judged(Traffic):
    """Two versions and a release with a judge. weight: the candidate's share."""

    def __init__(self, weight: float | None = 0.0, **settings: Any) -> None:
        super().__init__(
            {"v1": 1, "v2": 1, "lite": 1}, versions={"1": "v1", "2": "v2"}, labels={"stable": "1"}
        )
        gateway = Gateway(
            self._snapshot(),
            upstream=self.upstream,
            clock=self.clock,
            timers=self.timers,
            ids=self.ids,
            signatures=self.parts.signatures,
            observer=self.observer,
            pressure=self.parts.pressure,
        )
        self.parts.mirrors = Mirrors(gateway)
        settings.setdefault("judge", JUDGE)
        (made,) = self.use(KIND, Release(weight=None if weight is None else Ratio(weight), **settings))
        assert isinstance(made, ReleaseFilter)
        self.release = made

    def one(self, status: int = 200, body: bytes = b'{"predictions":[1]}') -> Sent:
        before = len(self.upstream.calls)
        sent = self.send()
        for call in self.upstream.calls[before:]:
            call.answer(body, status=status)
        return sent

    @property
    def gathered(self) -> Gathered:
        found = self.release.live.take()
        assert found is not None
        return found

    @property
    def copy(self) -> FakeCall:
        (call,) = [one for one in self.upstream.calls if one.request.header(b"x-headgate-mirror")]
        return call


@pytest.mark.parametrize(
    ("status", "metric"),
    [(200, None), (404, "rejections"), (500, "errors"), (503, "errors")],
)
@pytest.mark.parametrize("weight", [0.0, 1.0], ids=["stable", "candidate"])
def test_an_answer_counts_for_its_arm(status: int, metric: str | None, weight: float) -> None:
    traffic = Judged(weight)
    traffic.one(status)
    found = traffic.gathered
    arm = int(weight)
    assert found.requests[arm] == 1
    assert found.errors[arm] == (metric == "errors")
    assert {name for name, side in found.judged.items() if side[0] or side[1]} == ({metric} - {None})


def test_a_failed_call_is_the_arms_fault() -> None:
    traffic = Judged(1.0)
    traffic.send()
    traffic.upstream.calls[0].fail(UpstreamReset("gone"))
    assert traffic.gathered.errors == (0, 1)


def test_our_own_capacity_is_nobodys_fault() -> None:
    traffic = Judged(1.0)
    traffic.pools["v2"].in_flight = 10**9
    sent = traffic.send()
    traffic.clock.advance(61.0)
    traffic.timers.fire()
    assert sent.down.status == 503
    assert traffic.release.live.take() is None


def test_a_client_that_left_says_nothing() -> None:
    traffic = Judged(1.0)
    traffic.send().exchange.on_client_gone()
    assert traffic.release.live.take() is None


def test_what_the_cache_answers_is_in_neither_arm() -> None:
    traffic = Judged(1.0)
    traffic.use(cache.KIND, cache.Cache(ttl=Duration(60.0), scope="shared"))
    traffic.one()
    assert traffic.gathered.requests == (0, 1)
    traffic.one()
    assert traffic.release.live.take() is None


def test_a_lesser_answer_hides_the_fault_from_the_client_alone() -> None:
    traffic = Judged(1.0)
    traffic.use(degrade.KIND, degrade.Degrade((degrade.Step(pool="lite"),)))
    traffic.send()
    traffic.upstream.calls[0].fail(UpstreamReset("gone"))
    traffic.upstream.calls[1].answer()
    assert traffic.gathered.errors == (0, 1)


def test_a_candidate_that_was_tried_and_is_away_fails_its_requests() -> None:
    traffic = Judged(1.0)
    traffic.kill("v2")
    traffic.one()
    assert traffic.gathered.errors == (0, 0), "it was never tried: it is still coming up"
    for instance in traffic.pools["v2"].members.instances:
        instance.healthy = True
    traffic.one()
    traffic.kill("v2")
    sent = traffic.one()
    assert sent.ctx.arm == "stable"
    found = traffic.gathered
    assert (found.errors, found.fallbacks, found.requests) == ((0, 1), 1, (0, 2))


def test_what_was_gathered_for_an_older_epoch_is_dropped() -> None:
    traffic = Judged(0.5)
    for _ in range(10):
        traffic.one()
    live = traffic.release.live
    live.heed(live.told._replace(epoch=1))
    assert live.take() is None


def test_nothing_is_watched_when_the_release_is_over_or_has_nothing_to_watch() -> None:
    traffic = Judged(1.0, judge=None)
    traffic.one()
    assert traffic.release.live.take() is None
    judged = Judged(1.0)
    judged.release.live.heed(judged.release.live.told._replace(over=True))
    judged.one()
    assert judged.release.live.take() is None


def test_requests_wait_while_a_flip_is_on_its_way() -> None:
    traffic = Judged(kind="canary")
    live = traffic.release.live
    live.heed(live.told._replace(holding=True))
    waiting = [traffic.send() for _ in range(3)]
    assert traffic.upstream.calls == []
    live.heed(live.told._replace(holding=False, weight=1.0))
    assert [sent.ctx.version for sent in waiting] == ["2", "2", "2"]
    assert len(traffic.upstream.calls) == 3


PAIRS = JudgeBy(predictions=Predictions(sample=Ratio(1.0)))


@pytest.mark.parametrize(
    ("body", "status", "why"),
    [
        (b'{"predictions":[1]}', 200, ""),
        (b'{"predictions":[2]}', 200, "values apart"),
        (b'{"predictions":[1, 1]}', 200, "shape"),
        (b"nonsense", 200, "can't be read"),
        (b"{}", 500, "status 200 became 500"),
    ],
    ids=["equal", "moved", "shape", "unreadable", "status"],
)
def test_a_pair_is_compared_in_the_clients_dialect(body: bytes, status: int, why: str) -> None:
    traffic = Judged(judge=PAIRS)
    traffic.send()
    traffic.upstream.calls[0].answer(b'{"predictions":[1]}')
    assert traffic.copy.request.header(b"x-headgate-mirror") == b"1"
    traffic.copy.answer(body, status=status)
    found = traffic.gathered
    assert found.pairs == 1
    assert why in found.last
    assert found.judged["predictions"][0] == bool(why)


def test_of_stables_requests_only_the_sample_is_put_to_the_candidate() -> None:
    traffic = Judged(judge=JudgeBy(predictions=Predictions(sample=Ratio(0.2))))
    for _ in range(200):
        before = len(traffic.upstream.calls)
        traffic.send()
        traffic.upstream.calls[before].answer(b'{"predictions":[1]}')
        for copy in traffic.upstream.calls[before + 1 :]:
            copy.answer(b'{"predictions":[1]}')
    assert 15 <= traffic.gathered.pairs <= 70  # 40, give or take 4.4 standard deviations


def test_what_stable_could_not_answer_is_not_compared() -> None:
    traffic = Judged(judge=PAIRS)
    traffic.one(500)
    assert len(traffic.upstream.calls) == 1


@pytest.mark.parametrize(
    ("settings", "wrong"),
    [
        ({"weight": Ratio(0.1), "ramp": (Ratio(0.1), Ratio(1.0))}, "a weight or a ramp"),
        ({"ramp": (Ratio(0.5), Ratio(0.1))}, "larger than the one before"),
        ({"kind": "blue_green", "weight": Ratio(0.1)}, "follows the candidate's instances"),
        ({"stable": "1", "candidate": "1"}, "other than stable"),
    ],
    ids=["both", "descending", "blue_green", "same"],
)
def test_what_a_release_can_t_be(settings: dict[str, Any], wrong: str) -> None:
    assert any(wrong in text for text in Release(**settings).check())
