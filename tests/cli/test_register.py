"""The command line of `headgate register`, and a child that runs against a gateway's registry.

tests/integration/test_register_frameworks.py runs it with real frameworks and a real etcd.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from gateway.cli import register
from gateway.cli.register import DEFAULT_REGISTRY, Plan, add_parser
from gateway.cli.registered_child import Trouble, run_child
from tests.discovery.watching import eventually
from tests.fakes.admin_registry import AdminRegistry, admin_registry
from tests.services.etcd import free_port

SERVER = """
import http.server as h, os
{before}
h.HTTPServer(('127.0.0.1', int(os.environ['PORT'])), {handler}).serve_forever()
"""

RUNNER = """
import os, sys
from gateway.cli.register import Plan
from gateway.cli.registered_child import run_child
plan = Plan(environment=os.environ, {fields})
sys.exit(run_child(plan, lambda text: print(text, file=sys.stderr, flush=True)))
"""


def parse(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_parser(parser.add_subparsers())
    return parser.parse_args(["register", *words])


def plan(*words: str) -> Plan:
    return register._plan(parse("--service", "digits", *words))


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PORT", "HEADGATE_REGISTRY", "HEADGATE_ADMIN_TOKEN"):
        monkeypatch.delenv(name, raising=False)


# The command line


def test_everything_on_the_line_is_in_the_plan() -> None:
    words = (
        "--version v1 --address 10.0.0.5:80 --ttl 5s --weight 7 --label a=b --label c=d=e --model digits=1"
    )
    made = plan(*words.split(), "--registry", "etcd://h", "--", "serve", "--port", "80")
    assert made.command == ("serve", "--port", "80")
    assert (made.version, made.address, made.ttl, made.weight) == ("v1", ("10.0.0.5", 80), 5.0, 7)
    assert (made.labels, made.models) == ({"a": "b", "c": "d=e"}, (("digits", "1"),))
    assert made.registry == "etcd://h"


def test_without_an_address_a_free_port_is_chosen_and_told_to_the_server() -> None:
    made = plan("--", "serve")
    host, port = made.address
    assert host == "127.0.0.1"
    assert made.environment["PORT"] == str(port)


def test_a_port_that_the_environment_chose_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PORT", "8123")
    assert plan("--port-env", "HTTP_PORT", "--", "serve").address == ("127.0.0.1", 8123)


def test_the_registry_comes_from_the_flag_then_the_environment_then_the_default(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert plan("--", "serve").registry == DEFAULT_REGISTRY
    monkeypatch.setenv("HEADGATE_REGISTRY", "etcd://env")
    assert plan("--", "serve").registry == "etcd://env"
    assert plan("--registry", "etcd://flag", "--", "serve").registry == "etcd://flag"


def test_secrets_are_not_in_what_a_plan_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADGATE_ADMIN_TOKEN", "s3cret")
    assert "s3cret" not in repr(plan("--registry", "etcd://u:s3cret@h", "--", "serve"))


@pytest.mark.parametrize(
    "words",
    [("--ttl", "10"), ("--label", "novalue"), ("--model", "=1"), ("--weight", "x")],
    ids=["no unit", "no value", "no name", "no number"],
)
def test_values_that_make_no_sense_end_the_parsing(
    words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        parse("--service", "digits", *words, "--", "serve")
    assert ended.value.code == 2
    assert words[0] in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ((), "after `--`"),
        (("--address", "nowhere", "--", "true"), "host:port"),
        (("--registry", "ftp://x", "--", "true"), "starts with http"),
        (("--address", "0.0.0.0:9001", "--", "true"), "where others reach it"),
        (("--ttl", "100ms", "--", "true"), "at least 1 s"),
    ],
    ids=["no command", "address", "registry", "any address", "ttl"],
)
def test_a_wrong_command_line_is_exit_code_2_before_anything_runs(
    words: tuple[str, ...], why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    args = parse("--service", "digits", *words)
    assert args.run(args) == 2
    assert why in capsys.readouterr().err


def test_the_parser_costs_neither_asyncio_nor_aiohttp() -> None:
    code = (
        "import sys, gateway.cli.register; print(*sorted({'asyncio', 'aiohttp', 'ssl'} & set(sys.modules)))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == ""


# The child


@pytest.fixture
async def gateway() -> AsyncIterator[AdminRegistry]:
    async with admin_registry() as registry:
        yield registry


def serving(gateway: AdminRegistry, *, before: str = "", handler: str = "h.SimpleHTTPRequestHandler") -> Plan:
    port = free_port()
    return Plan(
        command=(sys.executable, "-c", SERVER.format(before=before, handler=handler)),
        environment={**os.environ, "PORT": str(port)},
        registry=gateway.url,
        service="digits",
        address=("127.0.0.1", port),
        ttl=1.0,
    )


class Running:
    """`run_child` in a process of its own, since it owns its process's signals."""

    def __init__(self, plan: Plan) -> None:
        names = [name for name in Plan.__slots__ if name != "environment"]
        code = RUNNER.format(fields=", ".join(f"{name}={getattr(plan, name)!r}" for name in names))
        self.process = subprocess.Popen(
            [sys.executable, "-c", code], env=dict(plan.environment), stderr=subprocess.PIPE, text=True
        )

    async def ended(self) -> tuple[int, str]:
        _, errors = await asyncio.to_thread(self.process.communicate, None, 20)
        return self.process.returncode, errors


