"""Policies at run time, on a whole gateway: seen within a second, the last good ones kept."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from aiohttp import web

from gateway.config.schema import Schema
from gateway.runtime import policies
from gateway.runtime.policies import needs_restart, read, signature
from tests.runtime.running import BASE, Backend, Running, backend, echo_page, running, until, write

WITHIN = 1.0  # s, promised


@pytest.fixture
async def behind() -> AsyncIterator[Backend]:
    async with backend() as made:
        yield made


@pytest.fixture
async def gateway(tmp_path: Path, behind: Backend) -> AsyncIterator[Running]:
    async with running(tmp_path, echo_page(behind.port)) as made:
        yield made


# What is seen


async def test_a_saved_file_is_live_within_a_second(gateway: Running, behind: Backend) -> None:
    before = gateway.worker.snapshot
    write(gateway.folder, echo_page(behind.port, "    throttle: 1/h burst 1\n"))
    assert await until(lambda: gateway.worker.snapshot is not before) < WITHIN
    assert [await gateway.status("/echo/a") for _ in range(2)] == [200, 429]


async def test_a_file_written_in_place_is_seen_too(gateway: Running, behind: Backend) -> None:
    before = gateway.worker.snapshot
    with (gateway.folder / "page.yaml").open("a") as page:
        page.write("    throttle: 1/h burst 1\n")
    assert await until(lambda: gateway.worker.snapshot is not before) < WITHIN


async def test_a_new_file_and_a_removed_file_are_seen(gateway: Running) -> None:
    write(gateway.folder, "plans: {gold: {}}\n", "plans.yaml")
    built = gateway.worker.policies
    await until(lambda: built.built is not None and "gold" in built.built.schema.plans)
    (gateway.folder / "plans.yaml").unlink()
    await until(lambda: built.built is not None and "gold" not in built.built.schema.plans)


async def test_a_links_target_that_is_swapped_is_seen(tmp_path: Path, behind: Backend) -> None:
    """How Kubernetes updates a ConfigMap: the files are links into a folder that is itself a link."""
    for number, verbs in enumerate(("", "    throttle: 1/h burst 1\n")):
        (tmp_path / f"data{number}").mkdir()
        write(tmp_path / f"data{number}", echo_page(behind.port, verbs), "mapped.yaml")
    os.symlink("data0", tmp_path / "current")
    folder = tmp_path / "policies"
    folder.mkdir()
    os.symlink("../current/mapped.yaml", folder / "mapped.yaml")
    async with running(folder, "") as gateway:
        before = gateway.worker.snapshot
        os.symlink("data1", tmp_path / "next")
        (tmp_path / "next").rename(tmp_path / "current")
        assert await until(lambda: gateway.worker.snapshot is not before) < WITHIN


async def test_a_comment_changes_nothing_that_runs(gateway: Running, behind: Backend) -> None:
    before, page = gateway.worker.snapshot, "# why\n" + echo_page(behind.port)
    write(gateway.folder, page)
    await gateway.worker.policies.reload()
    assert gateway.worker.snapshot is before
    assert gateway.worker.policies.report.ok


async def test_requests_under_way_keep_the_rules_they_began_with(gateway: Running, behind: Backend) -> None:
    arrived, go = asyncio.Event(), asyncio.Event()

    async def wait(request: web.Request) -> web.StreamResponse:
        arrived.set()
        await go.wait()
        return web.Response()

    behind.handler = wait
    under_way = asyncio.create_task(gateway.status("/echo/a"))
    await arrived.wait()
    write(gateway.folder, "endpoints: {}\n")
    await gateway.worker.policies.reload()
    go.set()
    assert await under_way == 200
    assert await gateway.status("/echo/a") == 404


# What can't be loaded


async def test_a_mistake_keeps_the_last_good_policies_and_is_told_with_its_place(
    gateway: Running, behind: Backend
) -> None:
    before, running_policies = gateway.worker.snapshot, gateway.worker.policies
    write(gateway.folder, echo_page(behind.port, "    throtle: 1/h\n"))
    await until(lambda: not running_policies.report.ok)
    assert gateway.worker.snapshot is before
    assert await gateway.status("/echo/a") == 200
    (error,) = running_policies.report.errors
    assert "page.yaml:8:" in error
    assert "throttle" in error
    assert b"headgate_policies_ok 0.0" in gateway.worker.metrics()
    assert b"headgate_policies_failures_total 1.0" in gateway.worker.metrics()
    write(gateway.folder, echo_page(behind.port))
    await until(lambda: running_policies.report.ok)


async def test_a_folder_that_vanishes_for_a_while_changes_nothing(gateway: Running) -> None:
    before = gateway.worker.snapshot
    gateway.folder.rename(gateway.folder.with_name("away"))
    await until(lambda: gateway.worker.policies.failures)
    gateway.folder.with_name("away").rename(gateway.folder)
    await until(lambda: gateway.worker.policies.report.ok)
    assert gateway.worker.snapshot is before


async def test_a_build_that_fails_is_told_and_the_next_one_is_tried(
    gateway: Running, behind: Backend, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    before = gateway.worker.snapshot

    def broken(*parts: object) -> None:
        raise RuntimeError("a bug of ours")

    with monkeypatch.context() as patched:
        patched.setattr(policies, "build", broken)
        write(gateway.folder, echo_page(behind.port, "    timeout: 3s\n"))
        await until(lambda: not gateway.worker.policies.report.ok)
    assert gateway.worker.snapshot is before
    assert await gateway.status("/echo/a") == 200
    write(gateway.folder, echo_page(behind.port, "    timeout: 4s\n"))
    assert await until(lambda: gateway.worker.snapshot is not before) < WITHIN


# What changes beside the folder


async def test_a_rotated_secret_file_is_a_change(tmp_path: Path) -> None:
    secret, folder = tmp_path / "token", tmp_path / "policies"
    folder.mkdir()
    secret.write_text("first")
    base = f"{BASE}telemetry: {{headers: {{authorization: '${{file:{secret}}}'}}}}\n"
    async with running(folder, "", base) as gateway:
        running_policies = gateway.worker.policies
        secret.write_text("second one")
        await until(lambda: running_policies.reloads == 1)
        assert running_policies.built is not None
        assert running_policies.built.schema.telemetry.headers["authorization"].reveal() == "second one"
        assert "second" not in str(running_policies.report)


async def test_an_override_ends_by_itself_without_an_edit(
    gateway: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = gateway.worker._clock
    wall = clock.wall
    until_ = datetime.fromtimestamp(wall() + 3600, UTC).isoformat(sep=" ", timespec="seconds")
    write(gateway.folder, f'echo: {{throttle: 1/h burst 1, until: "{until_}"}}\n', "overrides.yaml")
    before = gateway.worker.snapshot
    assert await until(lambda: gateway.worker.snapshot is not before) < WITHIN
    assert [await gateway.status("/echo/a") for _ in range(3)] == [200, 429, 429]
    during = gateway.worker.snapshot
    monkeypatch.setattr(clock, "wall", lambda: wall() + 3601, raising=False)
    assert [await gateway.status("/echo/a") for _ in range(3)] == [200, 200, 200]
    assert gateway.worker.snapshot is during


# What only a restart applies


async def test_what_needs_a_restart_is_told_until_the_restart(gateway: Running, behind: Backend) -> None:
    write(gateway.folder, "log: {access: off, level: debug}\n", "gateway.yaml")
    report = await gateway.worker.policies.reload()
    note = "'log' was changed: that takes effect at the next start"
    assert report.notes == (note,)
    write(gateway.folder, echo_page(behind.port, "    timeout: 3s\n"))
    assert (await gateway.worker.policies.reload()).notes == (note,)
    write(gateway.folder, BASE, "gateway.yaml")
    assert (await gateway.worker.policies.reload()).notes == ()


@pytest.mark.parametrize(
    ("page", "told"),
    [
        ("limits: {header_bytes: 4KiB}", "'limits.header_bytes'"),
        ("limits: {drain: 1s}", "'limits.drain'"),
        ("limits: {request_timeout: 1s}", None),
        ("limits: {trusted_proxies: [10.0.0.0/8]}", None),
        ("listen: {http: '127.0.0.1:1'}", "'listen'"),
        ("stores: {on_store_failure: closed}", None),
        ("stores: {cache: {size: 1MiB}}", "'stores'"),
    ],
)
def test_a_note_names_what_waits_for_a_restart_and_nothing_else(
    tmp_path: Path, page: str, told: str | None
) -> None:
    write(tmp_path, page)
    after = read(tmp_path).schema
    assert after is not None
    notes = needs_restart(Schema(), after)
    assert [note.split(" ")[0] for note in notes] == ([] if told is None else [told])


def test_a_signature_tells_same_sized_edits_apart(tmp_path: Path) -> None:
    write(tmp_path, "plans: {a: {}}\n")
    before = signature(tmp_path)
    assert signature(tmp_path) == before
    write(tmp_path, "plans: {b: {}}\n")
    assert signature(tmp_path) != before
