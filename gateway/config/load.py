"""A folder of YAML files -> one checked Schema, or every reason why not.

Files are read in name order and together make one configuration: pools, endpoints, plans, principals,
issuers and policies may be spread over them, everything else stands in one file. `overrides.yaml` is the
operator's (overrides.py). Top-level keys that start with `x-` are ignored: a place for anchors.

Decoding and checking both run to the end, so that one run names everything; a value that could not be read
causes no second problem elsewhere.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

from gateway.config.check import Declared, check
from gateway.config.decode import FAILED, Decoder, Struct, language_fields
from gateway.config.kind import Kind, Origin, Place, Placed
from gateway.config.problem import Mark, Problem, join, listing
from gateway.config.schema import (
    EndpointConfig,
    IssuerConfig,
    OverrideConfig,
    PlanConfig,
    PolicyConfig,
    PoolConfig,
    PrincipalConfig,
    Schema,
)
from gateway.config.yaml_tree import Mapping as MappingNode
from gateway.config.yaml_tree import Node, Scalar, parse_yaml
from gateway.config.yaml_tree import Sequence as SequenceNode

OVERRIDES_FILE: Final = "overrides.yaml"

NAMED: Final[Mapping[str, tuple[type[object], Place | None]]] = {
    "pools": (PoolConfig, "pool"),
    "endpoints": (EndpointConfig, "endpoint"),
    "plans": (PlanConfig, "plan"),
    "principals": (PrincipalConfig, "principal"),
    "issuers": (IssuerConfig, None),
    "policies": (PolicyConfig, "policy"),
}
"""The sections that are mappings of names: each entry's struct, and the place its verbs stand on."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Loaded:
    """What one load found.

    schema: None when there are problems. digest: SHA-256 over names and contents of the policy files, in hex;
    it says nothing of what references stand for, so whoever wants to know whether a reload changes anything
    compares schemas. sources: the policy files read, in order. references: the files that `${file:PATH}`
    names, whether they could be read or not. files: the contents read, by file name.
    """

    schema: Schema | None
    errors: tuple[Problem, ...]
    digest: str
    sources: tuple[Path, ...]
    references: tuple[Path, ...] = ()
    files: Mapping[str, bytes] = field(default_factory=dict, repr=False)

    def report(self) -> str:
        """Write the problems, one a line."""
        return "\n".join(str(problem) for problem in self.errors)


def load(
    folder: Path | str,
    kinds: Sequence[Kind[Any]] = (),
    env: Mapping[str, str] = os.environ,
    edits: Mapping[str, str] | None = None,
    files: Mapping[str, bytes] | None = None,
) -> Loaded:
    """Read, decode and check every `*.yaml` and `*.yml` of a folder.

    edits: file name -> text that is read in the file's stead, so that a change can be checked before it is
    written. files: file name -> contents that are read in the whole folder's stead; paths that policies name
    stay relative to the folder. A folder that doesn't exist or can't be read is a problem like any other;
    nothing is raised.
    """
    folder = Path(folder)
    reader = _Reader(folder, kinds, env)
    edited = {folder / name: text.encode() for name, text in (edits or {}).items()}
    try:
        if files is not None:
            edited = {folder / name: data for name, data in files.items()}
        sources = sorted({*(policy_files(folder) if files is None else ()), *edited})
    except OSError as error:
        problem = Problem(Mark(str(folder)), "", f"expected a folder of policies: {error.strerror}")
        return Loaded(None, (problem,), "", ())
    digest = hashlib.sha256()
    contents: dict[str, bytes] = {}
    for source in sources:
        data = edited.get(source)
        data = reader.read(source) if data is None else data
        if data is not None:
            contents[source.name] = data
            for part in (source.name.encode(), data):
                digest.update(len(part).to_bytes(8, "big") + part)
            reader.file(source, data)
    schema = reader.schema()
    reader.declared.broken.extend(problem.path for problem in reader.problems)
    reader.problems.extend(check(schema, kinds, reader.decoder.positions, reader.declared))
    errors = tuple(sorted(set(reader.problems)))
    references = tuple(reader.decoder.files)
    return Loaded(
        None if errors else schema, errors, digest.hexdigest(), tuple(sources), references, contents
    )


def policy_files(folder: Path) -> list[Path]:
    """Return a policy folder's files in the order in which they are read. Raises OSError."""
    found = [path for path in folder.iterdir() if path.suffix in (".yaml", ".yml")]
    return sorted(path for path in found if not path.name.startswith("."))


