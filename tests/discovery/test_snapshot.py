from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.discovery.snapshot import Snapshot, SnapshotFile, SnapshotRefused

SNAPSHOT = Snapshot(7, "c1", 1000.0, {"digits": {"a": '{"Addr":"127.0.0.1:1"}'}})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "etcd.json"


def test_no_file_is_no_snapshot(path: Path) -> None:
    assert SnapshotFile(path).load(0.0, 10.0) is None


@given(
    st.integers(0, 2**62),
    st.floats(0, 1e10),
    st.dictionaries(st.text(), st.dictionaries(st.text(), st.text(), max_size=3), max_size=3),
)
def test_what_is_saved_is_loaded(
    tmp_path_factory: pytest.TempPathFactory,
    revision: int,
    saved_at: float,
    services: dict[str, dict[str, str]],
) -> None:
    file = SnapshotFile(tmp_path_factory.getbasetemp() / "round-trip.json")
    snapshot = Snapshot(revision, "c", saved_at, services)
    file.save(snapshot)
    assert file.load(saved_at, 0.0) == snapshot


def test_the_file_is_readable_by_people_and_only_by_its_owner(path: Path) -> None:
    SnapshotFile(path).save(SNAPSHOT)
    assert json.loads(path.read_text())["snapshot"]["services"]["digits"]["a"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_saving_replaces_and_leaves_nothing_beside(path: Path) -> None:
    file = SnapshotFile(path)
    file.save(SNAPSHOT)
    file.save(Snapshot(8, "c1", 1001.0))
    loaded = file.load(1001.0, 10.0)
    assert loaded is not None
    assert loaded.revision == 8
    assert os.listdir(path.parent) == [path.name]


def test_an_old_snapshot_is_refused(path: Path) -> None:
    SnapshotFile(path).save(SNAPSHOT)
    assert SnapshotFile(path).load(1060.0, 60.0) == SNAPSHOT
    with pytest.raises(SnapshotRefused, match="61 s old"):
        SnapshotFile(path).load(1061.0, 60.0)


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: text.replace("127.0.0.1", "10.66.6.6"),
        lambda text: "",
        lambda text: "[]",
        lambda text: '{"sha256": "", "snapshot": {}}',
    ],
    ids=["torn", "edited", "empty", "a list", "no digest"],
)
def test_a_damaged_snapshot_is_refused(path: Path, damage: object) -> None:
    assert callable(damage)
    SnapshotFile(path).save(SNAPSHOT)
    path.write_text(damage(path.read_text()))
    with pytest.raises(SnapshotRefused, match="damaged"):
        SnapshotFile(path).load(1000.0, 60.0)


def test_an_unreadable_snapshot_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SnapshotRefused, match="directory"):
        SnapshotFile(tmp_path).load(0.0, 60.0)


def test_a_full_disk_raises_and_keeps_the_old_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = SnapshotFile(path)
    file.save(SNAPSHOT)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        file.save(Snapshot(8, "c1", 1001.0))
    assert file.load(1000.0, 60.0) == SNAPSHOT
    assert os.listdir(path.parent) == [path.name]
