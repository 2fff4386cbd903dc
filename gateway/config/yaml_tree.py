"""YAML text to a tree of nodes that keeps positions and the text of scalars: PyYAML parses, nobody guesses.

YAML 1.1 resolves a plain scalar before anybody knows what is expected there: `off` becomes False, `22:30`
becomes 1350, `1.10` becomes 1.1, `1e-3` stays text. So its resolver is not used at all: a scalar here is its
text and whether it was quoted, and decode.py reads it as the type that the language expects at that place.

Refused, with file, line and column: duplicate keys, tabs as indentation, several documents, keys that aren't
scalars, tags other than !!str, unknown aliases, nesting beyond 64 levels and more than 100,000 nodes that
are there only through aliases (YAML's "billion laughs"). Anchors, aliases and the merge key `<<` work; a
key of the mapping itself wins over a merged one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, TypeAlias

import yaml

from gateway.config.problem import Mark, Problem, join

DEEPEST: Final = 64
MOST_ALIASED: Final = 100_000

_LOADER: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_NULLS: Final = frozenset(("", "~", "null", "Null", "NULL"))
_STR_TAGS: Final = frozenset(("tag:yaml.org,2002:str", "!"))


@dataclass(frozen=True, slots=True)
class Scalar:
    """A text as written. quoted: in quotes or as a block, so that it can't be null, a number or a boolean."""

    text: str
    quoted: bool
    mark: Mark

    @property
    def is_null(self) -> bool:
        """Whether nothing was written, or `null`."""
        return not self.quoted and self.text in _NULLS


@dataclass(frozen=True, slots=True)
class Sequence:
    """A list of nodes."""

    items: tuple[Node, ...]
    mark: Mark


@dataclass(frozen=True, slots=True)
class Mapping:
    """Keys, each once, in the order written."""

    entries: tuple[tuple[Scalar, Node], ...]
    mark: Mark


Node: TypeAlias = Scalar | Sequence | Mapping


def parse_yaml(text: str, file: str) -> tuple[Mapping | None, list[Problem]]:
    """Read one file's text, which must hold one mapping or nothing.

    Returns the mapping (empty for an empty file; None when the text is no YAML) and every problem found.
    A tree with problems is still returned where it can be, so that decoding finds the others too.
    """
    builder = _Builder(file)
    try:
        root = builder.document(iter(yaml.parse(text, Loader=_LOADER)))
    except yaml.MarkedYAMLError as error:
        return None, [*builder.problems, _syntax_problem(error, text, file)]
    except yaml.reader.ReaderError as error:
        found = Mark(file, text.count("\n", 0, error.position) + 1, 1)
        message = "expected printable text, found a control character"
        return None, [*builder.problems, Problem(found, "", message)]
    except _Refused as refused:
        return None, [*builder.problems, refused.problem]
    if root is None or (isinstance(root, Scalar) and root.is_null):
        return Mapping((), Mark(file, 1, 1)), builder.problems
    if not isinstance(root, Mapping):
        found_kind = "a list" if isinstance(root, Sequence) else "text"
        message = f"expected keys like `endpoints:` at the top of the file, found {found_kind}"
        return None, [*builder.problems, Problem(root.mark, "", message)]
    return root, builder.problems


def _syntax_problem(error: yaml.MarkedYAMLError, text: str, file: str) -> Problem:
    at = error.problem_mark or error.context_mark
    mark = Mark(file, at.line + 1, at.column + 1) if at else Mark(file)
    lines = text.splitlines()
    line = lines[at.line] if at and at.line < len(lines) else ""
    if "\t" in line[: len(line) - len(line.lstrip())]:
        column = line.index("\t") + 1
        return Problem(Mark(file, mark.line, column), "", "expected spaces as indentation, found a tab")
    what = " ".join(part for part in (error.context, error.problem) if part)
    return Problem(mark, "", f"expected YAML, found what can't be read: {what}")


class _Refused(Exception):
    def __init__(self, problem: Problem) -> None:
        super().__init__(str(problem))
        self.problem = problem


