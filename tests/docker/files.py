"""The files of docker/ as data: what a builder and a composer would read in them, without either."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
DOCKER = ROOT / "docker"

INSTRUCTIONS = frozenset(
    [
        "ADD",
        "ARG",
        "CMD",
        "COPY",
        "ENTRYPOINT",
        "ENV",
        "EXPOSE",
        "FROM",
        "HEALTHCHECK",
        "LABEL",
        "RUN",
        "SHELL",
        "STOPSIGNAL",
        "USER",
        "VOLUME",
        "WORKDIR",
    ]
)


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction of a Dockerfile: its word, its text, and the line it begins at."""

    word: str
    text: str
    line: int

    @property
    def words(self) -> list[str]:
        """The text as a shell splits it."""
        return shlex.split(self.text)

    @property
    def exec_form(self) -> list[str]:
        """The JSON list of an exec form. ValueError when it is none."""
        value = json.loads(self.text)
        if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
            raise ValueError(f"line {self.line} is no exec form")
        return value


def read_dockerfile(path: Path) -> list[Instruction]:
    """Read a Dockerfile: comments dropped, continued lines joined. ValueError for what is no instruction."""
    found: list[Instruction] = []
    pending, start = "", 0
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        start = start if pending else number
        pending += line.removesuffix("\\")
        if line.endswith("\\"):
            continue
        word, _, text = pending.strip().partition(" ")
        if word not in INSTRUCTIONS:
            raise ValueError(f"{path.name}:{start}: {word!r} is no instruction")
        found.append(Instruction(word, text.strip(), start))
        pending = ""
    if pending:
        raise ValueError(f"{path.name} ends in the middle of an instruction")
    return found


def stages(instructions: list[Instruction]) -> list[list[Instruction]]:
    """Cut a Dockerfile at its FROMs."""
    cut: list[list[Instruction]] = []
    for instruction in instructions:
        if instruction.word == "FROM":
            cut.append([])
        cut[-1].append(instruction)
    return cut


def compose(name: str = "compose.yaml") -> dict[str, Any]:
    """Return a compose file's content, merges and anchors resolved."""
    content = yaml.safe_load((DOCKER / name).read_text())
    assert isinstance(content, dict)
    return content


def services(name: str = "compose.yaml") -> Mapping[str, dict[str, Any]]:
    """Return its services."""
    found: Mapping[str, dict[str, Any]] = compose(name)["services"]
    return found


METRIC = re.compile(r"\b(?:headgate_[a-z0-9_]+)\b")


def expressions(dashboard: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield every PromQL expression of a dashboard with the title of its place."""
    for panel in dashboard["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"]
    for annotation in dashboard["annotations"]["list"]:
        yield annotation["name"], annotation["expr"]
    for variable in dashboard["templating"]["list"]:
        yield variable["name"], variable["query"]["query"]
