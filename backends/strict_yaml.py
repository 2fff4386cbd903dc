"""Strict YAML: a file becomes frozen dataclasses, or a list of errors that name file, line and a way
out.

Only what the server's settings and model cards need: a key that no dataclass declares is an error that
names the nearest one that exists, a value of the wrong type is an error that says what was expected, and
all errors of a file are reported together. The types of the fields are the schema; there is no second
one.

Understood field types: str, int, float, bool, Path, Size, Seconds, Data, `T | None`, `tuple[T, ...]`,
`Mapping[str, T]`, Literal[...], nested dataclasses, and any class with `parse(text)`, which raises
ValueError.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import (
    Any,
    Literal,
    NamedTuple,
    NewType,
    TypeVar,
    Union,
    cast,
    get_args,
    get_origin,
    get_type_hints,
)

import yaml

Size = NewType("Size", int)  # bytes; in YAML 16MiB, 512KiB, or a plain number
Seconds = NewType("Seconds", float)  # in YAML 250ms, 10s, 5m, or a plain number
Data = NewType("Data", object)  # any YAML value as plain Python lists, dicts, numbers and strings

T = TypeVar("T")

OVERRIDE = Path("override")  # what stands in for a file's name in errors of `load(over=…)`


class _Entry(NamedTuple):
    """One key of a mapping: where it stands, and its value."""

    path: Path
    line: int
    node: yaml.Node


_Entries = dict[str, _Entry]

_SIZES = {
    "": 1,
    "B": 1,
    "KiB": 1 << 10,
    "MiB": 1 << 20,
    "GiB": 1 << 30,
    "kB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
}
_DURATIONS = {"": 1.0, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_QUANTITY = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)")


class ConfigError(Exception):
    """Everything that is wrong with a file, one line per fault, each starting with `file:line:`."""


def parse_size(text: str) -> Size:
    """Return bytes for `16MiB`, `10MB`, `4096`. ValueError says what is understood."""
    return Size(int(_quantity(text, _SIZES, "a size such as 16MiB")))


def parse_seconds(text: str) -> Seconds:
    """Return seconds for `250ms`, `10s`, `5m`, `1.5`. ValueError says what is understood."""
    return Seconds(_quantity(text, _DURATIONS, "a duration such as 250ms or 10s"))


def nearest(word: str, known: Iterable[str]) -> str:
    """Return the end of an error message: the closest known word, or all of them."""
    words = sorted(known)
    close = difflib.get_close_matches(word, words, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(words)}"


def load(kind: type[T], *paths: Path, over: str = "") -> T:
    """Read `paths` into one `kind`; a key of a later file replaces the same key of an earlier one.

    over: YAML or JSON whose keys replace those of every file. Raises ConfigError for an unreadable file,
    broken YAML, an unknown key, a wrong type or a missing key.
    """
    reader = _Reader()
    entries: _Entries = {}
    for path in paths:
        entries.update(reader.top_level(path, read_text(path)))
    if over:
        entries.update(reader.top_level(OVERRIDE, over))
    value = reader.build(kind, entries, (OVERRIDE, *paths)[-1], line=1)
    if reader.faults:
        raise ConfigError("\n".join(reader.faults))
    return cast(T, value)


def read_text(path: Path) -> str:
    """Return a file's text. ConfigError where it can't be read or isn't UTF-8."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError as e:
        raise ConfigError(f"{path}: {e.strerror}") from e
    except UnicodeDecodeError as e:
        raise ConfigError(f"{path}: not UTF-8") from e


def _quantity(text: str, units: Mapping[str, float], expected: str) -> float:
    match = _QUANTITY.fullmatch(text.strip())
    if match is None or match[2] not in units:
        raise ValueError(f"expected {expected}, got {text!r}")
    return float(match[1]) * units[match[2]]


_PARSERS: dict[Any, Callable[[str], object]] = {Size: parse_size, Seconds: parse_seconds}


