"""A checked configuration as a flat, sorted list of lines: `endpoints.digits.timeout = 2s`.

Two configurations are compared line by line with it (`headgate diff`), and the admin API shows the running
one with it. Defaults that nobody wrote are left out; secrets never show.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass

from gateway.config.kind import Placed, setting_of, yaml_name
from gateway.config.schema import Schema
from gateway.config.secret import Secret
from gateway.config.units import Address, Rate, render_address, render_rate


def listing(schema: Schema) -> list[str]:
    """Return the lines, sorted by path."""
    return sorted(_lines("", schema, Schema()))


def _lines(path: str, value: object, default: object) -> Iterator[str]:
    if value == default and path:
        return
    if isinstance(value, Placed):
        yield from _lines(path, value.value, None)
    elif is_dataclass(value) and not isinstance(value, type | Address | Rate):
        yield from _struct(path, value, default)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _lines(_join(path, str(key)), item, None)
    elif isinstance(value, tuple) and any(is_dataclass(item) for item in value):
        alone = len(value) == 1
        for index, item in enumerate(value):
            yield from _lines(path if alone else f"{path}[{index}]", item, None)
    else:
        yield f"{path} = {_text(value)}"


def _struct(path: str, value: object, default: object) -> Iterator[str]:
    found = False
    for declared in fields(value):  # type: ignore[arg-type]  # the caller checked that it is a dataclass
        item = getattr(value, declared.name)
        if declared.name == "verbs" or declared.name == "overrides":
            for line in _lines(path if declared.name == "verbs" else _join(path, "overrides"), item, {}):
                found = True
                yield line
            continue
        if setting_of(declared).internal:
            continue
        usual = getattr(default, declared.name, None) if type(default) is type(value) else _default(declared)
        for line in _lines(_join(path, yaml_name(declared)), item, usual):
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


def _text(value: object) -> str:
    if isinstance(value, Secret):
        return "(secret)"
    if isinstance(value, Address):
        return render_address(value)
    if isinstance(value, Rate):
        return render_rate(value)
    if isinstance(value, tuple | frozenset):
        return "[" + ", ".join(_text(item) for item in value) + "]"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:g}"
    return str(value)
