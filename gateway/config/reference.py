"""The reference of every key of the policy language, in Markdown, from the structs themselves.

`write_reference(kinds)` is the content of docs/policies-reference.md: the top level first, then every struct
that it mentions, then the verbs. A table has key, what it takes, default, meaning and an example.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from enum import Enum
from typing import Any, Literal, get_args, get_origin

from gateway.config.decode import (
    Struct,
    bare,
    hints,
    is_list,
    is_mapping,
    is_struct,
    language_fields,
    members,
)
from gateway.config.kind import Kind, Place, is_required, setting_of
from gateway.config.load import NAMED
from gateway.config.schema import OverrideConfig, Schema
from gateway.config.secret import Secret
from gateway.config.units import UNITS

_PLACES: tuple[Place, ...] = ("pool", "endpoint", "policy", "plan", "principal", "override")


def write_reference(kinds: Sequence[Kind[Any]]) -> str:
    """Return the whole reference as Markdown."""
    return "\n".join(_pages(kinds)) + "\n"


def first_sentence(struct: Struct) -> str:
    """Return the first line of a struct's docstring."""
    text = (struct.__doc__ or "").strip().splitlines()
    return "" if not text or text[0].startswith(f"{struct.__name__}(") else text[0]


def render(value: object, expected: Any) -> str:
    """Write a value as YAML would have it, on one line; secrets are never written."""
    for one in members(expected):
        if one in UNITS and value is not None and not isinstance(value, bool):
            return UNITS[one].render(value)
    match value:
        case None:
            return "none"
        case Secret():
            return "(secret)"
        case bool():
            return str(value).lower()
        case Enum():
            return str(value.value)
        case tuple() | frozenset():
            item = get_args(members(expected)[0])[0]
            return f"[{', '.join(render(one, item) for one in value)}]"
        case Mapping():
            item = get_args(members(expected)[0])[1]
            return f"{{{', '.join(f'{key}: {render(one, item)}' for key, one in value.items())}}}"
    if dataclasses.is_dataclass(value):
        return ""
    return str(value)


def default_text(declared: dataclasses.Field[Any], expected: Any) -> str:
    """Return a field's default as YAML; empty where it is required, absent, or a struct of its own."""
    if is_required(declared):
        return ""
    factory = declared.default_factory
    value = declared.default if factory is dataclasses.MISSING else factory()
    if value is None or value in ("", (), {}):
        return ""
    return render(value, expected)


def _pages(kinds: Sequence[Kind[Any]]) -> Iterator[str]:
    yield "# Policy reference"
    yield ""
    yield "Generated from the structs that read the files (`headgate check` knows the same and says more)."
    seen: list[Struct] = []
    yield from _section("The top level of every file", Schema, seen, "")
    for name, (struct, place) in NAMED.items():
        yield from _section(f"`{name}:` one entry", struct, seen, _verbs_on(kinds, place, struct))
    overrides = _verbs_on(kinds, "override", OverrideConfig)
    yield from _section("`overrides.yaml`, one entry per endpoint", OverrideConfig, seen, overrides)
    for kind in kinds:
        yield from _section(f"Verb `{kind.name}`", kind.config, seen, _stands(kind), kind.summary)
    index = 0
    while index < len(seen):  # sections append the structs that they mention
        struct = seen[index]
        index += 1
        for mentioned in _mentioned(struct):
            if mentioned not in seen:
                yield from _section(f"`{mentioned.__name__}`", mentioned, seen, "")


def _verbs_on(kinds: Sequence[Kind[Any]], place: Place | None, struct: Struct) -> str:
    free = [kind for kind in kinds if kind.name not in language_fields(struct)]
    verbs = [f"`{kind.name}`" for kind in free if place is not None and kind.may_stand_on(place)]
    return f"And these verbs: {', '.join(verbs)}." if verbs else ""


def _stands(kind: Kind[Any]) -> str:
    places = ", ".join(place for place in _PLACES if kind.may_stand_on(place))
    several = " Several accumulate: all must agree." if kind.accumulates else " The most specific wins."
    return f"Stands on: {places}. A property of {'pools' if kind.scope == 'pool' else 'requests'}.{several}"


def _section(title: str, struct: Struct, seen: list[Struct], after: str, summary: str = "") -> Iterator[str]:
    if struct not in seen:
        seen.append(struct)
    yield from ("", f"## {title}", "", summary or first_sentence(struct), "")
    fields = language_fields(struct)
    if fields:
        yield "| key | takes | default | meaning | example |"
        yield "|---|---|---|---|---|"
    for name, declared in fields.items():
        known, expected = setting_of(declared), hints(struct)[declared.name]
        default = "**required**" if is_required(declared) else _code(default_text(declared, expected))
        meaning = known.meaning + (f" ({known.unit})" if known.unit else "")
        example = "" if known.example is None else _code(f"{name}: {known.example}")
        cells = (_code(name), takes(expected), default, meaning, example)
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
    if after:
        yield from ("", after)


def _code(text: str) -> str:
    return f"`{text}`" if text else ""


def takes(expected: Any) -> str:
    """Name a type for the reference's second column."""
    return " or ".join(dict.fromkeys(_takes_one(bare(one)) for one in members(expected)))


def _takes_one(expected: Any) -> str:
    if expected in UNITS:
        return UNITS[expected].name.split(" ", 1)[1]
    if is_list(expected):
        return f"list of {takes(get_args(expected)[0])}"
    if is_mapping(expected):
        return f"mapping to {takes(get_args(expected)[1])}"
    if is_struct(expected):
        return f"`{expected.__name__}`"
    if get_origin(expected) is Literal:
        return ", ".join(f"`{word}`" for word in get_args(expected))
    if isinstance(expected, type) and issubclass(expected, Enum):
        return ", ".join(f"`{one.value}`" for one in expected)
    names: dict[object, str] = {
        str: "text",
        int: "whole number",
        float: "number",
        bool: "`true`, `false`",
        Secret: "reference",
    }
    return names[expected]


def _mentioned(struct: Struct) -> Iterator[Struct]:
    for declared in language_fields(struct).values():
        yield from _structs_in(hints(struct)[declared.name])


def _structs_in(expected: Any) -> Iterator[Struct]:
    for one in members(expected):
        if is_struct(one):
            yield one
        elif is_list(one) or is_mapping(one):
            yield from _structs_in(get_args(one)[-1 if is_mapping(one) else 0])