async def test_it_is_registered_only_once_it_serves(gateway: AdminRegistry) -> None:
    running = Running(serving(gateway, before="import time; time.sleep(0.5)"))
    await eventually(lambda: gateway.ids() != [])
    await asyncio.sleep(0.3)  # it says so a moment later
    running.process.terminate()
    code, said = await running.ended()
    assert gateway.ids() == []
    assert code == 128 + signal.SIGTERM
    assert "is registered" in said
    assert "deregistered" in said


async def test_a_health_path_holds_the_registration_back(gateway: AdminRegistry, tmp_path: Path) -> None:
    handler = f"type('H', (h.SimpleHTTPRequestHandler,), dict(directory={str(tmp_path)!r}))"
    before = f"os.chdir({str(tmp_path)!r})"
    running = Running(replace(serving(gateway, before=before, handler=handler), health="/ready"))
    await asyncio.sleep(0.5)
    assert gateway.ids() == []
    await asyncio.to_thread((tmp_path / "ready").touch)
    await eventually(lambda: gateway.ids() != [])
    running.process.send_signal(signal.SIGINT)
    await running.ended()
    assert gateway.ids() == []


async def test_other_signals_reach_the_child_and_change_nothing_else(
    gateway: AdminRegistry, tmp_path: Path
) -> None:
    mark = tmp_path / "got it"
    before = f"import signal; signal.signal(signal.SIGHUP, lambda *a: open({str(mark)!r}, 'w'))"
    running = Running(serving(gateway, before=before))
    await eventually(lambda: gateway.ids() != [])
    running.process.send_signal(signal.SIGHUP)
    await eventually(mark.exists)
    assert gateway.ids() != []
    running.process.terminate()
    await running.ended()


async def test_a_child_that_ignores_the_signal_is_killed_after_the_grace(gateway: AdminRegistry) -> None:
    before = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)"
    running = Running(replace(serving(gateway, before=before), grace=0.3))
    await eventually(lambda: gateway.ids() != [])
    running.process.terminate()
    code, _ = await running.ended()
    assert code == 128 + signal.SIGKILL


async def test_a_registry_that_is_away_is_said_once_and_the_server_runs(gateway: AdminRegistry) -> None:
    await gateway.stop()
    running = Running(serving(gateway))
    await asyncio.sleep(1.5)
    await gateway.start()
    await eventually(lambda: gateway.ids() != [])
    running.process.terminate()
    _, said = await running.ended()
    assert said.count("still trying") == 1


@pytest.mark.parametrize(
    ("code", "expected"),
    [("raise SystemExit(7)", 7), ("import os; os.kill(os.getpid(), 9)", 137)],
    ids=["exit", "signal"],
)
async def test_a_child_that_ends_before_it_serves_is_never_registered(
    gateway: AdminRegistry, code: str, expected: int
) -> None:
    dying = replace(serving(gateway), command=(sys.executable, "-c", code))
    ended, _ = await Running(dying).ended()
    assert ended == expected
    assert gateway.calls == []


# Trouble before the start: no child is left behind


def test_a_command_that_does_not_exist_is_named() -> None:
    nowhere = Plan(("no-such-command",), {}, DEFAULT_REGISTRY, "digits", ("127.0.0.1", free_port()))
    with pytest.raises(Trouble, match="cannot run no-such-command"):
        run_child(nowhere, print)


def test_a_port_that_is_taken_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        plan = Plan(("true",), {}, DEFAULT_REGISTRY, "digits", ("127.0.0.1", taken.getsockname()[1]))
        with pytest.raises(Trouble, match="already listens"):
            run_child(plan, print)


def test_a_server_on_another_port_is_stopped_and_named() -> None:
    deaf = Plan(("sleep", "60"), dict(os.environ), DEFAULT_REGISTRY, "digits", ("127.0.0.1", free_port()))
    with pytest.raises(Trouble, match="the port it was given"):
        run_child(replace(deaf, start_within=0.2), print)
