"""Folders, memory and S3 answer alike; S3 is moto's server, spoken to by s3fs as any other."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer

from backends.errors import LoadError
from backends.files import Files, LocalFiles, RemoteFiles, is_remote, open_files
from backends.lifecycle import list_versions, promote, push, retire
from backends.mirror import Mirror, folder_for
from tests.backends.models import adder, put
from tests.backends.process import Backend

KEYS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """The address of an S3 server with an empty bucket `models`."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    before = {key: os.environ.get(key) for key in KEYS}
    os.environ.update(KEYS)
    boto3.client("s3", endpoint_url=f"http://{host}:{port}").create_bucket(Bucket="models")
    yield f"http://{host}:{port}"
    server.stop()
    for key, value in before.items():
        os.environ.pop(key) if value is None else os.environ.update({key: value})


@pytest.fixture(params=["folder", "memory", "s3"])
def files(request: pytest.FixtureRequest, tmp_path: Path) -> Files:
    place = f"{tmp_path.name}-files"
    if request.param == "folder":
        (tmp_path / "repository").mkdir()
        return open_files(str(tmp_path / "repository"))
    if request.param == "memory":
        return open_files(f"memory://{place}")
    url = request.getfixturevalue("s3")
    return open_files(f"s3://models/{place}", {"endpoint_url": url})


@pytest.fixture
def version(tmp_path: Path) -> Path:
    folder = put(tmp_path / "new", "sum", "1", adder(), {"summary": "adds"})
    (folder / "data").mkdir()
    (folder / "data" / "notes.txt").write_text("n")
    return folder


def test_what_was_published_is_walked_read_replaced_and_removed(
    files: Files, version: Path, tmp_path: Path
) -> None:
    files.publish(version, "sum/1", "model.onnx")
    assert sorted(files.walk()) == ["sum/1/data/notes.txt", "sum/1/model.onnx", "sum/1/model.yaml"]
    assert files.read("sum/1/data/notes.txt") == b"n"
    assert files.read("sum/1/other") is None
    before = files.walk()["sum/1/model.yaml"]
    files.write("sum/1/model.yaml", b"summary: adds more\n")
    assert files.walk()["sum/1/model.yaml"] != before
    files.fetch("sum/1/model.onnx", tmp_path / "here")
    assert (tmp_path / "here").read_bytes() == adder()
    files.remove("sum/1/model.yaml")
    assert "sum/1/model.yaml" not in files.walk()


def test_a_mirror_follows_and_fetches_only_what_changed(files: Files, version: Path, tmp_path: Path) -> None:
    files.publish(version, "sum/1", "model.onnx")
    fetched: list[str] = []

    class Counting:
        walk = staticmethod(files.walk)

        @staticmethod
        def fetch(path: str, to: Path) -> None:
            fetched.append(path)
            files.fetch(path, to)

    mirror = Mirror(Counting(), tmp_path / "copy")  # type: ignore[arg-type]
    mirror.refresh()
    assert (tmp_path / "copy" / "sum" / "1" / "model.onnx").read_bytes() == adder()
    assert len(fetched) == 3
    fetched.clear()
    Mirror(Counting(), tmp_path / "copy").refresh()  # type: ignore[arg-type] # another process: it remembers
    assert fetched == []
    files.write("sum/1/model.yaml", b"summary: other\n")
    files.remove("sum/1/data/notes.txt")
    mirror.refresh()
    assert fetched == ["sum/1/model.yaml"]
    assert not (tmp_path / "copy" / "sum" / "1" / "data").exists()


def test_a_mirror_stays_inside_its_folder_and_outlives_its_store(tmp_path: Path) -> None:
    class Hostile:
        away = False

        def walk(self) -> dict[str, str]:
            if self.away:
                raise LoadError("s3://x: away")
            return {"../evil": "1", "/etc/passwd": "1", "sum/1/model.onnx": "1"}

        def fetch(self, path: str, to: Path) -> None:
            to.write_bytes(path.encode())

    store = Hostile()
    mirror = Mirror(store, tmp_path / "copy")  # type: ignore[arg-type]
    mirror.refresh()
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == [".tags.json", "model.onnx"]
    store.away = True
    mirror.refresh_if_possible()
    with pytest.raises(LoadError):
        Mirror(store, tmp_path / "none").refresh_if_possible()  # type: ignore[arg-type]


def test_versions_are_pushed_promoted_and_retired_anywhere(files: Files, version: Path) -> None:
    assert push(files, "sum", version / "model.onnx") == "1"
    assert push(files, "sum", version) == "2"
    assert promote(files, "sum", "1") == ""
    assert promote(files, "sum", "2") == "1"
    retire(files, "sum", "1", "2", "", "2026-11-22")
    first, second = list_versions(files, "sum")
    assert first.retired is not None
    assert first.retired.successor == "2"
    assert (second.labels, second.card.summary, second.complete) == (("stable",), "adds", True)


def test_a_server_follows_a_bucket(s3: str, version: Path, tmp_path: Path) -> None:
    place = f"s3://models/{tmp_path.name}-served"
    files = open_files(place, {"endpoint_url": s3})
    push(files, "sum", version)
    settings = tmp_path / "server.yaml"
    settings.write_text(
        f"repository: {place}\nstorage: {{endpoint_url: '{s3}'}}\ncache: {tmp_path}/cache\npoll: 50ms\n"
    )
    with Backend("--config", str(settings)) as backend:
        assert backend.ready.endswith("models=sum:1")
        push(files, "sum", version)
        backend.until("/v2/models/sum/versions/2/ready", 200)
        retire(files, "sum", "1", "2", "too old", "2026-11-22")
        backend.until("/v2/models/sum/versions/1", 410)
        _, body, headers = backend.call("GET", "/v2/models/sum/versions/1")
        assert b"its successor is sum version 2" in body
        assert headers["Link"] == '</v2/models/sum/versions/2>; rel="successor-version"'


def test_errors_of_a_store_name_the_path_and_no_secret(s3: str, tmp_path: Path) -> None:
    files = RemoteFiles("s3://nowhere/at/all", {"endpoint_url": s3, "secret": "hush", "key": "hush"})
    with pytest.raises(LoadError) as caught:
        files.fetch("x", Path("/dev/null"))
    assert str(caught.value).startswith("s3://nowhere/at/all/x: ")
    assert "hush" not in str(caught.value)
    with pytest.raises(LoadError, match="no such folder"):
        LocalFiles(tmp_path / "none").walk()


def test_urls_are_told_from_folders_and_each_has_its_copy() -> None:
    assert is_remote("s3://bucket/models")
    assert not is_remote("models")
    one, other = (folder_for(f"s3://{name}", Path("/cache")) for name in ("a", "b"))
    assert one.parent == other.parent == Path("/cache/models")
    assert one != other
