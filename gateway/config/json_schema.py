"""The policy language as JSON Schema (draft 2020-12), so that editors complete, explain and underline.

Generated from the same structs, settings and kinds that the decoder reads, and nothing else. It accepts
whatever the decoder accepts; the decoder is stricter where a rule is a sentence and not a shape
(`__post_init__`,
`check`, references between names). Scalars are seen as YAML 1.2 has them, so that `version: 1.10`, a number
there, is allowed where the language reads text.

    yaml-language-server: $schema=schema.json          the first line of a policy file, as a comment
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any, Literal, TypeAlias, get_args, get_origin

from gateway.config.decode import (
    Struct,
    bare,
    hints,
    is_list,
    is_mapping,
    is_optional,
    is_struct,
    language_fields,
    members,
    short_field,
)
from gateway.config.kind import Kind, Place, Setting, is_required, setting_of
from gateway.config.load import NAMED
from gateway.config.reference import default_text, first_sentence
from gateway.config.schema import OverrideConfig, Schema
from gateway.config.secret import Secret
from gateway.config.units import UNITS, Duration

Json: TypeAlias = dict[str, Any]

_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_REFERENCE: Json = {"type": "string", "pattern": r"\$\{(env|file):[^}]+\}"}
_TEXT: Json = {"type": ["string", "number", "boolean"]}
_NULL: Json = {"type": "null"}


def policies_schema(kinds: Sequence[Kind[Any]]) -> Json:
    """Return the schema of every policy file but overrides.yaml."""
    writer = _Writer(kinds)
    properties: Json = {}
    for name, declared in language_fields(Schema).items():
        known = setting_of(declared)
        if name in NAMED:
            struct, place = NAMED[name]
            properties[name] = _named(writer.entry(struct, place), known.meaning)
        else:
            properties[name] = writer.of_field(hints(Schema)[declared.name], known)
    root = _object(properties) | {"patternProperties": {"^x-": {}}}
    return _document("Headgate policies", root, writer)


def overrides_schema(kinds: Sequence[Kind[Any]]) -> Json:
    """Return the schema of overrides.yaml."""
    writer = _Writer(kinds)
    root = _named(writer.entry(OverrideConfig, "override"), first_sentence(OverrideConfig))
    return _document("Headgate overrides", root, writer)


def write_schema(kinds: Sequence[Kind[Any]]) -> str:
    """Return `policies/schema.json` as text."""
    return json.dumps(policies_schema(kinds), indent=1, ensure_ascii=False) + "\n"


def _document(title: str, root: Json, writer: _Writer) -> Json:
    return {"$schema": _DIALECT, "title": title, **root, "$defs": dict(sorted(writer.definitions.items()))}


def _named(entry: Json, meaning: str) -> Json:
    return {"description": meaning, "type": ["object", "null"], "additionalProperties": entry}


def _object(properties: Json, required: Sequence[str] = ()) -> Json:
    shape: Json = {"type": "object", "properties": properties, "additionalProperties": False}
    return shape | ({"required": list(required)} if required else {})


def _any_of(*shapes: Json) -> Json:
    """Return a schema that any of the shapes satisfies, flattened and without repetition."""
    flat: list[Json] = []
    for shape in shapes:
        for one in shape["anyOf"] if set(shape) == {"anyOf"} else [shape]:
            if one not in flat:
                flat.append(one)
    return flat[0] if len(flat) == 1 else {"anyOf": flat}


class _Writer:
    """Collects the definitions of structs and verbs, each once."""

    __slots__ = ("definitions", "kinds", "names")

    def __init__(self, kinds: Sequence[Kind[Any]]) -> None:
        self.kinds = kinds
        self.definitions: Json = {}
        self.names: dict[object, str] = {}

    def name_of(self, struct: Struct) -> str:
        """Return a struct's name among the definitions; two of one name are told apart by module."""
        if struct not in self.names:
            name: str = struct.__name__
            taken = name in self.names.values()
            self.names[struct] = f"{struct.__module__.rsplit('.', 1)[-1]}.{name}" if taken else name
        return self.names[struct]

    # Fields and types

    def of_field(self, expected: Any, known: Setting) -> Json:
        """Return a field's schema with its meaning, bounds and example."""
        shape = dict(self.of_type(expected, known))
        if "$ref" in shape:
            shape = {"allOf": [shape]}
        described: Json = {}
        if known.meaning:
            described["description"] = known.meaning + (f" ({known.unit})" if known.unit else "")
        if known.example is not None:
            described["examples"] = [known.example]
        return described | shape

    def of_type(self, expected: Any, known: Setting | None = None) -> Json:
        """Return the schema of everything that the decoder reads as the type."""
        shapes = [self.of_member(one, known) for one in members(expected)]
        return _any_of(*shapes, *([_NULL] if is_optional(expected) else []))

    def of_member(self, expected: Any, known: Setting | None) -> Json:
        """Return the schema of a type that is no union."""
        expected = bare(expected)
        if is_list(expected):
            item = self.of_type(get_args(expected)[0], known)
            return _any_of({"type": "array", "items": item}, item, _NULL)
        if is_mapping(expected):
            return {
                "type": ["object", "null"],
                "additionalProperties": self.of_type(get_args(expected)[1], known),
            }
        if is_struct(expected):
            return self.struct(expected)
        return self.of_scalar(expected, known)

    def of_scalar(self, expected: Any, known: Setting | None) -> Json:
        """Return the schema of a scalar type; all but secrets may also be a reference."""
        if expected is Secret:
            return _REFERENCE
        if expected is str:
            return _TEXT
        if expected in UNITS:
            return _any_of(*_unit(expected, known), _REFERENCE)
        if expected in (int, float):
            return _any_of({"type": "integer" if expected is int else "number", **_bounds(known)}, _REFERENCE)
        if expected is bool:
            return _any_of({"type": "boolean"}, _REFERENCE)
        if get_origin(expected) is Literal:
            return _any_of({"enum": list(get_args(expected))}, _REFERENCE)
        if isinstance(expected, type) and issubclass(expected, Enum):
            return _any_of({"enum": [one.value for one in expected]}, _REFERENCE)
        raise TypeError(f"the policy language can't express {expected!r}")

    # Structs

    def struct(self, struct: Struct) -> Json:
        """Return a reference to a struct's definition, which is written on first use."""
        name = self.name_of(struct)
        if name not in self.definitions:
            self.definitions[name] = {}
            shape = _any_of(*self.forms(struct, self.fields(struct)))
            self.definitions[name] = {"description": first_sentence(struct)} | shape
        return {"$ref": f"#/$defs/{name}"}

    def forms(self, struct: Struct, mapping: Json) -> list[Json]:
        """Return the mapping form and the short ones."""
        forms = [mapping]
        if not mapping.get("required"):
            forms.append(_NULL)
        if hasattr(struct, "from_text"):
            forms.append(_TEXT)
        short = short_field(struct)
        if short is not None:
            forms.append(self.of_type(hints(struct)[short.name], setting_of(short)))
        return forms

    def fields(self, struct: Struct) -> Json:
        """Return the schema of a struct's mapping form."""
        known = language_fields(struct)
        properties = {}
        for name, declared in known.items():
            shape = self.of_field(hints(struct)[declared.name], setting_of(declared))
            default = default_text(declared, hints(struct)[declared.name])
            if default:
                shape["description"] = f"{shape.get('description', '')}. Default: {default}".lstrip(". ")
            properties[name] = shape
        return _object(properties, [name for name, declared in known.items() if is_required(declared)])

    def entry(self, struct: Struct, place: Place | None) -> Json:
        """Return a reference to a named entry: its fields, and the verbs that may stand beside them."""
        name = self.name_of(struct)
        mapping = self.fields(struct)
        for kind in self.kinds if place is not None else ():
            if place is not None and kind.may_stand_on(place) and kind.name not in mapping["properties"]:
                mapping["properties"][kind.name] = self.verb(kind)
        null = [] if mapping.get("required") else [_NULL]
        self.definitions[name] = {"description": first_sentence(struct)} | _any_of(mapping, *null)
        return {"$ref": f"#/$defs/{name}"}

    def verb(self, kind: Kind[Any]) -> Json:
        """Return a verb's schema: one value, or a list where they accumulate."""
        one = self.struct(kind.config)
        shape = _any_of({"type": "array", "items": one}, one) if kind.accumulates else {"allOf": [one]}
        return {"description": kind.summary or first_sentence(kind.config)} | shape


def _unit(expected: Any, known: Setting | None) -> list[Json]:
    unit = UNITS[expected]
    shapes: list[Json] = [{"type": "string", "pattern": unit.pattern}]
    if unit.number:
        shapes.append({"type": "number", **_bounds(known)})
    if expected is Duration:
        shapes.append({"const": 0})
    return shapes


def _bounds(known: Setting | None) -> Mapping[str, float]:
    if known is None:
        return {}
    bounds = {"minimum": known.at_least, "maximum": known.at_most}
    return {name: bound for name, bound in bounds.items() if bound is not None}
