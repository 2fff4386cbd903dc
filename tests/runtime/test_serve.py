"""The gateway's process: exit codes, signals, and what the command line overrules."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gateway.config.schema import Schema
from gateway.config.units import Address
from gateway.runtime.serve import overrule, read_registry, serve
from tests.runtime.running import write

BACKEND = """
import sys, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
class Slow(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def log_message(self, *a): pass
    def do_GET(self):
        print("asked", flush=True)
        time.sleep(0.5)
        self.send_response(200); self.send_header("Content-Length", "4"); self.end_headers()
        self.wfile.write(b"done")
server = ThreadingHTTPServer(("127.0.0.1", 0), Slow)
print(server.server_port, flush=True)
server.serve_forever()
"""


class Process:
    """`headgate serve` on free ports, ready."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        command = [sys.executable, "-m", "gateway", "serve", "--policies", str(folder), "--access-log", "off"]
        command += ["--http", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", *arguments]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert self.process.stderr is not None
        lines = []
        for line in self.process.stderr:
            lines.append(line)
            if line.startswith("ready "):
                break
        else:
            raise AssertionError("".join(lines))
        _, self.http, _, self.admin = line.split()

    def ends(self) -> tuple[int, str]:
        _, errors = self.process.communicate(timeout=20)
        return self.process.returncode, errors


@contextmanager
def serving(folder: Path) -> Iterator[Process]:
    made = Process(folder)
    try:
        yield made
    finally:
        made.process.kill()
        made.process.communicate()


@contextmanager
def slow_backend() -> Iterator[tuple[int, subprocess.Popen[str]]]:
    process = subprocess.Popen([sys.executable, "-c", BACKEND], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield int(process.stdout.readline()), process
    finally:
        process.kill()
        process.communicate()


def page(port: int) -> str:
    return (
        f"limits: {{drain: 5s}}\npools: {{slow: {{instances: ['127.0.0.1:{port}']}}}}\n"
        "endpoints: {slow: {match: /**, authenticate: none, send: slow}}\n"
    )


# Starts that fail


def test_invalid_policies_end_with_1_and_say_where_the_mistakes_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path, "limits:\n  header_byts: 1KiB\npoools: {}\n")
    assert serve(tmp_path) == 1
    errors = capsys.readouterr().err
    assert "page.yaml:2:3" in errors
    assert "page.yaml:3:1" in errors


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ({"http": "nowhere"}, "nowhere"),
        ({"admin": "127.0.0.1:99999"}, "99999"),
        ({"registry": "zookeeper://x"}, "zookeeper://x"),
    ],
    ids=["http", "admin", "registry"],
)
def test_a_bad_option_ends_with_2(
    tmp_path: Path, option: dict[str, str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert serve(tmp_path, **option) == 2  # type: ignore[arg-type]  # one keyword of several
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("port", ["http", "admin"])
def test_a_taken_port_ends_with_3_and_names_it(tmp_path: Path, port: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        options = {"http": "127.0.0.1:0", "admin": "127.0.0.1:0", port: address}
        done = subprocess.run(
            [
                *(sys.executable, "-m", "gateway", "serve", "--policies", str(tmp_path)),
                *("--http", options["http"], "--admin-listen", options["admin"], "--access-log", "off"),
            ],
            capture_output=True,
            text=True,
            timeout=30,
        )
    assert done.returncode == 3
    assert address in done.stderr
    assert "taken" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("content", [None, "no certificate"], ids=["missing", "unreadable"])
def test_a_certificate_that_is_not_one_ends_with_1_and_is_named(tmp_path: Path, content: str | None) -> None:
    authorities, folder = tmp_path / "ca.pem", tmp_path / "policies"
    folder.mkdir()
    if content is not None:
        authorities.write_text(content)
    write(folder, f"registry: {{etcd: {{servers: ['https://127.0.0.1:1'], ca: {authorities}}}}}\n")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "gateway", "serve", "--policies", str(folder)),
            *("--http", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--access-log", "off"),
        ],
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert (done.returncode, "Traceback" in done.stderr) == (1, False)
    assert f"registry.etcd: {authorities}" in done.stderr


# Signals


def test_sigterm_lets_requests_under_way_end_and_takes_no_new_ones(tmp_path: Path) -> None:
    with slow_backend() as (port, backend):
        write(tmp_path, page(port))
        with serving(tmp_path) as gateway:
            host, _, number = gateway.http.removeprefix("http://").partition(":")
            client = socket.create_connection((host, int(number)), timeout=10)
            client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert backend.stdout is not None
            assert backend.stdout.readline() == "asked\n"
            gateway.process.send_signal(signal.SIGTERM)
            answer = b"".join(iter(lambda: client.recv(65536), b""))
            assert answer.startswith(b"HTTP/1.1 200 ")
            assert answer.endswith(b"done")
            client.close()
            code, errors = gateway.ends()
            assert code == 0, errors
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection((host, int(number)), timeout=1)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_an_idle_gateway_ends_at_once(tmp_path: Path, number: signal.Signals) -> None:
    with serving(tmp_path) as gateway:
        started = time.monotonic()
        gateway.process.send_signal(number)
        code, errors = gateway.ends()
        assert (code, "Traceback" in errors) == (0, False), errors
        assert time.monotonic() - started < 5


def test_sighup_reloads(tmp_path: Path) -> None:
    with serving(tmp_path) as gateway:

        def last_read() -> float:
            with urllib.request.urlopen(f"{gateway.admin}/config", timeout=5) as answer:
                return float(json.load(answer)["last_reload"]["at"])

        before = last_read()
        gateway.process.send_signal(signal.SIGHUP)
        end = time.monotonic() + 5
        while last_read() == before:
            assert time.monotonic() < end
            time.sleep(0.02)
        gateway.process.send_signal(signal.SIGTERM)
        assert gateway.ends()[0] == 0


# What the command line overrules


def test_what_is_not_named_stays_as_the_policies_say() -> None:
    assert overrule(Schema(), None, None, None, None) == Schema()


def test_addresses_registry_and_log_are_overruled() -> None:
    schema = overrule(Schema(), "0.0.0.0:81", "127.0.0.1:82", "static", "/tmp/log")
    assert schema.listen.http.address == Address("0.0.0.0", 81)
    assert schema.listen.admin.address == Address("127.0.0.1", 82)
    assert (schema.registry.local, schema.registry.etcd, schema.registry.file) == (None, None, None)
    assert schema.log.access == "/tmp/log"


def test_an_etcd_url_names_servers_namespace_and_user() -> None:
    etcd = read_registry("etcds://ann:pw@h1:2379,h2:2379/ml").etcd
    assert etcd is not None
    assert etcd.servers == ("https://h1:2379", "https://h2:2379")
    assert (etcd.namespace, etcd.user) == ("ml", "ann")
    assert etcd.password is not None
    assert etcd.password.reveal() == "pw"
    plain = read_registry("etcd://h:2379").etcd
    assert plain is not None
    assert (plain.servers, plain.namespace, plain.user, plain.password) == (
        ("http://h:2379",),
        "default",
        None,
        None,
    )