class _Reader:
    """Walks the nodes of a file beside the fields of a dataclass, and collects faults instead of
    stopping."""

    __slots__ = ("faults",)

    def __init__(self) -> None:
        self.faults: list[str] = []

    def top_level(self, path: Path, text: str) -> _Entries:
        """Return the keys of the text's mapping; an empty text has none."""
        try:
            root = yaml.compose(text, Loader=yaml.SafeLoader)
        except yaml.YAMLError as e:
            mark = getattr(e, "problem_mark", None)
            line = mark.line + 1 if mark is not None else 1
            raise ConfigError(f"{path}:{line}: {getattr(e, 'problem', None) or 'not YAML'}") from e
        return {} if root is None else self._entries(root, path)

    def build(self, kind: type[Any], entries: _Entries, path: Path, line: int) -> object:
        """Return an instance of the dataclass `kind`, or None when a fault was found."""
        hints, fields = get_type_hints(kind), dataclasses.fields(kind)
        known = {field.name for field in fields if field.init}
        before = len(self.faults)
        values: dict[str, object] = {}
        for key, (source, at, node) in entries.items():
            if key not in known:
                self._fault(source, at, f"unknown key {key!r}; {nearest(key, known)}")
            else:
                values[key] = self._value(hints[key], node, source, key)
        for field in fields:
            required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
            if required and field.name not in entries:
                self._fault(path, line, f"missing key {field.name!r}")
        if len(self.faults) > before:
            return None
        try:
            return kind(**values)
        except ValueError as e:
            self._fault(path, line, str(e))
            return None

    # One value

    def _value(self, hint: Any, node: yaml.Node, path: Path, key: str) -> object:
        origin = get_origin(hint)
        if origin in (Union, types.UnionType):
            if node.tag == "tag:yaml.org,2002:null":
                return None
            return self._value(next(arg for arg in get_args(hint) if arg is not type(None)), node, path, key)
        if hint is Data:
            return self._plain(node, path)
        if origin is Literal:
            return self._one_of(get_args(hint), node, path, key)
        if origin is tuple:
            return self._sequence(get_args(hint)[0], node, path, key)
        if origin is not None and issubclass(origin, Mapping):
            return self._mapping(get_args(hint)[1], node, path)
        if dataclasses.is_dataclass(hint) and not hasattr(hint, "parse"):
            return self.build(cast(type[Any], hint), self._entries(node, path), path, _line(node))
        return self._scalar(hint, node, path, key)

    def _scalar(self, hint: Any, node: yaml.Node, path: Path, key: str) -> object:
        if not isinstance(node, yaml.ScalarNode):
            return self._fault(path, _line(node), f"{key}: expected one value, not a list or mapping")
        text = str(node.value)
        try:
            if hint is str:
                return text
            if hint is Path:
                return Path(text)
            parse = _PARSERS.get(hint) or getattr(hint, "parse", None)
            if parse is not None:
                return cast(object, parse(text))
            value = self._plain(node, path)
            if hint is float and type(value) is int:
                value = float(value)
            if type(value) is not hint:
                raise ValueError(f"expected {hint.__name__}, got {text!r}")
            return value
        except ValueError as e:
            return self._fault(path, _line(node), f"{key}: {e}")

    def _plain(self, node: yaml.Node, path: Path) -> object:
        try:
            return cast(object, yaml.SafeLoader("").construct_object(node, deep=True))
        except (yaml.YAMLError, TypeError) as e:  # an unknown tag, an unhashable key
            return self._fault(path, _line(node), getattr(e, "problem", None) or "not a plain value")

    def _one_of(self, words: Sequence[str], node: yaml.Node, path: Path, key: str) -> object:
        text = self._scalar(str, node, path, key)
        if isinstance(text, str) and text not in words:
            return self._fault(path, _line(node), f"{key}: unknown value {text!r}; {nearest(text, words)}")
        return text

    def _sequence(self, hint: Any, node: yaml.Node, path: Path, key: str) -> object:
        if not isinstance(node, yaml.SequenceNode):
            return self._fault(path, _line(node), f"{key}: expected a list")
        return tuple(self._value(hint, item, path, key) for item in node.value)

    def _mapping(self, hint: Any, node: yaml.Node, path: Path) -> object:
        return {
            key: self._value(hint, entry.node, path, key) for key, entry in self._entries(node, path).items()
        }

    def _entries(self, node: yaml.Node, path: Path) -> _Entries:
        if not isinstance(node, yaml.MappingNode):
            self._fault(path, _line(node), "expected keys and values")
            return {}
        entries: _Entries = {}
        for key, value in node.value:
            if str(key.value) in entries:
                self._fault(path, _line(key), f"key {key.value!r} stands here twice")
            entries[str(key.value)] = _Entry(path, _line(key), value)
        return entries

    def _fault(self, path: Path, line: int, message: str) -> object:
        self.faults.append(f"{path}:{line}: {message}")
        return None


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1
