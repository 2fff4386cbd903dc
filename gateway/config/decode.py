"""Tree of nodes + expected type -> frozen structs, with every problem collected and none raised.

The type decides how a scalar is read, not its looks: the version `1.10` is text because the field says
`str`, `off` is a boolean's typing error, `1e-3` is a number where a number is expected. What a type accepts:

    str              any scalar but null              int, float     decimal; no octal, hex, base 60, inf
    bool             true, false                      Literal, Enum  one of its words
    tuple[T, ...]    a list, or one T alone           Mapping[str,T] a mapping
    T | None         T, or null                       A | B          the first that fits the node
    unit types       see units.py                     Secret         only a reference
    PemFile          the path of a file of PEM blocks, which is looked into and watched
    dataclass        a mapping of its fields; a text, if it has `from_text(cls, text)` (ValueError = refused);
                     anything that its `short` field accepts

`${env:NAME}` and `${file:PATH}` are replaced in every scalar before it is read (relative paths: from the
policy folder). A value that came from a reference never appears in a message, nor does a secret.
"""

from __future__ import annotations

import dataclasses
import re
import types
import typing
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeAlias, Union, get_args, get_origin

from gateway.config.kind import Setting, is_required, setting_of, yaml_name
from gateway.config.pem_file import PemFile, read_pem_file
from gateway.config.problem import Mark, Problem, join, listing, nearest
from gateway.config.secret import Secret
from gateway.config.units import UNITS, is_finite
from gateway.config.yaml_tree import Mapping as MappingNode
from gateway.config.yaml_tree import Node, Scalar
from gateway.config.yaml_tree import Sequence as SequenceNode

Struct: TypeAlias = Any  # a dataclass type; what typeshed's lru_cache takes no `type[…]` for


class Failed:
    """The type of `FAILED`, what decoding returns when it has reported why."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "FAILED"


FAILED: Final = Failed()

_REFERENCE = re.compile(r"\$\{(?:(env|file):)?([^}]*)\}")
_CLEAR_PASSWORD = re.compile(r"://[^/@\s:]*:(?!\$\{)[^@/\s]+@")
_INT = re.compile(r"[-+]?(0|[1-9][0-9]*(_[0-9]+)*)")
_FLOAT = re.compile(r"[-+]?((0|[1-9][0-9]*(_[0-9]+)*)(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?")
_OCTAL = re.compile(r"[-+]?0o?([0-7]+)")
_HEX = re.compile(r"[-+]?0x([0-9A-Fa-f]+)")
_YES: Final = {"yes": "true", "on": "true", "y": "true", "no": "false", "off": "false", "n": "false"}


# Where words stand, for checks that come later


@dataclass(slots=True)
class Positions:
    """Every word that was read, by path, so that a later check can point at it."""

    words: list[tuple[str, str, Mark]] = field(default_factory=list)
    marks: dict[str, Mark] = field(default_factory=dict)

    def add(self, path: str, text: str, mark: Mark) -> None:
        """Remember a key or a scalar."""
        self.words.append((path, text, mark))
        self.marks.setdefault(path, mark)

    def at(self, path: str) -> Mark | None:
        """Return where the value of a path was written."""
        return self.marks.get(path)

    def of_word(self, path: str, word: str) -> tuple[str, Mark] | None:
        """Return path and position of the first place under `path` where exactly `word` is written."""
        for at, text, mark in self.words:
            if text == word and (at == path or at.startswith((f"{path}.", f"{path}["))):
                return at, mark
        return None


# What a type looks like, seen once


@cache
def hints(struct: Struct) -> Mapping[str, Any]:
    """Return a dataclass's field types, evaluated, with Annotated left in."""
    return typing.get_type_hints(struct, include_extras=True)


@cache
def language_fields(struct: Struct) -> Mapping[str, dataclasses.Field[Any]]:
    """Return a dataclass's fields by YAML key, the internal ones left out."""
    fields = dataclasses.fields(struct)
    return {yaml_name(known): known for known in fields if known.init and not setting_of(known).internal}


