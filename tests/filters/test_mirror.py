"""Mirroring: copies start when the request is over, and nothing that happens to one reaches the client."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from gateway.config.units import Duration, Ratio, Size
from gateway.filters import cache
from gateway.filters.mirror import KIND, Mirror, MirrorFilter
from gateway.http.message import Response
from gateway.pipeline import mirroring
from gateway.pipeline.context import Context
from gateway.pipeline.errors import BodyTooLarge, UpstreamReset, UpstreamTimeout
from gateway.pipeline.gateway import Gateway
from gateway.pipeline.mirroring import Mirrors
from gateway.pipeline.pool import Facts, Pool
from gateway.pipeline.pool_verbs import Concurrency, PoolSettings
from tests.fakes.traffic import FakeCall, Sent, Told, Traffic, instances


class Comparing:
    """Implements mirroring.Judge."""

    def __init__(self) -> None:
        self.pairs: list[tuple[Response, Response]] = []

    def on_pair(self, ctx: Context, primary: Response, mirrored: Response) -> None:
        self.pairs.append((primary, mirrored))


class Mirrored(Traffic):
    """Traffic to `digits-v1` whose copies go to `shadow`."""

    def __init__(self, *, judge: Comparing | None = None, speaks: str = "http", **verb: Any) -> None:
        super().__init__({"digits-v1": 1, "shadow": 1}, speaks="http")
        if speaks != "http":
            self.pools["shadow"] = Pool("shadow", PoolSettings(), self.ids, speaks=speaks)
            self.populate("shadow", 1)
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
        self.parts.mirrors = Mirrors(gateway, judge)
        (made,) = self.use(KIND, Mirror("shadow", **verb))
        assert isinstance(made, MirrorFilter)
        self.mirror = made

    def answered(self, **options: Any) -> Sent:
        """Send a request and answer it."""
        before = len(self.upstream.calls)
        sent = self.send(**options)
        assert len(self.upstream.calls) == before + 1
        self.upstream.calls[before].answer(b'{"predictions":[1]}')
        return sent

    @property
    def copy(self) -> FakeCall:
        (call,) = [call for call in self.upstream.calls if call.request.header(b"x-headgate-mirror")]
        return call

    @property
    def results(self) -> list[str]:
        return [result for _, _, result in self.observer.mirrored]

    def assert_nothing_held(self) -> None:
        assert (self.mirror.allowance.under_way, self.mirror.allowance.held) == (0, 0)
        assert all(pool.in_flight == 0 for pool in self.pools.values())


def test_the_copy_starts_when_the_client_has_its_answer() -> None:
    traffic = Mirrored()
    sent = traffic.send()
    assert len(traffic.upstream.calls) == 1
    traffic.upstream.calls[0].answer(b"primary")
    assert (sent.down.status, sent.down.body) == (200, b"primary")
    copy = traffic.copy
    assert copy.request.header(b"x-headgate-mirror") == b"1"
    assert copy.request.body == instances([[1, 2]])
    copy.answer(b"copy")
    assert traffic.observer.mirrored == [("digits", "shadow", "answered")]
    assert sent.down.body == b"primary"
    traffic.assert_nothing_held()


def test_the_copy_carries_no_credential_and_the_requests_own_id() -> None:
    class Stripping(cache.Filter):
        name = "authenticate"
        place = 25

        def on_request(self, ctx):  # type: ignore[no-untyped-def]
            ctx.credential_field = b"x-api-key"

    traffic = Mirrored()
    traffic.add(Stripping())
    sent = traffic.answered(headers=[(b"x-api-key", b"secret"), (b"x-kept", b"1")])
    names = dict(traffic.copy.request.headers)
    assert b"x-api-key" not in names
    assert names[b"x-kept"] == b"1"
    assert names[b"x-request-id"] == sent.ctx.request_id


@pytest.mark.parametrize(
    ("error", "result"), [(UpstreamReset("x"), "upstream_reset"), (UpstreamTimeout("x"), "upstream_timeout")]
)
def test_a_failing_copy_is_its_own_pools_failure_alone(error: Exception, result: str) -> None:
    traffic = Mirrored()
    sent = traffic.answered()
    traffic.copy.fail(error)  # type: ignore[arg-type]
    assert traffic.results == [result]
    assert sent.ctx.error is None
    (primary,) = traffic.pools["digits-v1"].members.instances
    (shadow,) = traffic.pools["shadow"].members.instances
    assert (primary.failures, shadow.failures) == (0, 1)
    traffic.assert_nothing_held()


def test_a_dead_mirror_pool_costs_nobody_anything() -> None:
    traffic = Mirrored()
    traffic.kill("shadow")
    sent = traffic.answered()
    assert sent.down.status == 200
    assert traffic.results == ["unavailable"]
    traffic.assert_nothing_held()


def test_a_full_mirror_pool_gets_no_more() -> None:
    traffic = Mirrored()
    full = Pool("shadow", PoolSettings(concurrency=Concurrency(limit=5)), traffic.ids)
    full.update([Facts("s", "127.0.0.1", 9000)], 0.0)
    full.in_flight = 4  # of five, a copy may have four fifths: it is the first to go without
    traffic.pools["shadow"] = traffic.mirror._pool = full
    traffic.answered()
    assert traffic.results == ["overloaded"]


def test_more_copies_than_allowed_are_left_out_and_counted() -> None:
    traffic = Mirrored(copies=1)
    traffic.answered()
    traffic.answered()
    assert traffic.results == ["dropped"]
    traffic.copy.answer()
    traffic.answered()
    assert traffic.results == ["dropped", "answered"]
    assert traffic.mirror.allowance.under_way == 1


def test_more_bytes_than_allowed_are_left_out_and_counted() -> None:
    traffic = Mirrored(held=Size(30))
    traffic.answered(body=b"x" * 20)
    traffic.answered(body=b"x" * 20)
    traffic.answered(body=b"x" * 10)
    assert traffic.results == ["dropped"]
    assert (traffic.mirror.allowance.under_way, traffic.mirror.allowance.held) == (2, 30)


def test_a_share_of_the_requests_is_copied() -> None:
    traffic = Mirrored(sample=Ratio(0.1), copies=10_000)
    for _ in range(1000):
        traffic.answered()
    copies = sum(call.request.header(b"x-headgate-mirror") is not None for call in traffic.upstream.calls)
    assert 70 <= copies <= 130


def test_what_no_instance_answered_is_not_copied() -> None:
    traffic = Mirrored()
    traffic.use(cache.KIND, cache.Cache(ttl=Duration(60.0), scope="shared"))
    traffic.send()
    traffic.upstream.calls[0].answer(b'{"predictions":[1]}')
    traffic.send()  # from the cache
    copies = [call for call in traffic.upstream.calls if call.request.header(b"x-headgate-mirror")]
    assert len(copies) == 1


def test_what_failed_is_not_copied() -> None:
    traffic = Mirrored()
    sent = traffic.send()
    traffic.upstream.calls[0].fail()
    assert sent.down.status == 503
    assert len(traffic.upstream.calls) == 1


def test_a_client_that_left_and_a_dry_run_are_not_copied() -> None:
    traffic = Mirrored()
    sent = traffic.send()
    sent.exchange.on_client_gone()
    traffic.send(dry=True)
    assert [call.request.header(b"x-headgate-mirror") for call in traffic.upstream.calls] == [None]


def test_a_body_that_streamed_past_is_counted_and_not_copied() -> None:
    traffic = Mirrored()
    sent = traffic.send()
    sent.ctx.request.body = None
    traffic.upstream.calls[0].answer()
    assert traffic.results == ["too_large"]


def test_a_copy_has_a_deadline_of_its_own() -> None:
    traffic = Mirrored(timeout=Duration(0.25))
    untils: list[float] = []
    send = traffic.upstream.send

    def noting(instance: Any, request: Any, until: float, sink: Any) -> FakeCall:
        untils.append(until - traffic.clock.now())
        return send(instance, request, until, sink)

    traffic.upstream.send = noting  # type: ignore[method-assign]
    sent = traffic.send(timeout=60.0)
    traffic.clock.advance(1.0)
    traffic.upstream.calls[0].answer()
    assert sent.down.status == 200
    assert untils == pytest.approx([30.0, 0.25])


def test_an_endless_answer_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirroring, "DRAIN", 100)
    traffic = Mirrored()
    traffic.answered()
    copy = traffic.copy
    copy.sink.on_response(Response(200, [], None))
    copy.sink.on_chunk(b"x" * 60, False)
    assert not copy.cancelled
    copy.sink.on_chunk(b"x" * 60, False)
    assert copy.cancelled
    assert traffic.results == ["answer_too_large"]
    traffic.assert_nothing_held()


def test_a_judge_gets_both_answers_in_the_clients_dialect() -> None:
    judge = Comparing()
    traffic = Mirrored(judge=judge, speaks="kserve-v2")
    traffic.answered()
    assert traffic.copy.request.path == b"/v2/models/digits/infer"
    output = {"name": "label", "datatype": "INT64", "shape": [1], "data": [7]}
    body = orjson.dumps({"model_name": "digits", "outputs": [output]})
    traffic.copy.sink.on_response(Response(200, [(b"content-type", b"application/json")], None))
    traffic.copy.sink.on_chunk(body[:10], False)
    traffic.copy.sink.on_chunk(body[10:], True)
    ((primary, mirrored),) = judge.pairs
    assert primary.body == b'{"predictions":[1]}'
    assert orjson.loads(mirrored.body or b"") == {"predictions": [7]}
    assert traffic.results == ["answered"]


def test_an_answer_that_is_no_prediction_is_not_compared() -> None:
    judge = Comparing()
    traffic = Mirrored(judge=judge, speaks="kserve-v2")
    traffic.answered()
    traffic.copy.answer(b"nonsense")
    assert judge.pairs == []
    assert traffic.results == ["answered"]
    traffic.assert_nothing_held()


@pytest.mark.parametrize("moment", [pytest.param("making", marks=pytest.mark.pure), "sending"])
@pytest.mark.parametrize("error", [BodyTooLarge("x"), ZeroDivisionError()])
def test_nothing_that_goes_wrong_with_a_copy_reaches_the_client(moment: str, error: Exception) -> None:
    traffic = Mirrored(speaks="kserve-v2")
    bugs: list[Exception] = []
    traffic.observer.on_bug = lambda ctx, bug: bugs.append(bug)  # type: ignore[method-assign]

    def broken(*_: object) -> None:
        raise error

    if moment == "making":
        told = Told()
        told.signature = broken  # type: ignore[method-assign, assignment]
        assert traffic.parts.mirrors is not None
        traffic.parts.mirrors.gateway.signatures = told
    sent = traffic.send()
    send = traffic.upstream.send
    if moment == "sending":
        traffic.upstream.send = broken  # type: ignore[method-assign, assignment]
    traffic.upstream.calls[0].answer(b"primary")
    traffic.upstream.send = send  # type: ignore[method-assign]
    assert (sent.down.status, sent.down.body) == (200, b"primary")
    assert len(traffic.results) == 1
    assert len(bugs) == (moment == "sending" or isinstance(error, ZeroDivisionError))
    traffic.assert_nothing_held()


def test_the_short_form_names_the_pool() -> None:
    (reference,) = Mirror("digits-v2").names()
    assert (reference.name, reference.aside) == ("digits-v2", True)
