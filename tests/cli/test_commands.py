"""check, diff, explain, endpoints and the overrides, as typed, against a whole gateway in this process."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from gateway.cli.main import main
from tests.runtime.running import (
    Backend,
    Running,
    backend,
    echo_page,
    kserve,
    model_page,
    running,
    until,
    write,
)

NOBODY = "http://127.0.0.1:1"
HEAVY = ("numpy", "aiohttp", "uvloop", "redis", "opentelemetry", "jwt", "cryptography", "yaml")


@dataclass(frozen=True)
class Done:
    code: int
    out: str
    err: str


class Shell:
    """Types commands. A gateway in the same process goes on meanwhile."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    async def run(self, *words: object) -> Done:
        self._capsys.readouterr()
        code = await asyncio.to_thread(self._main, [str(word) for word in words])
        out, err = self._capsys.readouterr()
        return Done(code, out, err)

    @staticmethod
    def _main(words: list[str]) -> int:
        try:
            return main(words)
        except SystemExit as usage:
            return int(usage.code or 0)


@pytest.fixture
def shell(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Shell:
    monkeypatch.delenv("HEADGATE_ADMIN_TOKEN", raising=False)
    return Shell(capsys)


@pytest.fixture
async def behind() -> AsyncIterator[Backend]:
    async with backend() as made:
        yield made


@pytest.fixture
async def gateway(tmp_path: Path, behind: Backend) -> AsyncIterator[Running]:
    async with running(tmp_path, echo_page(behind.port, "    throttle: 1/h burst 1\n")) as made:
        yield made


# check


async def test_check_counts_what_is_good(shell: Shell, tmp_path: Path) -> None:
    write(tmp_path, echo_page(9001))
    done = await shell.run("check", "--policies", tmp_path)
    assert (done.code, done.err) == (0, "")
    assert "1 endpoints, 1 pools" in done.out


async def test_check_tells_every_mistake_with_its_place(shell: Shell, tmp_path: Path) -> None:
    write(tmp_path, "pools: {a: {}}\nendpoints: {b: {match: x}}\n")
    done = await shell.run("check", "--policies", tmp_path)
    assert done.code == 1
    assert "page.yaml:1:" in done.out
    assert "page.yaml:2:" in done.out
    assert done.out.splitlines()[-1].startswith("2 errors in ")


async def test_check_prints_the_schema_for_editors(shell: Shell) -> None:
    done = await shell.run("check", "--schema")
    assert (done.code, "throttle" in json.dumps(json.loads(done.out))) == (0, True)


# diff


async def test_diff_shows_what_would_change_of_the_running_policies(
    shell: Shell, gateway: Running, behind: Backend, tmp_path_factory: pytest.TempPathFactory
) -> None:
    words = ("diff", "--admin", gateway.admin_url, "--policies")
    same = await shell.run(*words, gateway.folder)
    assert (same.code, same.out) == (0, "nothing would change\n")
    other = tmp_path_factory.mktemp("other")
    write(other, "log: {access: off}\n" + echo_page(behind.port, "    throttle: 2/h burst 1\n"))
    done = await shell.run(*words, other)
    assert done.code == 1
    changed = [line for line in done.out.splitlines() if line[:1] in "+-" and line[:3] not in ("+++", "---")]
    assert [line[0] for line in changed] == ["-", "+"]
    assert all("endpoints.echo.throttle" in line for line in changed)


async def test_diff_compares_two_folders_without_a_gateway(shell: Shell, tmp_path: Path) -> None:
    for name, path in (("a", "/a"), ("b", "/b")):
        (tmp_path / name).mkdir()
        write(tmp_path / name, f"pools: {{p: {{find: p}}}}\nendpoints: {{e: {{match: {path}, send: p}}}}\n")
    done = await shell.run("diff", "--policies", tmp_path / "b", "--against", tmp_path / "a")
    assert done.code == 1
    assert "-endpoints.e.match.path = /a" in done.out
    assert "+endpoints.e.match.path = /b" in done.out


async def test_diff_of_mistakes_tells_them(shell: Shell, tmp_path: Path) -> None:
    write(tmp_path, "nonsense: 1\n")
    done = await shell.run("diff", "--policies", tmp_path, "--admin", NOBODY)
    assert (done.code, "page.yaml:1:1" in done.out) == (1, True)


# explain


async def test_explain_says_who_would_serve(shell: Shell, gateway: Running, behind: Backend) -> None:
    done = await shell.run("explain", "get", "/echo/a", "--admin", gateway.admin_url)
    assert done.code == 0
    assert done.out.startswith("GET /echo/a\n  endpoint  echo  (")
    assert "=> 200" in done.out
    assert f"would be sent to 127.0.0.1:{behind.port} of pool echo" in done.out
    assert behind.paths == []


async def test_explain_says_which_line_refuses_and_when_it_would_pass(shell: Shell, gateway: Running) -> None:
    await gateway.status("/echo/a")
    done = await shell.run("explain", "GET", "/echo/a", "--admin", gateway.admin_url)
    assert done.code == 1
    assert "=> 429" in done.out
    assert "page.yaml:8:" in done.out
    assert "it would pass sent again in" in done.out


async def test_explain_takes_headers_and_a_body_from_a_file(
    shell: Shell, tmp_path: Path, behind: Backend
) -> None:
    behind.handler = kserve
    body = tmp_path / "body.json"
    body.write_text(json.dumps({"instances": [[1, 2, 3]]}))
    folder = tmp_path / "policies"
    folder.mkdir()
    async with running(folder, model_page(behind.port, "    validate: true\n")) as gateway:
        words = ("explain", "POST", "/v1/models/m:predict", "--admin", gateway.admin_url, "-H", "X-A: b")
        done = await shell.run(*words, "-d", f"@{body}")
        assert (done.code, "=> 4" in done.out) == (1, True)
        body.write_text(json.dumps({"instances": [[1, 2]]}))
        assert (await shell.run(*words, "-d", f"@{body}")).code == 0
    assert [path for path in behind.paths if path.endswith("infer")] == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("-H", "no colon"), "'no colon'"),
        (("-d", "@/nowhere/at/all"), "/nowhere/at/all"),
        (("-d", "@/dev/null/x"), "/dev/null/x"),
    ],
    ids=str,
)
async def test_explain_of_a_mistyped_request_ends_with_2(
    shell: Shell, words: tuple[str, str], said: str
) -> None:
    done = await shell.run("explain", "GET", "/", "--admin", NOBODY, *words)
    assert (done.code, said in done.err) == (2, True)