@cache
def short_field(struct: Struct) -> dataclasses.Field[Any] | None:
    """Return the field that a value other than a mapping is read into."""
    return next((known for known in language_fields(struct).values() if setting_of(known).short), None)


def bare(expected: Any) -> Any:
    """Return the type without Annotated."""
    return get_args(expected)[0] if get_origin(expected) is Annotated else expected


def members(expected: Any) -> tuple[Any, ...]:
    """Return the alternatives of a union without None; a type that is no union is its own only one."""
    expected = bare(expected)
    if expected in UNITS or get_origin(expected) not in (Union, types.UnionType):
        return (expected,)
    found: list[Any] = []
    for alternative in get_args(expected):
        if alternative is not types.NoneType:
            found.extend(members(alternative))
    return tuple(found)


def is_optional(expected: Any) -> bool:
    """Whether null is one of the values."""
    expected = bare(expected)
    if expected in UNITS or get_origin(expected) not in (Union, types.UnionType):
        return expected is types.NoneType
    return types.NoneType in get_args(expected)


def is_struct(expected: Any) -> bool:
    """Whether the type is a dataclass of the language (units are read from text)."""
    return isinstance(expected, type) and dataclasses.is_dataclass(expected) and expected not in UNITS


def is_mapping(expected: Any) -> bool:
    """Whether the type is a mapping of names."""
    return get_origin(expected) in (dict, Mapping)


def is_list(expected: Any) -> bool:
    """Whether the type is `tuple[T, ...]` or `frozenset[T]`."""
    return get_origin(expected) in (tuple, frozenset)


def takes_text(expected: Any) -> bool:
    """Whether a scalar can be one."""
    if is_mapping(expected):
        return False
    if is_list(expected):
        return any(takes_text(one) for one in members(get_args(expected)[0]))
    if is_struct(expected):
        short = short_field(expected)
        return hasattr(expected, "from_text") or (
            short is not None and any(takes_text(one) for one in members(hints(expected)[short.name]))
        )
    return True


def takes_list(expected: Any) -> bool:
    """Whether a list can be one."""
    if is_struct(expected):
        short = short_field(expected)
        return short is not None and any(takes_list(one) for one in members(hints(expected)[short.name]))
    return is_list(expected)


def takes_mapping(expected: Any) -> bool:
    """Whether a mapping can be one."""
    if is_list(expected):
        return any(takes_mapping(one) for one in members(get_args(expected)[0]))
    return is_struct(expected) or is_mapping(expected)


def describe(expected: Any) -> str:
    """Say in words what a type expects, with an example where that helps."""
    expected = bare(expected)
    if expected in UNITS:
        return f"{UNITS[expected].name} like {UNITS[expected].example}"
    if len(members(expected)) > 1:
        return listing(dict.fromkeys(describe(one) for one in members(expected)))
    expected = members(expected)[0]
    if expected in UNITS:
        return describe(expected)
    if get_origin(expected) is Literal:
        return listing(_word(value) for value in get_args(expected))
    if is_list(expected):
        return f"a list of {describe(get_args(expected)[0])}"
    if is_mapping(expected):
        return "a mapping of names"
    if isinstance(expected, type) and issubclass(expected, Enum):
        return listing(_word(one.value) for one in expected)
    if is_struct(expected):
        return _describe_struct(expected)
    words = {
        str: "text",
        int: "a whole number",
        float: "a number",
        bool: "true or false",
        Secret: "a reference like ${env:NAME} or ${file:PATH}",
    }
    return words.get(expected, str(expected))


def _describe_struct(struct: Struct) -> str:
    short = short_field(struct)
    keys = f"a mapping with {listing(language_fields(struct), 'and')}"
    return f"{describe(hints(struct)[short.name])} or {keys}" if short else keys


