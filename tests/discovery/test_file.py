# ruff: noqa: ASYNC240 - a test may touch a small file without a thread

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gateway.discovery.file import BadFile, FileRegistry, read_services
from gateway.discovery.members import AddressRules, Member
from tests.discovery.watching import eventually, following

ONE = "services: {digits: [127.0.0.1:9001]}"
TWO = "services: {digits: [127.0.0.1:9001, {address: 127.0.0.1:9002, weight: 50, version: v2}]}"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "instances.yaml"
    path.write_text(ONE)
    return path


def replace(path: Path, content: str) -> None:
    """As careful tools write: a new file, renamed over the old one."""
    fresh = path.with_suffix(".new")
    fresh.write_text(content)
    os.replace(fresh, path)


def test_both_forms_of_an_instance_are_read(path: Path) -> None:
    path.write_text(TWO)
    (services,) = read_services(path).values()
    assert list(services) == [
        Member("127.0.0.1:9001", ("127.0.0.1", 9001)),
        Member("127.0.0.1:9002", ("127.0.0.1", 9002), weight=50, version="v2"),
    ]


def test_a_json_file_is_read_as_json(tmp_path: Path) -> None:
    path = tmp_path / "instances.json"
    path.write_text('{"services": {"digits": ["127.0.0.1:9001"]}}')
    assert [member.id for member in read_services(path)["digits"]] == ["127.0.0.1:9001"]


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("", "expected `services:`"),
        ("services: [1]", "expected `services:`"),
        ("services: {digits: 127.0.0.1:9001}", "services.digits: expected a list"),
        ("services: {digits: [localhost]}", r"services.digits\[0\]: expected host:port"),
        ("services: {digits: [127.0.0.1:1, 169.254.169.254:80]}", r"services.digits\[1\].*always blocked"),
        ("services: {digits: [", "line 1"),
        ("\x00", "not allowed"),
    ],
    ids=["empty", "list", "no list", "no port", "blocked", "half", "binary"],
)
def test_content_that_cannot_be_used_is_named(path: Path, content: str, why: str) -> None:
    path.write_text(content)
    with pytest.raises(BadFile, match=why):
        read_services(path)


def test_the_address_allowlist_applies_to_files(path: Path) -> None:
    with pytest.raises(BadFile, match="outside the allowed networks"):
        read_services(path, AddressRules.within("10.0.0.0/8"))


async def test_an_edit_in_place_is_seen(path: Path) -> None:
    async with following(FileRegistry(path, look_every=0.02)) as watcher:
        await watcher.until({9001})
        path.write_text(TWO)
        await watcher.until({9001, 9002})


async def test_a_replaced_file_of_the_same_size_and_time_is_seen(path: Path) -> None:
    async with following(FileRegistry(path, look_every=0.02)) as watcher:
        await watcher.until({9001})
        before = path.stat()
        fresh = path.with_suffix(".new")
        fresh.write_text(ONE.replace("9001", "9003"))
        os.utime(fresh, ns=(before.st_atime_ns, before.st_mtime_ns))
        os.replace(fresh, path)
        await watcher.until({9003})


async def test_a_change_is_live_within_the_promised_quarter_of_a_second(path: Path) -> None:
    async with following(FileRegistry(path)) as watcher:
        await watcher.until({9001})
        replace(path, TWO)
        assert await watcher.until({9001, 9002}) < 0.25 + 0.25


async def test_bad_content_keeps_the_last_good_set_and_is_reported(path: Path) -> None:
    registry = FileRegistry(path, look_every=0.02)
    async with following(registry) as watcher:
        await watcher.until({9001})
        replace(path, "services: {digits: [")
        await eventually(lambda: not registry.status().live)
        assert "line 1" in str(registry.status().reason)
        assert registry.status().services == {"digits": 1}
        replace(path, TWO)
        await watcher.until({9001, 9002})
        assert registry.status().live
        assert [len(members) for members in watcher.seen] == [1, 2]


async def test_a_file_that_disappears_keeps_the_last_good_set(path: Path) -> None:
    registry = FileRegistry(path, look_every=0.02)
    async with following(registry) as watcher:
        await watcher.until({9001})
        path.unlink()
        await eventually(lambda: "not there" in str(registry.status().reason))
        assert watcher.ports == {9001}


async def test_a_file_that_comes_later_is_found(path: Path) -> None:
    path.unlink()
    registry = FileRegistry(path, look_every=0.02)
    async with following(registry) as watcher:
        assert not registry.status().live
        path.write_text(ONE)
        await watcher.until({9001})


async def test_a_service_that_is_no_longer_named_is_empty(path: Path) -> None:
    async with following(FileRegistry(path, look_every=0.02)) as watcher:
        await watcher.until({9001})
        replace(path, "services: {}")
        await watcher.until(set())


async def test_a_kubernetes_style_symlink_swap_is_seen(tmp_path: Path) -> None:
    for name, content in (("one", ONE), ("two", TWO)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "i.yaml").write_text(content)
    link = tmp_path / "data"
    link.symlink_to("one")
    async with following(FileRegistry(link / "i.yaml", look_every=0.02)) as watcher:
        await watcher.until({9001})
        (tmp_path / "next").symlink_to("two")
        os.replace(tmp_path / "next", link)
        await watcher.until({9001, 9002})
