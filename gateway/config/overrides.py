"""The operator's file: `policies/overrides.yaml`, edited by `headgate throttle | degrade | send | clear`.

    digits: {throttle: 20/s, degrade: digits-lite, until: "2026-11-22 18:00Z"}

An edit is worked out first (`set_override`, `clear_override` write nothing) and carries its unified diff; the
caller may check it with `load(folder, kinds, edits={OVERRIDES_FILE: edit.after})` before `write`. Entries
that the edit doesn't touch keep their text, comments included. Entries whose time is over are dropped by
the next edit. The file is replaced by rename, so that no reader ever sees half of it.
"""

from __future__ import annotations

import difflib
import json
import math
import os
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from gateway.config.load import OVERRIDES_FILE
from gateway.config.units import Instant, parse_instant, render_instant
from gateway.config.yaml_tree import Mapping as MappingNode
from gateway.config.yaml_tree import Node, Scalar, parse_yaml
from gateway.config.yaml_tree import Sequence as SequenceNode

_PLAIN = re.compile(r"[A-Za-z0-9][\w./%*-]*(?: [\w./%*-]+)*")
_HEADER: Final = (
    "# What an operator set in an incident; it beats every other policy until its time is over.\n"
    "# Written by `headgate throttle | degrade | send | clear`, and by hand.\n"
)


class OverridesError(Exception):
    """The file can't be edited: it isn't what it must be, or somebody changed it meanwhile."""


@dataclass(frozen=True, slots=True)
class Edit:
    """A change of the overrides file that is not written yet.

    ends: seconds since the epoch at which what was set is over; None after a clear.
    """

    path: Path
    before: str
    after: str
    ends: Instant | None = None

    @property
    def diff(self) -> str:
        """The change as a unified diff; empty when nothing changes."""
        name = str(self.path)
        lines = difflib.unified_diff(
            self.before.splitlines(keepends=True), self.after.splitlines(keepends=True), name, name
        )
        return "".join(lines)

    def write(self) -> None:
        """Replace the file. Raises OverridesError when it changed since the edit was worked out, OSError."""
        if _read(self.path) != self.before:
            raise OverridesError(f"{self.path} was changed by somebody else meanwhile; try again")
        if self.after != self.before:
            _replace(self.path, self.after)


def set_override(
    folder: Path,
    endpoint: str,
    verbs: Mapping[str, str | Mapping[str, str]],
    until: Instant | float,
    now: float,
) -> Edit:
    """Work out an edit that sets verbs for an endpoint until an instant; its other verbs stay, and end then.

    verbs: as YAML would have them, a text or a mapping of texts (`{"send": {"stable": "90%", …}}`).
    until, now: seconds since the epoch; until is rounded up to a whole second.
    Raises ValueError when until is not after now, OverridesError when the file can't be read as YAML.
    """
    if until <= now:
        raise ValueError("expected an end in the future")
    ends = Instant(float(math.ceil(until)))
    path, before, entries = _open(folder, now)
    kept = _verbs_of(entries[endpoint].node) if endpoint in entries else {}
    new = {verb: _flow(value) for verb, value in verbs.items()}
    parts = [f"{verb}: {value}" for verb, value in {**kept, **new}.items()]
    line = f"{_text(endpoint)}: {{{', '.join([*parts, f'until: {json.dumps(render_instant(ends))}'])}}}\n"
    if endpoint in entries:
        entries[endpoint].text = line
    else:
        entries[endpoint] = _Entry(line, None, "")
    return Edit(path, before, _joined(entries, before), ends)


def clear_override(folder: Path, endpoint: str, now: float) -> Edit:
    """Work out an edit that takes an endpoint's overrides away; nothing changes where there are none."""
    path, before, entries = _open(folder, now)
    if endpoint in entries:
        entries[endpoint].text = ""
    return Edit(path, before, _joined(entries, before))


# The file as a sequence of entries, each with its text


@dataclass(slots=True)
class _Entry:
    """One top-level entry: its lines, its node, and the comments above it. No lines: dropped."""

    text: str
    node: Node | None
    above: str


