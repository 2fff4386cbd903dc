"""A checked configuration as a flat, sorted list of lines: `endpoints.digits.timeout = 2s`.

Two configurations are compared line by line with it (`headgate diff`), and the admin API shows the running
one with it. Defaults that nobody wrote are left out; secrets never show.
"""

from __future__ import annotations

import typing
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import fields, is_dataclass

from gateway.config.decode import hints
from gateway.config.kind import Placed, setting_of, yaml_name
from gateway.config.pem_file import PemFile
from gateway.config.schema import Schema
from gateway.config.secret import Secret
from gateway.config.units import UNITS, Address, Rate, Unit


def listing(schema: Schema) -> list[str]:
    """Return the lines, sorted by path."""
    return sorted(_lines("", schema, Schema()))


def _lines(path: str, value: object, default: object, declared: object = None) -> Iterator[str]:
    """Yield what differs from the default. declared: the type as annotated, which knows the unit."""
    if value == default and path:
        return
    inner = typing.get_args(declared)
    if isinstance(value, Placed):
        yield from _lines(path, value.value, None)
    elif is_dataclass(value) and not isinstance(value, type | Address | Rate | PemFile):
        yield from _struct(path, value, default)
    elif isinstance(value, Mapping) and value:
        for key, item in value.items():
            yield from _lines(_join(path, str(key)), item, None, inner[-1] if inner else None)
    elif isinstance(value, tuple) and any(is_dataclass(item) for item in value):
        alone = len(value) == 1
        for index, item in enumerate(value):
            yield from _lines(path if alone else f"{path}[{index}]", item, None)
    else:
        yield f"{path} = {_text(value, declared)}"


def _struct(path: str, value: object, default: object) -> Iterator[str]:
    found, known = False, hints(type(value))  # type: ignore[arg-type]  # a dataclass, as the caller checked
    for field in fields(value):  # type: ignore[arg-type]  # the same
        item = getattr(value, field.name)
        if field.name == "verbs" or field.name == "overrides":
            for line in _lines(path if field.name == "verbs" else _join(path, "overrides"), item, {}):
                found = True
                yield line
            continue
        if setting_of(field).internal:
            continue
        usual = getattr(default, field.name, None) if type(default) is type(value) else _default(field)
        for line in _lines(_join(path, yaml_name(field)), item, usual, known[field.name]):
            found = True
            yield line
    if not found and path:
        yield f"{path} = {{}}"


def _default(declared: object) -> object:
    default = getattr(declared, "default", None)
    factory = getattr(declared, "default_factory", None)
    return factory() if callable(factory) else default


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def _text(value: object, declared: object) -> str:
    """Write a value as YAML has it, so that two that differ never read alike."""
    if isinstance(value, Secret):
        return "(secret)"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple | frozenset):
        inner = next(iter(typing.get_args(declared)), None)
        return "[" + ", ".join(_text(item, inner) for item in value) + "]"
    if isinstance(value, Mapping):
        return "{}"
    unit = _unit(value, declared)
    if unit is not None:
        return unit.render(value)
    return f"{value:.15g}" if isinstance(value, float) else str(value)


def _unit(value: object, declared: object) -> Unit | None:
    if isinstance(value, Address | Rate | PemFile):
        return UNITS[type(value)]
    if not isinstance(value, int | float):
        return None
    choices = (declared, *typing.get_args(declared))
    return next(
        (UNITS[choice] for choice in choices if isinstance(choice, Hashable) and choice in UNITS), None
    )