class _Builder:
    """Builds the tree from PyYAML's events; recursion is bounded by DEEPEST."""

    __slots__ = ("aliased", "anchors", "file", "nodes", "problems", "sizes")

    def __init__(self, file: str) -> None:
        self.file = file
        self.problems: list[Problem] = []
        self.anchors: dict[str, Node] = {}
        self.sizes: dict[str, int] = {}
        self.nodes = 0
        self.aliased = 0

    def document(self, events: Iterator[yaml.Event]) -> Node | None:
        """Return the first document's root; anything after it is a problem."""
        root: Node | None = None
        documents = 0
        for event in events:
            if isinstance(event, yaml.DocumentStartEvent):
                documents += 1
                if documents > 1:
                    message = "expected one document per file, found another; put it into a file of its own"
                    raise _Refused(Problem(self.mark(event), "", message))
                root = self.node(next(events), events, "", 0)
        return root

    def mark(self, event: yaml.Event) -> Mark:
        """Return where the event starts."""
        at = event.start_mark
        return Mark(self.file, at.line + 1, at.column + 1) if at else Mark(self.file)

    def node(self, event: yaml.Event, events: Iterator[yaml.Event], path: str, depth: int) -> Node:
        """Build the node that starts with `event`, and remember it if it has an anchor."""
        mark = self.mark(event)
        if depth > DEEPEST:
            raise _Refused(Problem(mark, path, f"expected at most {DEEPEST} levels, found more"))
        if isinstance(event, yaml.AliasEvent):
            return self.alias(event, path)
        before = self.nodes
        self.nodes += 1
        self.refuse_tag(event, path)
        built: Node
        if isinstance(event, yaml.ScalarEvent):
            quoted = bool(event.style) or event.tag in _STR_TAGS
            built = Scalar(event.value, quoted, mark)
        elif isinstance(event, yaml.SequenceStartEvent):
            built = Sequence(tuple(self.items(events, path, depth)), mark)
        else:
            built = self.mapping(events, path, depth, mark)
        anchor = getattr(event, "anchor", None)
        if anchor is not None:
            self.anchors[anchor] = built
            self.sizes[anchor] = self.nodes - before
        return built

    def alias(self, event: yaml.AliasEvent, path: str) -> Node:
        """Return the node that the alias names."""
        mark = self.mark(event)
        if event.anchor not in self.anchors:
            raise _Refused(Problem(mark, path, f"expected an anchor defined above, found *{event.anchor}"))
        self.nodes += self.sizes[event.anchor]
        self.aliased += self.sizes[event.anchor]
        if self.aliased > MOST_ALIASED:
            message = f"expected at most {MOST_ALIASED} values through aliases, found more"
            raise _Refused(Problem(mark, path, message))
        return self.anchors[event.anchor]

    def refuse_tag(self, event: yaml.Event, path: str) -> None:
        """Report a tag that would change what a value means."""
        tag = getattr(event, "tag", None)
        if tag is not None and tag not in _STR_TAGS:
            short = tag.replace("tag:yaml.org,2002:", "!!")
            self.problems.append(Problem(self.mark(event), path, f"expected no tag, found {short}"))

    def items(self, events: Iterator[yaml.Event], path: str, depth: int) -> Iterator[Node]:
        """Build a sequence's items."""
        for index, event in enumerate(events):
            if isinstance(event, yaml.SequenceEndEvent):
                return
            yield self.node(event, events, f"{path}[{index}]", depth + 1)

    def mapping(self, events: Iterator[yaml.Event], path: str, depth: int, mark: Mark) -> Mapping:
        """Build a mapping; of a key written twice the first is kept and the second is reported."""
        own: dict[str, tuple[Scalar, Node]] = {}
        merged: dict[str, tuple[Scalar, Node]] = {}
        for event in events:
            if isinstance(event, yaml.MappingEndEvent):
                break
            key = self.node(event, events, path, depth + 1)
            name = key.text if isinstance(key, Scalar) else ""
            value = self.node(next(events), events, join(path, name), depth + 1)
            if not isinstance(key, Scalar):
                self.problems.append(
                    Problem(key.mark, path, "expected a word as key, found a list or mapping")
                )
            elif key.text == "<<" and not key.quoted:
                self.merge(value, merged, path)
            elif key.text in own:
                first = own[key.text][0].mark
                message = f"expected every key once, found {key.text!r} again (first in line {first.line})"
                self.problems.append(Problem(key.mark, join(path, key.text), message))
            else:
                own[key.text] = (key, value)
        return Mapping(tuple((merged | own).values()), mark)

    def merge(self, value: Node, merged: dict[str, tuple[Scalar, Node]], path: str) -> None:
        """Add the entries of `<<`'s mapping or mappings; the earlier mapping wins."""
        for source in value.items if isinstance(value, Sequence) else (value,):
            if not isinstance(source, Mapping):
                self.problems.append(Problem(source.mark, join(path, "<<"), "expected a mapping to merge"))
                continue
            for key, node in source.entries:
                merged.setdefault(key.text, (key, node))