def _open(folder: Path, now: float) -> tuple[Path, str, dict[str, _Entry]]:
    path = folder / OVERRIDES_FILE
    before = _read(path)
    root, problems = parse_yaml(before, str(path))
    if root is None or problems:
        raise OverridesError("\n".join(str(problem) for problem in problems))
    entries = _split(before, root)
    for entry in entries.values():
        if _is_over(entry.node, now):
            entry.text = ""
    return path, before, entries


def _split(text: str, root: MappingNode) -> dict[str, _Entry]:
    """Cut the text at the entries' first lines; a file in another style is written anew entry by entry."""
    lines = text.splitlines(keepends=True)
    starts = [key.mark.line - 1 for key, _ in root.entries]
    blocks = len(set(starts)) == len(starts) and all(key.mark.column == 1 for key, _ in root.entries)
    entries: dict[str, _Entry] = {}
    above = "".join(lines[: starts[0]]) if starts and blocks else "" if starts else text
    ends = [*starts[1:], len(lines)][: len(starts)]
    for (key, node), start, end in zip(root.entries, starts, ends, strict=True):
        if not blocks:
            entries[key.text] = _Entry(f"{_text(key.text)}: {_flow_node(node)}\n", node, "")
            continue
        body = lines[start:end]
        tail = _trailing_comments(body)
        entries[key.text] = _Entry(_ended("".join(body[: len(body) - tail])), node, above)
        above = "".join(body[len(body) - tail :])
    entries[""] = _Entry("", None, above)
    return entries


def _ended(text: str) -> str:
    return text if text.endswith("\n") else text + "\n"


def _trailing_comments(body: list[str]) -> int:
    count = 0
    for line in reversed(body[1:]):
        if line.strip() and not line.startswith("#"):
            break
        count += 1
    return count


def _joined(entries: Mapping[str, _Entry], before: str) -> str:
    """Put the entries together; the text after the last entry goes before a new one."""
    joined = "".join(_above(entry) + entry.text for entry in entries.values())
    return joined if before else _HEADER + joined


def _above(entry: _Entry) -> str:
    return _ended(entry.above) if entry.above else ""


def _is_over(node: Node | None, now: float) -> bool:
    if not isinstance(node, MappingNode):
        return False
    until = next((value for key, value in node.entries if key.text == "until"), None)
    try:
        return isinstance(until, Scalar) and parse_instant(until.text) <= now
    except ValueError:  # the loader says what is wrong with it; it isn't ours to drop
        return False


def _verbs_of(node: Node | None) -> dict[str, str]:
    if not isinstance(node, MappingNode):
        return {}
    return {key.text: _flow_node(value) for key, value in node.entries if key.text != "until"}


# Writing YAML's flow style


def _text(text: str) -> str:
    surprising = text.lower() in ("true", "false", "null", "yes", "no", "on", "off", "y", "n")
    return text if _PLAIN.fullmatch(text) and not surprising else json.dumps(text, ensure_ascii=False)


def _flow(value: str | Mapping[str, str]) -> str:
    if isinstance(value, str):
        return _text(value)
    return f"{{{', '.join(f'{_text(key)}: {_text(part)}' for key, part in value.items())}}}"


def _flow_node(node: Node) -> str:
    match node:
        case Scalar():
            return json.dumps(node.text, ensure_ascii=False) if node.quoted else node.text
        case SequenceNode():
            return f"[{', '.join(_flow_node(item) for item in node.items)}]"
        case MappingNode():
            return (
                f"{{{', '.join(f'{_text(key.text)}: {_flow_node(value)}' for key, value in node.entries)}}}"
            )


# The disk


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""
    except UnicodeDecodeError as error:
        raise OverridesError(f"{path} is not UTF-8") from error


def _replace(path: Path, text: str) -> None:
    """Write beside the file and rename over it; the loader ignores names that start with a dot."""
    mode = path.stat().st_mode & 0o777 if path.exists() else 0o644
    handle, beside = tempfile.mkstemp(prefix=".overrides-", dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(beside, mode)
        os.replace(beside, path)
    except OSError:
        Path(beside).unlink(missing_ok=True)
        raise
