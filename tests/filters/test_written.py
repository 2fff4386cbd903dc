"""The traffic verbs as a user writes them, through the real loader."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.config.load import load
from gateway.config.units import Duration, Rate, Ratio, Size
from gateway.filters.cache import Cache
from gateway.filters.catalog import KINDS
from gateway.filters.degrade import Degrade, Respond, Step
from gateway.filters.importance import Importance
from gateway.filters.release_terms import Release
from gateway.filters.send import Send
from gateway.filters.slo import Slo
from gateway.filters.throttle import Throttle

PAGE = """\
pools:
  digits-v1: {{instances: [127.0.0.1:9101]}}
  digits-v2: {{instances: [127.0.0.1:9102]}}
  digits-lite: {{instances: [127.0.0.1:9103]}}
endpoints:
  digits:
    model: digits
    versions: {{1: digits-v1, 2: digits-v2}}
    labels: {{stable: 1, canary: 2}}
    {line}
"""


def verbs(folder: Path, line: str) -> list[object]:
    (folder / "digits.yaml").write_text(PAGE.format(line=line))
    loaded = load(folder, KINDS)
    assert loaded.schema is not None, [str(problem) for problem in loaded.errors]
    verb = line.partition(":")[0]
    return [placed.value for placed in loaded.schema.endpoints["digits"].verbs[verb]]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("throttle: 50/s", [Throttle(Rate(50, 1))]),
        (
            "throttle: [50/s, 5/s per principal burst 5, 20000 rows/min per tenant]",
            [
                Throttle(Rate(50, 1)),
                Throttle(Rate(5, 1), "principal", 5.0),
                Throttle(Rate(20000, 60), "tenant", cost="rows"),
            ],
        ),
        (
            "throttle: {rate: 10/min, per: header:x-team, burst: 3, cost: bytes, on_store_failure: closed}",
            [Throttle(Rate(10, 60), "header:x-team", 3.0, "bytes", "closed")],
        ),
        ("send: stable", [Send({"stable": Ratio(1.0)})]),
        ("send: {stable: 95%, canary: 5%}", [Send({"stable": Ratio(0.95), "canary": Ratio(0.05)})]),
        (
            "release: {kind: canary, candidate: canary, weight: 10%, sticky: principal}",
            [Release(candidate="canary", weight=Ratio(0.1), sticky="principal")],
        ),
        ("importance: sheddable", [Importance("sheddable")]),
        ("cache: 30s", [Cache(Duration(30.0))]),
        (
            "cache: {ttl: 30s, stale_while_revalidate: 30s, stale_if_error: 10m, scope: tenant, "
            "max_rows: 8, size: 64KiB}",
            [Cache(Duration(30.0), Duration(30.0), Duration(600.0), "tenant", 8, size=Size(65536))],
        ),
        ("degrade: digits-lite", [Degrade(to="digits-lite")]),
        (
            "degrade: {when: [breaker_open, quota], steps: [digits-lite, {stale: 10m}, {throttle: 5/s}, "
            "{respond: {status: 503, retry_after: 5s}}]}",
            [
                Degrade(
                    (
                        Step(pool="digits-lite"),
                        Step(stale=Duration(600.0)),
                        Step(throttle=Rate(5, 1)),
                        Step(respond=Respond(503, retry_after=Duration(5.0))),
                    ),
                    ("breaker_open", "quota"),
                )
            ],
        ),
        ("degrade: never", [Degrade(never=True)]),
        (
            "degrade: {calm: 1m, steps: [{predict: {label: 0, probabilities: [0.1, 0.9]}}]}",
            [
                Degrade(
                    (Step(predict={"label": ("0",), "probabilities": ("0.1", "0.9")}),), calm=Duration(60.0)
                )
            ],
        ),
        (
            "slo: {latency: 300ms, ratio: 99%, window: 5m}",
            [Slo(Duration(0.3), Ratio(0.99), Duration(300.0))],
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_verb_is_read_as_a_user_would_guess(tmp_path: Path, line: str, expected: list[object]) -> None:
    assert verbs(tmp_path, line) == expected


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("throttle: 50", "expected a throttle like 50/s"),
        ("throttle: {rate: 5/s, burst: 0}", "at least 1"),
        ("throttle: 5/s per principle", "expected per principal"),
        ("send: {stable: 95%, canary: 6%}", "add up to 100%"),
        ("send: stabel", "stable"),
        ("release: {candidate: stable}", "candidate other than stable"),
        ("release: {ramp: [50%, 5%]}", "larger than the one before"),
        ("release: {weight: 5%, ramp: [5%]}", "a weight or a ramp"),
        ("cache: {scope: shared}", "ttl"),
        ("degrade: digits-lit", "digits-lite"),
        ("degrade: {steps: [{pool: digits-lite, stale: 1m}]}", "exactly one of"),
        ("degrade: {when: [timeout]}", "steps"),
        ("degrade: {never: true, to: digits-lite}", "never"),
        ("degrade: {steps: [{predict: {}}]}", "predict"),
        ("degrade: {steps: [{stale: 1m}], calm: 0s}", "above zero"),
        ("degrade: {steps: [{stale: 1m}], when: [slo_burn]}", "expected `slo` on digits"),
        ("slo: {ratio: 100%}", "99%"),
        ("slo: {burn: 0x}", "burn"),
        ("importance: vip", "critical"),
    ],
)
def test_what_cant_be_is_reported_in_words_with_its_place(tmp_path: Path, line: str, complaint: str) -> None:
    (tmp_path / "digits.yaml").write_text(PAGE.format(line=line))
    loaded = load(tmp_path, KINDS)
    assert loaded.schema is None
    told = [str(problem) for problem in loaded.errors]
    assert any(complaint in one and "digits.yaml:10" in one for one in told), told