@dataclass(slots=True)
class _Reader:
    """Collects the sections of all files; one per load."""

    folder: Path
    kinds: Sequence[Kind[Any]]
    env: Mapping[str, str]
    decoder: Decoder = field(init=False)
    sections: dict[str, Any] = field(init=False, default_factory=dict)
    first: dict[str, Mark] = field(init=False, default_factory=dict)
    declared: Declared = field(init=False, default_factory=Declared)

    def __post_init__(self) -> None:
        self.decoder = Decoder(self.env, self.folder)
        self.sections = {name: {} for name in (*NAMED, "overrides")}

    @property
    def problems(self) -> list[Problem]:
        """Everything found so far."""
        return self.decoder.problems

    def schema(self) -> Schema:
        """Return what could be read; sections that couldn't have their defaults."""
        return Schema(**{name: value for name, value in self.sections.items() if value is not FAILED})

    # Files

    def read(self, source: Path) -> bytes | None:
        """Return a file's bytes, None when it can't be read."""
        try:
            return source.read_bytes()
        except OSError as error:
            self.problems.append(
                Problem(Mark(str(source)), "", f"expected a readable file: {error.strerror}")
            )
            return None

    def file(self, source: Path, data: bytes) -> None:
        """Read one file's contents into the sections."""
        try:
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            line = data.count(b"\n", 0, error.start) + 1
            mark = Mark(str(source), line, error.start - data.rfind(b"\n", 0, error.start))
            self.problems.append(
                Problem(mark, "", f"expected UTF-8, found the byte 0x{data[error.start]:02x}")
            )
            return
        root, problems = parse_yaml(text, str(source))
        self.problems.extend(problems)
        if root is not None and source.name == OVERRIDES_FILE:
            self.named("overrides", OverrideConfig, "override", root)
        elif root is not None:
            self.top(root)

    def top(self, root: MappingNode) -> None:
        """Read the top level of one file."""
        known = language_fields(Schema)
        for key, value in root.entries:
            if key.text in NAMED:
                self.section(key, value)
            elif key.text in known:
                self.single(key, value)
            elif not key.text.startswith("x-"):
                self.decoder.unknown(key, list(known), key.text)

    def single(self, key: Scalar, value: Node) -> None:
        """Read a section that stands once in all files."""
        if self.again(key, key.text):
            return
        self.decoder.positions.add(key.text, key.text, key.mark)
        self.sections[key.text] = self.decoder.field(Schema, key.text, value, key.text)

    def again(self, key: Scalar, path: str) -> bool:
        """Whether another file has the key too, which is reported with both positions."""
        first = self.first.setdefault(path, key.mark)
        if first is key.mark:
            return False
        message = f"expected once in all files, found again; the first is {first}"
        self.problems.append(Problem(key.mark, path, message))
        return True

    def section(self, key: Scalar, value: Node) -> None:
        """Read a section that is a mapping of names and may be spread over files."""
        if isinstance(value, Scalar) and value.is_null:
            return
        if not isinstance(value, MappingNode):
            found = "a list" if isinstance(value, SequenceNode) else repr(value.text)
            self.decoder.report(value, key.text, f"expected a mapping of names, found {found}")
            return
        struct, place = NAMED[key.text]
        self.named(key.text, struct, place, value)

    # Named entries and their verbs

    def named(self, section: str, struct: Struct, place: Place | None, node: MappingNode) -> None:
        """Read the entries of a named section."""
        for key, value in node.entries:
            path = join(section, key.text)
            if self.again(key, path):
                continue
            self.decoder.positions.add(path, key.text, key.mark)
            self.declared.add(section, key.text)
            decoded = self.entry(section, struct, place, key, value, path)
            if decoded is not FAILED:
                self.sections[section][key.text] = decoded

    def entry(
        self, section: str, struct: Struct, place: Place | None, key: Scalar, node: Node, path: str
    ) -> Any:
        """Read one entry: its struct's fields, and the verbs that may stand beside them."""
        if isinstance(node, Scalar) and node.is_null:
            node = MappingNode((), key.mark)
        if not isinstance(node, MappingNode):
            found = "a list" if isinstance(node, SequenceNode) else repr(node.text)
            return self.decoder.report(node, path, f"expected a mapping, found {found}")
        name_field = "endpoint" if section == "overrides" else "name"
        policy = key.text if section == "policies" else path
        given: dict[str, Any] = {name_field: key.text, "origin": key.mark.origin(path, policy)}
        words: list[str] = []
        if place is not None:
            fields = language_fields(struct)
            words = [kind.name for kind in self.kinds if kind.name not in fields]
            given["verbs"] = self.verbs(node, place, path, policy, fields)
            allowed = [kind.name for kind in self.kinds if kind.may_stand_on(place)]
            misplaced = [key for key, _ in node.entries if key.text in words and key.text not in allowed]
            others = [key.text for key, _ in node.entries if key.text not in fields]
            if place in ("policy", "override") and not others:
                self.decoder.report(node, path, f"expected at least one of {listing(allowed)}, found none")
            words = [*allowed, *(key.text for key in misplaced)]
        return self.decoder.struct(struct, node, path, given, words, partial=True)

    def verbs(
        self, node: MappingNode, place: Place, path: str, policy: str, fields: Mapping[str, object]
    ) -> dict[str, tuple[Placed[object], ...]]:
        """Read the verbs of one entry."""
        kinds = {kind.name: kind for kind in self.kinds if kind.name not in fields}
        found: dict[str, tuple[Placed[object], ...]] = {}
        for key, value in node.entries:
            kind = kinds.get(key.text)
            if kind is None:
                continue
            at = join(path, key.text)
            self.decoder.positions.add(at, key.text, key.mark)
            if not kind.may_stand_on(place):
                self.misplaced(key, kind, place, at)
                continue
            placed = self.placed(kind, value, at, policy)
            if placed:
                found[kind.name] = placed
        return found

    def misplaced(self, key: Scalar, kind: Kind[Any], place: Place, path: str) -> None:
        """Report a verb that can't stand here."""
        places: tuple[Place, ...] = ("pool", "endpoint", "policy", "plan", "principal", "override")
        where = listing(other for other in places if kind.may_stand_on(other))
        self.decoder.report(key, path, f"expected {kind.name} on: {where}; found it on: {place}")

    def placed(self, kind: Kind[Any], node: Node, path: str, policy: str) -> tuple[Placed[object], ...]:
        """Read one verb's value, or the list of values of one that accumulates."""
        items: list[tuple[Node, str]] = [(node, path)]
        if kind.accumulates and isinstance(node, SequenceNode):
            items = [(item, f"{path}[{index}]") for index, item in enumerate(node.items)]
        found: list[Placed[object]] = []
        for item, at in items:
            value = self.decoder.decode(item, kind.config, at)
            origin: Origin = item.mark.origin(at, policy)
            if value is not FAILED:
                found.append(Placed(value, origin))
        return tuple(found)
