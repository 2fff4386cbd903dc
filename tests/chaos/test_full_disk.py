"""The disk is full: requests go on, what is lost is counted and said once, and it goes on when there is room.

Full is what the kernel says at a file-size limit set from outside while the gateway runs (prlimit): the same
failing `write` as on a full disk, without one. Registries and stores that die are in tests/integration:
test_demo_etcd.py and test_demo_redis.py.
"""

from __future__ import annotations

import json
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.chaos import Recorder
from tests.integration.running import Running, until

GATEWAY = """\
log: {{access: access.log, level: warning}}
registry: {{local: {{snapshot: registry.json, ttl: 60s}}}}
"""
PAGE = """\
pools:
  all: {{instances: ['127.0.0.1:{port}']}}
endpoints:
  all: {{match: '/**', authenticate: none, send: all}}
"""
ROOM = 64 * 1024  # bytes that a file may have while the disk is full


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("disk")
    with Recorder() as instance:
        (folder / "policies").mkdir()
        (folder / "policies/gateway.yaml").write_text(GATEWAY.format())
        (folder / "policies/page.yaml").write_text(PAGE.format(port=instance.port))
        with Running(folder) as running:
            yield running


def allow_files_of(running: Running, size: int) -> None:
    """Let no file of the gateway grow beyond this many bytes."""
    assert running.process is not None
    resource.prlimit(running.process.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def lines(path: Path) -> int:
    return len(path.read_text().splitlines()) if path.exists() else 0


def test_a_full_disk_costs_log_lines_and_no_request(running: Running) -> None:
    log = running.folder / "access.log"
    running.ask("/before", headers={})
    until(lambda: lines(log) == 1, "the first line")
    allow_files_of(running, log.stat().st_size)
    assert [running.ask(f"/full{number}", headers={}).status for number in range(100)] == [200] * 100
    until(lambda: running.metric("headgate_access_log_dropped_total") > 0, "lines to be counted as lost")
    assert lines(log) == 1
    allow_files_of(running, resource.RLIM_INFINITY)
    until(lambda: running.ask("/after", headers={}) and lines(log) > 1, "the log to go on")
    last = json.loads(log.read_text().splitlines()[-1])
    assert last["path"] == "/after"
    assert running.metric("headgate_bugs_total") == 0


def test_a_registry_that_can_not_be_saved_is_said_once_and_saved_later(running: Running) -> None:
    saved = running.folder / "registry.json"
    allow_files_of(running, 16)
    told = running.output().count("snapshot_not_saved")
    for number in range(5):
        body = json.dumps({"id": f"one-{number}", "address": f"127.0.0.1:{9000 + number}"}).encode()
        answer = running.ask_admin("/registry/digits", {"Content-Type": "application/json"}, "POST", body)
        assert answer.status == 201, answer.body
    until(lambda: not saved.exists() or b"one-4" not in saved.read_bytes(), "nothing saved")
    assert running.ask("/still", headers={}).status == 200
    allow_files_of(running, resource.RLIM_INFINITY)
    assert running.output().count("snapshot_not_saved") <= told + 1
    body = json.dumps({"id": "one-5", "address": "127.0.0.1:9005"}).encode()
    assert (
        running.ask_admin("/registry/digits", {"Content-Type": "application/json"}, "POST", body).status
        == 201
    )
    until(lambda: saved.exists() and b"one-5" in saved.read_bytes(), "the registry to be saved")
    assert b"one-0" in saved.read_bytes()
