"""What an operator does to a running demo and what befalls it, under load: overrides, edits, deaths, the end.

Each test has a demo of its own. A failed request is one that got anything but 200, or no answer.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.running import (
    PREDICT,
    PRO,
    Demo,
    Hammer,
    fresh_row,
    slack,
    tfs,
    until,
)

pytestmark = pytest.mark.slow

STABLE = {**PRO, "x-headgate-send": "stable"}


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Demo]:
    with Demo(tmp_path) as running:
        yield running


@pytest.fixture(scope="module")
def edited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    """A demo whose policies are edited; every test puts them back."""
    with Demo(tmp_path_factory.mktemp("edited")) as running:
        yield running


# Overrides


def test_a_throttle_is_felt_within_a_second_and_clear_undoes_it(edited: Demo) -> None:
    assert edited.predict().status == 200
    done = edited.headgate("throttle", "digits", "1/s", "--for", "1m")
    assert done.returncode == 0
    assert "+digits: {throttle: 1/s, until:" in done.stdout
    assert "ends " in done.stdout
    felt = until(lambda: edited.predict().status == 429, "a 429")
    refused = edited.predict()
    assert refused["x-headgate-policy"] == "overrides.digits"
    assert edited.headgate("clear", "digits").returncode == 0
    undone = until(lambda: {edited.predict().status for _ in range(5)} == {200}, "the end of the throttle")
    print(f"throttle felt after {felt:.2f} s, undone after {undone:.2f} s")
    assert max(felt, undone) <= 1.0


def test_a_degraded_endpoint_is_answered_by_lite_and_says_so(edited: Demo) -> None:
    done = edited.headgate("degrade", "digits", "--to", "digits-lite")
    assert (done.returncode, done.stderr) == (0, "")
    felt = until(lambda: edited.predict()["x-degraded"], "a degraded answer")
    answers = [edited.predict() for _ in range(20)]
    assert {(a.status, a["x-headgate-pool"], a["x-degraded"]) for a in answers} == {
        (200, "digits-lite", "pool:digits-lite")
    }
    assert edited.headgate("clear", "digits").returncode == 0
    undone = until(lambda: not edited.predict()["x-degraded"], "the end of it")
    assert max(felt, undone) <= 1.0


def test_send_moves_all_the_traffic_to_one_version(edited: Demo) -> None:
    assert edited.headgate("send", "digits", "digits-v2", "--for", "5m").returncode == 0

    def ten() -> set[str]:
        return {edited.predict()["x-headgate-pool"] for _ in range(10)}

    assert until(lambda: ten() == {"digits-v2"}, "version 2") <= 1.5
    assert ten() == {"digits-v2"}
    assert edited.headgate("clear", "digits").returncode == 0
    assert until(lambda: "digits-v1" in ten(), "version 1") <= 1.5


# Edits


def test_a_saved_edit_is_live_within_a_second_and_no_request_is_lost(edited: Demo) -> None:
    version = edited.admin_json("/config")["version"]
    with Hammer(edited.http, clients=4) as load:
        for old, new in (("weight: 10%", "weight: 100%"), ("weight: 100%", "weight: 0%")):
            edited.edit("house-rules.yaml", old, new)
            wanted = "digits-v2" if new.endswith("100%") else "digits-v1"
            saved = time.monotonic()
            time.sleep(1.0)
            late = time.monotonic()
            time.sleep(0.4)
            pools = {outcome.pool for outcome in load.outcomes if outcome.at > late}
            assert pools == {wanted}
            first = next(
                outcome for outcome in load.outcomes if outcome.at > saved and outcome.pool == wanted
            )
            print(f"{new}: first answer after {first.at - saved:.2f} s")
        edited.edit("house-rules.yaml", "weight: 0%", "weight: 10%")
        until(lambda: edited.admin_json("/config")["version"] == version + 3, "the third version", 2)
    assert load.failures == []
    assert len(load.outcomes) > 100


def test_a_broken_edit_changes_nothing_and_is_reported_everywhere(edited: Demo) -> None:
    before = edited.admin_json("/config")
    good = (edited.policies / "digits.yaml").read_text()
    with Hammer(edited.http, clients=4) as load:
        edited.edit("digits.yaml", "timeout: 2s", "timeot: 2s")
        try:
            took = until(lambda: not edited.last_reload()["ok"], "the report")
            assert took <= 1.0
            (error,) = edited.last_reload()["errors"]
            assert "digits.yaml:19:5" in error
            assert "timeout" in error
            assert edited.metric("headgate_policies_ok") == 0.0
            assert edited.admin_json("/config")["version"] == before["version"]
            assert edited.admin_json("/config")["digest"] == before["digest"]
            assert "digits.yaml:19:5" in (edited.folder / ".demo/gateway.log").read_text()
            checked = edited.headgate("check")
            assert checked.returncode == 1
            assert "policies/digits.yaml:19:5" in checked.stdout
            answer = edited.ask_admin("/reload", method="POST")
            assert answer.status == 422
            assert "digits.yaml:19:5" in str(answer.json["errors"])
        finally:
            (edited.policies / "digits.yaml").write_text(good)
        until(lambda: edited.last_reload()["ok"], "the repair", 2)
    assert load.failures == []
    assert edited.metric("headgate_policies_ok") == 1.0


def test_an_override_that_would_not_load_is_not_written(edited: Demo) -> None:
    path = edited.policies / "overrides.yaml"
    before = path.read_text() if path.exists() else None
    done = edited.headgate("send", "digits", "v7")
    assert done.returncode == 1
    assert "v7" in done.stdout + done.stderr
    assert (path.read_text() if path.exists() else None) == before


# Deaths


def test_no_client_sees_that_an_instance_was_killed(own: Demo) -> None:
    victim = own.parts()["digits-v1-a"]
    address = own.address_of("digits-v1-a")
    with Hammer(own.http, clients=6) as load:
        time.sleep(0.5)
        victim.kill()

        def view() -> dict[str, Any]:
            return next(one for one in own.instances() if one["address"] == address)

        took = until(lambda: view()["state"] == "ejected", "its ejection", 3)
        print(f"ejected {took:.2f} s after its death")
        one = view()
        assert one["ejected_for"] > 0
        assert one["failures"] > 0
        assert one["breaker"] in {"closed", "open"}
        assert own.metric("headgate_instance_ejected", instance=one["id"]) == 1.0
        assert own.metric("headgate_instance_up", instance=one["id"]) == 0.0
        until(lambda: not view()["healthy"], "its health check to fail", 3)
        until(lambda: f"{victim.name} ended" in own.output(), "the demo to tell", 3)
        time.sleep(1.0)
        own.spawn(victim.argv)
        until(lambda: own.up("digits-v1") == 2, "its successor to serve")
    assert load.failures == [], load.summary()
    assert own.metric("headgate_requests_total", endpoint="digits", status="200") >= len(load.outcomes)


def test_real_traffic_finds_a_dead_instance_that_nobody_checks(tmp_path: Path) -> None:
    demo = Demo(tmp_path)
    demo.edit("digits.yaml", "health: {every: 500ms,", "health: {every: 10m,")
    with demo:
        address = demo.address_of("digits-v1-a")
        with Hammer(demo.http, clients=6) as load:
            demo.parts()["digits-v1-a"].kill()

            def state() -> str:
                return str(next(one["state"] for one in demo.instances() if one["address"] == address))

            until(lambda: state() == "ejected", "ejection", 3)
            until(lambda: state() in ("up", "down_weighted"), "its second chance", 5)
            until(lambda: state() == "ejected", "its relapse", 15)
        assert load.failures == [], load.summary()


def test_when_all_of_digits_is_dead_the_ladder_answers_until_it_returns(own: Demo) -> None:
    parts = own.parts()
    digits = [part for name, part in parts.items() if name.startswith("digits-v")]
    warm = tfs(fresh_row())
    assert own.ask(PREDICT, warm, STABLE).status == 200
    with Hammer(own.http, clients=4) as load:
        for part in digits:
            part.kill()
        until(lambda: load.outcomes[-1].degraded == "pool:digits-lite", "the ladder's first step", 5)
        time.sleep(1.0)
        assert own.predict()["x-headgate-pool"] == "digits-lite"
        parts["digits-lite-a"].kill()
        until(lambda: own.predict()["x-degraded"] == "respond", "the ladder's last step", 5)
        last = own.predict()
        assert (last.status, last["Retry-After"], last["x-degraded"]) == (503, "5", "respond")
        assert last["x-headgate-reason"] == last.json["code"]
        until(lambda: own.ask_admin("/readyz").json.get("troubles"), "the trouble to be told", 5)
        assert own.is_ready(), "dead models are no reason to take the gateway away"
        lost_from = time.monotonic()
        for part in [*digits, parts["digits-lite-a"]]:
            own.spawn(part.argv)
        until(lambda: own.up("digits-v1") == 2 and own.up("digits-v2") == 1, "digits again", 20)
        returned = time.monotonic()
        until(lambda: own.predict()["x-headgate-pool"] == "digits-v1", "traffic to return", 5)
        assert own.ask_admin("/readyz").json == {"ready": True}
        time.sleep(0.5)
    before = [outcome for outcome in load.outcomes if outcome.at < lost_from]
    assert {outcome.status for outcome in before} <= {200, 503}
    assert not any(outcome.error and outcome.status == 0 for outcome in load.outcomes)
    after = [outcome for outcome in load.outcomes if outcome.at > returned + 3 * slack()]
    assert {outcome.status for outcome in after} <= {200}


def test_a_stale_answer_is_given_where_no_pool_can_answer(tmp_path: Path) -> None:
    demo = Demo(tmp_path)
    demo.edit("digits.yaml", "cache: {ttl: 30s,", "cache: {ttl: 1s,")
    with demo:
        known = tfs(fresh_row())
        first = demo.ask(PREDICT, known, STABLE)
        for name, part in demo.parts().items():
            if name != "gateway":
                part.kill()
        time.sleep(1.5)
        answer = demo.ask(PREDICT, known, STABLE)
        assert (answer.status, answer.body) == (200, first.body)
        assert answer["x-degraded"].startswith("stale")


# The end


def test_a_stopping_gateway_answers_everything_it_has_taken(tmp_path: Path) -> None:
    """Kept-alive clients are told to leave with an answer; a connection that is refused lost nothing."""
    demo = Demo(tmp_path)
    demo.edit(
        "digits.yaml", "[200/s burst 400, 20000 rows/min per tenant burst 10000]", "100000/s burst 100000"
    )
    with demo:
        gateway = demo.parts()["gateway"]
        with Hammer(demo.http, clients=8, pause=0.0, until_refused=True) as load:
            time.sleep(0.5)
            gateway.kill(signal.SIGTERM)
            asked = time.monotonic()
            load.wait_for_the_end()
        assert load.failures == [], load.summary()
        assert load.refused == 8
        assert sum(outcome.at < asked for outcome in load.outcomes) > 20
        assert demo.process is not None
        assert demo.process.wait(15) == 3
        assert "the gateway ended" in demo.output()
