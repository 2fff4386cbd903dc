"""The admin port of the demo: what is open, what is guarded; the gateway's start, size and stop."""

from __future__ import annotations

import signal
import socket
import statistics
import subprocess
import time
from pathlib import Path

import pytest

from tests.integration.running import (
    CANARY,
    HEADGATE,
    Demo,
    Running,
    clean_env,
    command,
    kept_memory,
    slack,
    until,
)

OPEN = ("/healthz", "/readyz", "/metrics")
GUARDED = ("/config", "/policies", "/endpoints", "/pools", "/instances", "/registry")


def silent_policies(folder: Path) -> Path:
    """A policy folder that needs no instances."""
    policies = folder / "bare"
    policies.mkdir(parents=True)
    (policies / "gateway.yaml").write_text("log: {access: off}\n".replace("off", '"off"'))
    return policies


# Who may ask


@pytest.mark.parametrize("path", [*OPEN, *GUARDED])
def test_this_machine_may_ask(demo: Demo, path: str) -> None:
    assert demo.ask_admin(path).status == 200


@pytest.mark.parametrize("path", GUARDED)
def test_a_host_that_is_not_ours_is_refused(demo: Demo, path: str) -> None:
    answer = demo.ask_admin(path, {"Host": "rebound.example:9080"})
    assert (answer.status, answer.json["code"]) == (403, "unknown_host")


@pytest.mark.parametrize("headers", [{"Origin": "https://evil.example"}, {"Sec-Fetch-Site": "cross-site"}])
@pytest.mark.parametrize(("method", "path"), [("GET", "/config"), ("POST", "/reload"), ("DELETE", "/cache")])
def test_a_request_of_another_site_is_refused(
    demo: Demo, method: str, path: str, headers: dict[str, str]
) -> None:
    answer = demo.ask_admin(path, headers, method)
    assert (answer.status, answer.json["code"]) == (403, "cross_origin")


@pytest.mark.parametrize("path", OPEN)
def test_health_and_metrics_are_open_to_any_host(demo: Demo, path: str) -> None:
    assert demo.ask_admin(path, {"Host": "prober.example"}).status == 200


def test_a_token_is_asked_for_where_one_is_set(tmp_path: Path) -> None:
    policies = silent_policies(tmp_path)
    (policies / "gateway.yaml").write_text(
        'listen: {admin: {address: "127.0.0.1:9080", token: "${env:ADMIN_TOKEN}"}}\n'
    )
    with Running(tmp_path / "run", policies=policies, env={"ADMIN_TOKEN": "open-sesame"}) as running:
        for path in OPEN:
            assert running.ask_admin(path).status == 200
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic open-sesame"}):
            refused = running.ask_admin("/config", headers)
            assert (refused.status, refused.json["code"]) == (401, "admin_token")
            assert "open-sesame" not in refused.body.decode()
        shown = running.ask_admin("/config", {"Authorization": "Bearer open-sesame"})
        assert shown.status == 200
        assert "open-sesame" not in shown.body.decode()
        env = {"HEADGATE_ADMIN_PORT": str(running.admin)}
        assert command("endpoints", cwd=running.folder, env=env).returncode == 1
        env["HEADGATE_ADMIN_TOKEN"] = "open-sesame"
        assert command("endpoints", cwd=running.folder, env=env).returncode == 0


def test_a_reload_guarded_by_another_digest_is_refused(demo: Demo) -> None:
    assert demo.ask_admin("/reload", {"If-Match": '"0000"'}, "POST").status == 412
    tag = demo.ask_admin("/config")["ETag"]
    assert demo.ask_admin("/reload", {"If-Match": tag}, "POST").json["ok"] is True


def test_metrics_are_prometheus_text_that_names_every_instance(demo: Demo) -> None:
    demo.predict()
    ups = {
        one["id"]: demo.metric("headgate_instance_up", pool=one["pool"], instance=one["id"])
        for one in demo.instances()
    }
    assert ups == dict.fromkeys(ups, 1.0)
    assert len(ups) == 6
    assert demo.metric("headgate_policies_ok") == 1.0


# Start, size, stop


def test_the_gateway_is_ready_within_two_seconds(tmp_path: Path) -> None:
    policies = silent_policies(tmp_path)
    figures = []
    for turn in range(3):
        before = time.monotonic()
        with Running(tmp_path / str(turn), policies=policies):
            figures.append(time.monotonic() - before)
    print(f"start to ready: {[round(figure, 2) for figure in figures]} s")
    assert min(figures) <= 2.0


def test_the_gateway_rests_within_90_mib(demo: Demo) -> None:
    pid = demo.parts()["gateway"].pid
    held = kept_memory(pid)
    print(f"gateway at rest: {held:.1f} MiB PSS")
    assert held <= 90


def test_help_is_there_within_300_ms(tmp_path: Path) -> None:
    figures = []
    for _ in range(5):
        before = time.monotonic()
        assert command("--help", cwd=tmp_path).returncode == 0
        figures.append(time.monotonic() - before)
    print(f"headgate --help: median {statistics.median(figures):.3f} s")
    assert min(figures) <= 0.3 * slack()


@pytest.mark.parametrize("taken", ["http", "admin"])
def test_a_taken_port_is_an_error_that_says_what_to_do(tmp_path: Path, taken: str) -> None:
    demo = Demo(tmp_path)
    with socket.socket() as squatter:
        squatter.bind(("127.0.0.1", demo.http if taken == "http" else demo.admin))
        squatter.listen()
        port = squatter.getsockname()[1]
        ended = subprocess.run(
            [str(HEADGATE), "demo"],
            cwd=tmp_path,
            env=clean_env(
                HEADGATE_HTTP_PORT=str(demo.http),
                HEADGATE_GRPC_PORT=str(demo.grpc),
                HEADGATE_ADMIN_PORT=str(demo.admin),
            ),
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert ended.returncode == 3
    assert f"127.0.0.1:{port}" in ended.stderr
    assert "taken" in ended.stderr
    assert "HEADGATE_HTTP_PORT=" in ended.stderr
    assert "HEADGATE_ADMIN_PORT=" in ended.stderr
    assert "Traceback" not in ended.stdout + ended.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_stopping_the_demo_stops_everything_it_started(tmp_path: Path, number: signal.Signals) -> None:
    with Demo(tmp_path) as demo:
        parts = demo.parts()
        assert set(parts) == {"gateway", "digits-v1-a", "digits-v1-b", "digits-v2-a", "digits-lite-a"}
        assert demo.process is not None
        demo.process.send_signal(number)
        assert demo.process.wait(15) == 0
        until(
            lambda: not any(Path(f"/proc/{part.pid}").exists() for part in parts.values()),
            "the end of its processes",
        )


class ImpatientDemo(Demo):
    """One whose user does not wait for what it prints."""

    def wait_until_up(self) -> None:
        until(self.is_ready, "readiness", 60)


def test_a_stranger_finds_every_pool_once_the_demo_is_ready(tmp_path: Path) -> None:
    """A script waits for /readyz and then tries every behaviour: the canary must be there by then."""
    with ImpatientDemo(tmp_path) as demo:
        assert {one["pool"] for one in demo.instances()} == {
            "digits-v1",
            "digits-v2",
            "digits-lite",
            "digits-grpc",
        }
        assert demo.predict(headers=CANARY)["x-headgate-pool"] == "digits-v2"
