from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from backends.strict_yaml import ConfigError, Data, Seconds, Size, load, parse_seconds, parse_size


@dataclass(frozen=True, slots=True)
class Inner:
    depth: int = 1


@dataclass(frozen=True, slots=True)
class Outer:
    name: str
    count: int = 0
    ratio: float = 0.5
    flag: bool = False
    size: Size = Size(1)  # noqa: RUF009 a NewType's call is the value itself
    wait: Seconds = Seconds(1.0)  # noqa: RUF009
    level: Literal["low", "high"] = "low"
    inner: Inner = Inner()
    maybe: Inner | None = None
    words: tuple[str, ...] = ()
    table: Mapping[str, int] = field(default_factory=dict)
    data: Data | None = None

    def __post_init__(self) -> None:
        if self.count < 0:
            raise ValueError("count is not negative")


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "x.yaml"
    path.write_text(text)
    return path


def test_every_kind_of_field_is_read(tmp_path: Path) -> None:
    text = """
        name: a
        count: 3
        ratio: 1
        flag: true
        size: 2MiB
        wait: 250ms
        level: high
        inner: {depth: 2}
        maybe: null
        words: [x, 1]
        table: {k: 7}
        data: [[1, 2.5], {a: b}]
    """
    assert load(Outer, write(tmp_path, text)) == Outer(
        "a", 3, 1.0, True, Size(2 << 20), Seconds(0.25), "high", Inner(2), None, ("x", "1"), {"k": 7},
        Data([[1, 2.5], {"a": "b"}]),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("name: a\ncuont: 1", "2: unknown key 'cuont'; did you mean 'count'?", id="unknown key"),
        pytest.param(
            "name: a\ninner:\n  dept: 1", "3: unknown key 'dept'; did you mean 'depth'?", id="nested"
        ),
        pytest.param("name: a\nzzz: 1", "2: unknown key 'zzz'; known: count, data", id="nothing near"),
        pytest.param("count: 1", "1: missing key 'name'", id="missing"),
        pytest.param("name: a\ncount: many", "2: count: expected int, got 'many'", id="wrong type"),
        pytest.param("name: a\nflag: 1", "2: flag: expected bool, got '1'", id="no bool"),
        pytest.param("name: a\nsize: 3 apples", "2: size: expected a size such as 16MiB", id="size"),
        pytest.param(
            "name: a\nlevel: hihg", "2: level: unknown value 'hihg'; did you mean 'high'?", id="choice"
        ),
        pytest.param("name: a\nwords: x", "2: words: expected a list", id="no list"),
        pytest.param("name: [a]", "1: name: expected one value", id="no scalar"),
        pytest.param("name: a\ninner: 4", "2: expected keys and values", id="no mapping"),
        pytest.param("name: a\nname: b", "2: key 'name' stands here twice", id="twice"),
        pytest.param("name: a\ncount: -1", "1: count is not negative", id="refused by the class"),
        pytest.param("name: [", "1: ", id="not YAML"),
        pytest.param("name: a\ndata: !!python/object:os.system x", "2: ", id="a tag that is no data"),
    ],
)
def test_a_fault_names_file_and_line_and_a_way_out(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        load(Outer, path)
    assert f"{path}:{message}" in str(caught.value)


def test_all_faults_are_reported_together(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(Outer, write(tmp_path, "cuont: 1\nflag: 7\n"))
    assert [line.split(":", 2)[1] for line in str(caught.value).splitlines()] == ["1", "2", "1"]


def test_a_later_file_replaces_single_keys(tmp_path: Path) -> None:
    first, second = tmp_path / "1.yaml", tmp_path / "2.yaml"
    first.write_text("name: a\ncount: 1\n")
    second.write_text("count: 2\n")
    assert load(Outer, first, second) == Outer("a", 2)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nothing\.yaml: No such file"):
        load(Outer, tmp_path / "nothing.yaml")


@pytest.mark.parametrize(
    ("text", "size"), [("4096", 4096), ("1KiB", 1024), ("1.5MiB", 3 << 19), ("2GB", 2 * 10**9)]
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    ("text", "seconds"), [("2", 2.0), ("250ms", 0.25), ("1.5s", 1.5), ("5m", 300), ("1h", 3600)]
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "-1", "1 second", "1e3", "MiB"])
def test_other_quantities_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected a size"):
        parse_size(text)
    with pytest.raises(ValueError, match="expected a duration"):
        parse_seconds(text)
