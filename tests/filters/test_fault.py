from __future__ import annotations

from pathlib import Path

import pytest

from gateway.config.load import load
from gateway.config.units import Duration, Ratio
from gateway.filters import degrade, fault
from gateway.filters.catalog import KINDS
from gateway.filters.fault import KIND, Fault
from gateway.pipeline.filter import Rule
from tests.fakes.traffic import Traffic

PAGE = """\
limits: {faults: %s}
pools: {a: {instances: [127.0.0.1:9101]}}
endpoints: {d: {model: d, send: a, fault: {delay: 200ms, abort: 503, share: 10%%, when: {x-fault: please}}}}
"""


def test_an_abort_is_marked_and_says_nothing_of_instances() -> None:
    traffic = Traffic()
    traffic.use(KIND, Fault(abort=503))
    sent = traffic.send()
    assert (sent.down.status, sent.down.field(b"x-headgate-reason")) == (503, b"fault_injected")
    assert sent.down.field(b"x-headgate-fault") == b"abort=503"
    assert (sent.ctx.fault, sent.ctx.attempts, traffic.upstream.calls) == ("abort=503", 0, [])
    (instance,) = traffic.pools["digits-v1"].members.instances
    assert (instance.failures, instance.successes) == (0, 0)


def test_a_delay_comes_before_the_attempt() -> None:
    traffic = Traffic()
    traffic.use(KIND, Fault(delay=Duration(0.2)))
    sent = traffic.send()
    traffic.clock.advance(0.19)
    traffic.timers.fire()
    assert traffic.upstream.calls == []
    traffic.clock.advance(0.02)
    traffic.timers.fire()
    traffic.upstream.calls[0].answer(b"late")
    assert (sent.down.body, sent.down.field(b"x-headgate-fault")) == (b"late", b"delay=200ms")


def test_who_leaves_during_a_delay_leaves_nothing_behind() -> None:
    traffic = Traffic()
    traffic.use(KIND, Fault(delay=Duration(0.2), abort=500))
    sent = traffic.send()
    sent.exchange.on_client_gone()
    traffic.clock.advance(1.0)
    traffic.timers.fire()
    assert not sent.down.answered
    assert traffic.parts.pressure.in_flight == 0


def test_a_delay_beyond_the_deadline_is_a_timeout() -> None:
    traffic = Traffic()
    traffic.use(KIND, Fault(delay=Duration(5.0)))
    sent = traffic.send(timeout=1.0)
    traffic.clock.advance(1.1)
    traffic.timers.fire()
    assert (sent.down.status, sent.down.field(b"x-headgate-reason")) == (504, b"upstream_timeout")


def test_a_ladder_can_be_rehearsed() -> None:
    traffic = Traffic({"digits-v1": 1, "digits-lite": 1})
    traffic.use(degrade.KIND, degrade.Degrade((degrade.Step(pool="digits-lite"),)))
    traffic.use(KIND, Fault(abort=503))
    sent = traffic.send()
    traffic.upstream.calls[0].answer(b"lite")
    assert sent.down.body == b"lite"
    assert sent.down.field(b"x-degraded") == b"pool:digits-lite"
    assert sent.down.field(b"x-headgate-fault") == b"abort=503"


def test_only_its_share_of_those_with_the_header_is_touched() -> None:
    traffic = Traffic()
    traffic.use(KIND, Fault(abort=503, share=Ratio(0.25), when={"X-Fault": "please"}))
    marked = [traffic.send(headers=[(b"x-fault", b"please")]).ctx.fault for _ in range(400)]
    plain = [traffic.send(headers=[(b"x-fault", b"no")]).ctx.fault for _ in range(20)]
    assert 70 <= marked.count("abort=503") <= 130
    assert set(plain) == {""}


@pytest.mark.parametrize("dry", [True, False], ids=["explained", "enforce: false"])
def test_nothing_is_injected_where_nothing_is_to_happen(dry: bool) -> None:
    traffic = Traffic()
    traffic.use_rules(KIND, Rule(Fault(abort=503), "chaos", enforce=dry))
    assert traffic.send(dry=dry).ctx.fault == ""


@pytest.mark.parametrize("word", ["allowed", "refused"])
def test_faults_are_refused_by_check_unless_allowed(tmp_path: Path, word: str) -> None:
    (tmp_path / "a.yaml").write_text(PAGE % word)
    loaded = load(tmp_path, KINDS)
    if word == "allowed":
        assert loaded.schema is not None
        (placed,) = loaded.schema.endpoints["d"].verbs["fault"]
        assert placed.value == Fault(Duration(0.2), 503, Ratio(0.1), {"x-fault": "please"})
    else:
        (problem,) = loaded.errors
        assert "a.yaml:3" in str(problem)
        assert "limits: {faults: allowed}" in str(problem)


def test_a_fault_that_does_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="delay"):
        fault.Fault()