# endpoints


async def test_endpoints_shows_versions_labels_filters_and_instances(
    shell: Shell, tmp_path: Path, behind: Backend
) -> None:
    behind.handler = kserve
    async with running(tmp_path, model_page(behind.port, "    labels: {stable: 1}\n")) as gateway:
        done = await shell.run("endpoints", "--admin", gateway.admin_url)
    assert done.code == 0
    assert "m  (model m; " in done.out
    assert "version 1 stable -> pool m" in done.out
    assert " > " in done.out
    assert f"127.0.0.1:{behind.port}" in done.out


async def test_endpoints_shows_who_gets_less_than_its_share(
    shell: Shell, tmp_path: Path, behind: Backend
) -> None:
    behind.handler = kserve
    async with running(tmp_path, model_page(behind.port, "    labels: {stable: 1}\n")) as gateway:
        (instance,) = gateway.worker.snapshot.pools["m"].members.instances
        instance.doubted_until = float("inf")
        done = await shell.run("endpoints", "--admin", gateway.admin_url)
        metrics = gateway.worker.metrics().decode()
    assert "doubted (10%)" in done.out
    (share,) = [line for line in metrics.splitlines() if line.startswith("headgate_instance_share{")]
    assert share.endswith(" 0.1")


# Gateways that don't answer as hoped


ASKING = [("endpoints",), ("explain", "GET", "/"), ("diff",)]


@pytest.mark.parametrize("words", ASKING, ids=lambda words: words[0])
async def test_nobody_there_ends_with_3(shell: Shell, tmp_path: Path, words: tuple[str, ...]) -> None:
    policies = ("--policies", str(tmp_path)) if words == ("diff",) else ()
    done = await shell.run(*words, *policies, "--admin", NOBODY)
    assert (done.code, NOBODY in done.err) == (3, True)