def _word(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _found(node: Node) -> str:
    match node:
        case Scalar() if node.is_null:
            return "nothing"
        case Scalar():
            return repr(node.text)
        case SequenceNode():
            return "a list"
        case MappingNode():
            return "a mapping"


# Decoding


class Decoder:
    """Decodes the nodes of one load and collects what is wrong with them.

    env: where `${env:…}` looks. folder: where relative `${file:…}` paths start.
    """

    __slots__ = ("env", "files", "folder", "positions", "problems")

    def __init__(self, env: Mapping[str, str], folder: Path) -> None:
        self.env = env
        self.folder = folder
        self.files: dict[Path, None] = {}  # that references named, in order
        self.problems: list[Problem] = []
        self.positions = Positions()

    def report(self, node: Node, path: str, message: str) -> Failed:
        """Collect one problem; returns FAILED so that callers can `return self.report(…)`."""
        self.problems.append(Problem(node.mark, path, message))
        return FAILED

    def decode(self, node: Node, expected: Any, path: str) -> Any:
        """Return the node's value as the expected type, or FAILED with the reasons collected."""
        self.positions.add(path, node.text if isinstance(node, Scalar) else "", node.mark)
        expected = bare(expected)
        if isinstance(node, Scalar) and node.is_null:
            return self._null(node, expected, path)
        fitting = self._fitting(node, members(expected))
        match fitting:
            case []:
                return self.report(node, path, self._mismatch(node, expected))
            case [only]:
                return self._one(node, only, path)
        return self._first_that_fits(node, expected, fitting, path)

    def _fitting(self, node: Node, alternatives: tuple[Any, ...]) -> list[Any]:
        match node:
            case Scalar():
                return [one for one in alternatives if takes_text(one)]
            case SequenceNode():
                return [one for one in alternatives if takes_list(one)]
            case MappingNode():
                fitting = [one for one in alternatives if takes_mapping(one)]
                structs = [one for one in fitting if is_struct(one)]
                if len(fitting) > 1 and len(structs) == len(fitting):
                    keys = {key.text for key, _ in node.entries}
                    return [max(structs, key=lambda struct: len(keys & language_fields(struct).keys()))]
                return fitting

    def _mismatch(self, node: Node, expected: Any) -> str:
        if members(expected) == (Secret,):
            return f"expected {describe(expected)}, found something else"
        return f"expected {describe(expected)}, found {_found(node)}"

    def _first_that_fits(self, node: Node, expected: Any, fitting: list[Any], path: str) -> Any:
        reports: list[list[Problem]] = []
        before = len(self.problems)
        for alternative in fitting:
            value = self._one(node, alternative, path)
            if value is not FAILED:
                return value
            reports.append(self.problems[before:])
            del self.problems[before:]
        if isinstance(node, Scalar) and not any(is_struct(one) or one is Secret for one in fitting):
            shown = repr(node.text)
            words = [_word(value) for one in fitting for value in self._words(one)]
            return self.report(
                node, path, f"expected {describe(expected)}, found {shown}{nearest(node.text, words)}"
            )
        self.problems.extend(max(reports, key=lambda found: max(problem.mark for problem in found)))
        return FAILED

    def _words(self, expected: Any) -> list[object]:
        if get_origin(expected) is Literal:
            return list(get_args(expected))
        return (
            [one.value for one in expected]
            if isinstance(expected, type) and issubclass(expected, Enum)
            else []
        )

    def _null(self, node: Scalar, expected: Any, path: str) -> Any:
        if is_optional(expected):
            return None
        alternatives = members(expected)
        empty = MappingNode((), node.mark)
        for alternative in alternatives:
            if is_struct(alternative):
                return self.struct(alternative, empty, path)
            if is_mapping(alternative):
                return {}
            if is_list(alternative):
                return get_origin(alternative)()
        return self.report(node, path, self._mismatch(node, expected))

    def _one(self, node: Node, expected: Any, path: str) -> Any:
        if is_list(expected):
            return self._list(node, expected, path)
        if is_struct(expected):
            return self._struct(node, expected, path)
        if isinstance(node, MappingNode):
            return self._mapping(node, expected, path)
        if isinstance(node, SequenceNode):
            return self.report(node, path, self._mismatch(node, expected))
        return self._scalar(node, expected, path)

    # Lists and mappings

    def _list(self, node: Node, expected: Any, path: str) -> Any:
        item = get_args(expected)[0]
        if isinstance(node, SequenceNode):
            values = [self.decode(one, item, f"{path}[{index}]") for index, one in enumerate(node.items)]
        else:
            values = [self.decode(node, item, path)]
        return FAILED if FAILED in values else get_origin(expected)(values)

    def _mapping(self, node: MappingNode, expected: Any, path: str) -> Any:
        if not is_mapping(expected):
            return self.report(node, path, self._mismatch(node, expected))
        key_type, value_type = get_args(expected)
        decoded: dict[Any, Any] = {}
        for key, value in node.entries:
            at = join(path, key.text)
            name = self._scalar(key, key_type, at)
            self.positions.add(at, key.text, key.mark)
            decoded[name] = self.decode(value, value_type, at)
        return FAILED if any(FAILED in pair for pair in decoded.items()) else decoded

    # Structs

    def _struct(self, node: Node, expected: Struct, path: str) -> Any:
        short = short_field(expected)
        match node:
            case MappingNode() if short is None or not self._is_short_mapping(node, expected, short):
                return self.struct(expected, node, path)
            case Scalar() if hasattr(expected, "from_text"):
                return self._from_text(node, expected, path)
        if short is None:
            return self.report(node, path, self._mismatch(node, expected))
        value = self._bounded(
            node, self.decode(node, hints(expected)[short.name], path), setting_of(short), path
        )
        return FAILED if value is FAILED else self._build(expected, {short.name: value}, node, path)

    def field(self, owner: Struct, name: str, node: Node, path: str) -> Any:
        """Read one field of a struct that is read in parts: its value, within its bounds."""
        setting = setting_of(language_fields(owner)[name])
        return self._bounded(node, self.decode(node, hints(owner)[name], path), setting, path)

    def _is_short_mapping(self, node: MappingNode, struct: Struct, short: dataclasses.Field[Any]) -> bool:
        """Whether a mapping is the short field's own (`send: {stable: 95%}`) and not the struct's."""
        known = language_fields(struct)
        is_ours = any(key.text in known for key, _ in node.entries)
        return not is_ours and any(is_mapping(one) for one in members(hints(struct)[short.name]))

    def _from_text(self, node: Scalar, struct: Any, path: str) -> Any:
        text = self.text(node, path)
        if isinstance(text, Failed):
            return FAILED
        try:
            return struct.from_text(text)
        except ValueError as error:
            return self.report(
                node, path, self._safe(node, text, str(error), f"a valid {path.split('.')[-1]}")
            )

    def _safe(self, node: Scalar, text: str, message: str, expected: str) -> str:
        """Return the message, or one that doesn't show what a reference stands for."""
        return message if text == node.text else f"expected {expected}, found something else in {node.text}"

    def struct(
        self,
        struct: Struct,
        node: MappingNode,
        path: str,
        given: Mapping[str, object] | None = None,
        also: Collection[str] = (),
        partial: bool = False,
    ) -> Any:
        """Decode a mapping of a dataclass's fields.

        given: values of internal fields. also: further keys that are valid here and read by the caller.
        partial: of a struct with problems return what could be read, for further checks; FAILED otherwise.
        """
        values: dict[str, Any] = dict(given or {})
        known = language_fields(struct)
        before = len(self.problems)
        for key, value in node.entries:
            at = join(path, key.text)
            if key.text in known:
                self.positions.add(at, key.text, key.mark)
                declared = known[key.text]
                decoded = self.decode(value, hints(struct)[declared.name], at)
                values[declared.name] = self._bounded(value, decoded, setting_of(declared), at)
            elif key.text not in also:
                self.unknown(key, [*known, *also], at)
        for name, declared in known.items():
            if is_required(declared) and declared.name not in values:
                self._missing(node, name, hints(struct)[declared.name], setting_of(declared), path)
        if len(self.problems) == before:
            return self._build(struct, values, node, path)
        return self._build_partly(struct, values) if partial else FAILED

    def unknown(self, key: Scalar, words: Collection[str], path: str) -> None:
        """Report a key that isn't one of the words."""
        expected = listing(words) if words else "no keys"
        self.report(key, path, f"expected {expected}, found {key.text!r}{nearest(key.text, words)}")

    def _missing(self, node: Node, name: str, expected: Any, known: Setting, path: str) -> None:
        example = f" (`{name}: {known.example}`)" if known.example is not None else ""
        meaning = f", {known.meaning}" if known.meaning else ""
        self.report(node, path, f"expected `{name}`{meaning}: {describe(expected)}{example}; found nothing")

    def _build(self, struct: Struct, values: Mapping[str, Any], node: Node, path: str) -> Any:
        try:
            return struct(**values)
        except ValueError as error:
            return self.report(node, path, str(error))

    def _build_partly(self, struct: Struct, values: Mapping[str, Any]) -> Any:
        try:
            return struct(**{name: value for name, value in values.items() if value is not FAILED})
        except (TypeError, ValueError):  # a required field is missing, or what is left makes no sense alone
            return FAILED

    def _bounded(self, node: Node, value: Any, known: Setting, path: str) -> Any:
        if isinstance(value, bool) or not isinstance(value, int | float):
            return value
        shown = node.text if isinstance(node, Scalar) else "it"
        unit = f" ({known.unit})" if known.unit else ""
        if known.at_least is not None and value < known.at_least:
            return self.report(node, path, f"expected at least {known.at_least:g}{unit}, found {shown!r}")
        if known.at_most is not None and value > known.at_most:
            return self.report(node, path, f"expected at most {known.at_most:g}{unit}, found {shown!r}")
        return value

    # Scalars

    def text(self, node: Scalar, path: str) -> str | Failed:
        """Return the scalar's text with its references resolved."""
        if _CLEAR_PASSWORD.search(node.text):
            return self.report(
                node,
                path,
                "expected a reference like ${env:NAME} or ${file:PATH}, found a password in clear text",
            )
        if "${" not in node.text:
            return node.text
        before = len(self.problems)
        resolved = _REFERENCE.sub(lambda found: self._resolve(found, node, path), node.text)
        if len(self.problems) > before:
            return FAILED
        if "${" in _REFERENCE.sub("", node.text):
            return self.report(node, path, f"expected a reference like ${{env:NAME}}, found {node.text!r}")
        return resolved

    def _resolve(self, found: re.Match[str], node: Scalar, path: str) -> str:
        source, name = found.groups()
        match source:
            case "env":
                if name in self.env:
                    return self.env[name]
                hint = nearest(name, self.env)
                self.report(node, path, f"expected the environment variable {name} to be set{hint}")
            case "file":
                self.files[self.folder / name] = None
                try:
                    return (self.folder / name).read_text().rstrip("\r\n")
                except (OSError, UnicodeDecodeError) as error:
                    reason = error.strerror if isinstance(error, OSError) else "it is not text"
                    self.report(node, path, f"expected a readable file {name}: {reason}")
            case _:
                self.report(
                    node,
                    path,
                    f"expected a reference like ${{env:NAME}} or ${{file:PATH}}, found {found[0]!r}",
                )
        return ""

    def _scalar(self, node: Scalar, expected: Any, path: str) -> Any:
        if expected is Secret:
            return self._secret(node, path)
        text = self.text(node, path)
        if isinstance(text, Failed):
            return FAILED
        try:
            if expected is PemFile:
                self.files[self.folder / text] = None
                return read_pem_file(self.folder, text)
            return self._read(text, node.quoted and text == node.text, expected)
        except ValueError as error:
            return self.report(node, path, self._safe(node, text, str(error), describe(expected)))

    def _secret(self, node: Scalar, path: str) -> Any:
        if not _REFERENCE.search(node.text):
            message = "expected a reference like ${env:NAME} or ${file:PATH}, found a secret in clear text"
            return self.report(node, path, message)
        text = self.text(node, path)
        if isinstance(text, Failed):
            return FAILED
        if not text:
            return self.report(node, path, f"expected a secret, found nothing in {node.text}")
        return Secret(text)

    def _read(self, text: str, quoted: bool, expected: Any) -> Any:
        """Read a text as a scalar type; ValueError says what was expected and found."""
        if expected in UNITS:
            return UNITS[expected].parse(text)
        if expected is str:
            return text
        if expected is bool:
            return read_bool(text, quoted)
        if expected is int:
            return read_int(text, quoted)
        if expected is float:
            return read_float(text, quoted)
        if get_origin(expected) is Literal:
            return read_word(text, {_word(value): value for value in get_args(expected)})
        if isinstance(expected, type) and issubclass(expected, Enum):
            return read_word(text, {_word(one.value): one for one in expected})
        raise TypeError(f"the policy language can't express {expected!r}")


def read_bool(text: str, quoted: bool = False) -> bool:
    """Read true or false; YAML 1.1's other spellings get the hint."""
    if quoted and text in ("true", "false"):
        raise ValueError(f"expected true or false, found text in quotes: {text!r}; did you mean {text}?")
    if text in ("true", "True", "TRUE"):
        return True
    if text in ("false", "False", "FALSE"):
        return False
    meant = _YES.get(text.lower())
    hint = f"; did you mean '{meant}'?" if meant else nearest(text, ("true", "false"))
    raise ValueError(f"expected true or false, found {text!r}{hint}")


def read_int(text: str, quoted: bool = False) -> int:
    """Read a decimal whole number; YAML 1.1's octal, hexadecimal and base 60 are refused with a hint."""
    if not quoted and _INT.fullmatch(text):
        return int(text.replace("_", ""))
    raise ValueError(f"expected a whole number, found {_quoted(text, quoted)}{_number_hint(text, quoted)}")


def read_float(text: str, quoted: bool = False) -> float:
    """Read a decimal number, with or without exponent."""
    if not quoted and _FLOAT.fullmatch(text):
        return _finite(text)
    raise ValueError(f"expected a number, found {_quoted(text, quoted)}{_number_hint(text, quoted)}")


def _finite(text: str) -> float:
    value = float(text.replace("_", ""))
    if not is_finite(value):
        raise ValueError(f"expected a number, found one too large: {text!r}")
    return value


def _quoted(text: str, quoted: bool) -> str:
    return f"text in quotes: {text!r}" if quoted else repr(text)


def _number_hint(text: str, quoted: bool) -> str:
    if quoted:
        return f"; did you mean {text}?" if _FLOAT.fullmatch(text) else ""
    if octal := _OCTAL.fullmatch(text):
        return f" (octal is not read: write {int(octal[1], 8)} or {int(octal[1])})"
    if hexadecimal := _HEX.fullmatch(text):
        return f"; did you mean '{int(hexadecimal[1], 16)}'?"
    if _FLOAT.fullmatch(text) and float(text.replace("_", "")).is_integer():
        return f"; did you mean '{int(float(text.replace('_', '')))}'?"
    return ""


def read_word(text: str, words: Mapping[str, object]) -> object:
    """Read one of the words."""
    if text in words:
        return words[text]
    raise ValueError(f"expected {listing(words)}, found {text!r}{nearest(text, words)}")