@pytest.mark.parametrize("words", ASKING, ids=lambda words: words[0])
async def test_a_missing_token_ends_with_1_and_says_what_is_needed(
    shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    monkeypatch.setenv("HEADGATE_TEST_TOKEN", "admin-token")
    base = "listen: {admin: {token: '${env:HEADGATE_TEST_TOKEN}'}}\nlog: {access: off}\n"
    async with running(tmp_path, "", base) as gateway:
        policies = ("--policies", str(tmp_path)) if words == ("diff",) else ()
        done = await shell.run(*words, *policies, "--admin", gateway.admin_url)
        assert (done.code, "HEADGATE_ADMIN_TOKEN" in done.err) == (1, True)
        monkeypatch.setenv("HEADGATE_ADMIN_TOKEN", "admin-token")
        assert "HEADGATE" not in (await shell.run(*words, *policies, "--admin", gateway.admin_url)).err


@pytest.mark.parametrize("said", [b"220 mail\r\n", b"", b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n<a/>"])
async def test_something_else_at_that_port_ends_with_3(shell: Shell, said: bytes) -> None:
    async def other(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(said)
        writer.close()

    server = await asyncio.start_server(other, "127.0.0.1", 0)
    async with server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        assert (await shell.run("endpoints", "--admin", url)).code == 3


async def test_another_servers_404_ends_with_3(shell: Shell) -> None:
    async with TestServer(web.Application(), host="127.0.0.1") as server:
        done = await shell.run("endpoints", "--admin", str(server.make_url("")))
    assert (done.code, "no Headgate" in done.err) == (3, True)


async def test_no_proxy_is_asked(shell: Shell, gateway: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, NOBODY)
    assert (await shell.run("endpoints", "--admin", gateway.admin_url)).code == 0


# Overrides


async def test_a_throttle_is_felt_and_cleared_within_a_second(
    shell: Shell, tmp_path: Path, behind: Backend
) -> None:
    async with running(tmp_path, echo_page(behind.port)) as gateway:
        before = gateway.worker.snapshot
        done = await shell.run("throttle", "echo", "1/h", "--for", "1m", "--policies", tmp_path)
        assert (done.code, done.err) == (0, "")
        assert "+" in done.out
        assert "(in 1m)" in done.out
        assert await until(lambda: gateway.worker.snapshot is not before) < 1.0
        assert [await gateway.status("/echo/a") for _ in range(2)] == [200, 429]
        before = gateway.worker.snapshot
        done = await shell.run("clear", "echo", "--policies", tmp_path)
        assert (done.code, done.err) == (0, "")
        assert await until(lambda: gateway.worker.snapshot is not before) < 1.0
        assert await gateway.status("/echo/a") == 200
        again = await shell.run("clear", "echo", "--policies", tmp_path)
        assert (again.code, again.out) == (0, "nothing to change\n")


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("throttle", "echo", "fast"), 1),
        (("throttle", "nobody", "1/s"), 1),
        (("degrade", "echo", "--to", "nowhere"), 1),
        (("throttle", "echo", "1/s", "--for", "soon"), 2),
        (("throttle", "echo"), 2),
        (("degrade", "echo"), 2),
    ],
    ids=str,
)
async def test_an_override_that_would_not_load_is_not_written(
    shell: Shell, tmp_path: Path, words: tuple[str, ...], code: int
) -> None:
    write(tmp_path, echo_page(9001))
    done = await shell.run(*words, "--policies", tmp_path)
    assert done.code == code
    assert done.out + done.err
    assert not (tmp_path / "overrides.yaml").exists()


# The command by itself


@pytest.mark.parametrize(
    "command",
    ["", "serve", "demo", "check", "diff", "explain", "endpoints", "keys", "register", "throttle", "clear"],
)
def test_help_imports_nothing_heavy(command: str) -> None:
    program = (
        "import sys\nfrom gateway.cli.main import main\n"
        f"try: main([*{[command] if command else []!r}, '--help'])\n"
        "except SystemExit as end: assert not end.code\n"
        f"print(sorted(set({HEAVY!r}) & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stderr) == (0, "[]\n")
    assert "usage: headgate" in done.stdout


async def test_no_command_and_an_unknown_one_are_wrong_usage(shell: Shell) -> None:
    assert (await shell.run()).code == 2
    assert (await shell.run("fly")).code == 2


async def test_the_version_is_told(shell: Shell) -> None:
    done = await shell.run("--version")
    assert (done.code, done.out.startswith("headgate ")) == (0, True)
