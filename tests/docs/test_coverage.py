"""What the documentation promises exists: tests, functions, files."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from gateway.filters.catalog import PLACES

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = sorted([*DOCS.rglob("*.md"), ROOT / "README.md", ROOT / "CHANGELOG.md"])

NAMED_TEST = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")
LINK = re.compile(r"(?<!`)\[[^\]]*\]\(([^)\s]+)\)")
SOURCE_FILE = re.compile(r"`((?:gateway|backends|docker|tests|loadtests|policies|docs)/[\w./-]+)`")


@cache
def definitions(path: Path) -> frozenset[str]:
    """Return the names of a module's functions, classes, and `Class.method`s."""
    found: set[str] = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            for inner in node.body:
                if isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef):
                    found.add(f"{node.name}.{inner.name}")
    return frozenset(found)


def rows() -> list[tuple[str, str]]:
    """Return concept and evidence of every row of docs/coverage.md."""
    found = []
    for line in (DOCS / "coverage.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("|") and len(cells) == 2 and cells[1] not in ("shown by", "why", "---"):
            found.append((cells[0], cells[1]))
    return found


@pytest.mark.parametrize(("concept", "evidence"), rows(), ids=[concept for concept, _ in rows()])
def test_a_concept_names_its_test_or_says_why_there_is_none(concept: str, evidence: str) -> None:
    named = NAMED_TEST.findall(evidence)
    assert named or evidence.startswith(("not yet", "declined: "))
    for path, name in named:
        assert (ROOT / path).is_file(), f"{path} does not exist"
        assert name in definitions(ROOT / path), f"{path} has no {name}"


def test_the_tables_are_read() -> None:
    assert len(rows()) > 60


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in LINK.findall(page.read_text()):
        if target.startswith(("http://", "https://")):
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), f"{page.name} links to {target}"
        if anchor:
            headings = re.findall(r"^#+ (.+)$", there.read_text(), re.MULTILINE)
            assert anchor in {slug(heading) for heading in headings}, f"{page.name} links to {target}"


def slug(heading: str) -> str:
    """Return the anchor that a heading gets."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_named_files_exist(page: Path) -> None:
    for path in SOURCE_FILE.findall(page.read_text()):
        if path not in GENERATED:
            assert (ROOT / path).exists(), f"{page.name} names {path}"


GENERATED = frozenset(
    {"policies/overrides.yaml", "docker/.env", "loadtests/out/"}
)  # made by running something


def test_the_life_of_a_request_names_functions_that_exist() -> None:
    text = (DOCS / "life-of-a-request.md").read_text()
    everything = {name for path in (ROOT / "gateway").rglob("*.py") for name in definitions(path)}
    methods = re.findall(r"`([A-Z]\w+\.\w+)`", text)
    assert len(methods) > 20
    assert [name for name in methods if not exists(name, everything)] == []
    for module, name in re.findall(r"`([\w/]+\.py): (\w+)`", text):
        assert name in definitions(ROOT / "gateway" / module), f"{module} has no {name}"
    for module, name in re.findall(r"`([a-z]\w+)\.(\w+)`", text):
        files = list((ROOT / "gateway").rglob(f"{module}.py"))
        if files and name != "py":
            assert any(re.search(rf"\b{name}\b", path.read_text()) for path in files), f"{module}.{name}"


def exists(name: str, everything: set[str]) -> bool:
    """Whether `Class.name` is a method, or at least an attribute written in that class's file."""
    if name in everything:
        return True
    owner, _, attribute = name.partition(".")
    return any(
        owner in definitions(path) and re.search(rf"\b{attribute}\b", path.read_text())
        for path in (ROOT / "gateway").rglob("*.py")
    )


@pytest.mark.parametrize("page", sorted((DOCS / "adr").glob("*.md")), ids=lambda page: page.stem)
def test_a_decision_is_numbered_dated_and_in_the_map(page: Path) -> None:
    text = page.read_text()
    number = page.name[:4]
    assert text.startswith(f"# {number}. ")
    assert re.search(r"^Status: \w+, \d{4}-\d\d-\d\d\.$", text, re.MULTILINE)
    assert f"adr/{page.name}" in (DOCS / "index.md").read_text()
    assert "**Decision.**" in text


def test_the_filters_stand_in_the_order_in_which_they_act() -> None:
    table = (DOCS / "life-of-a-request.md").read_text().split("| filter |")[1].split("\n\n")[0]
    cells = re.findall(r"^\| (`[^|]+) \|", table, re.MULTILINE)
    names = [name for cell in cells for name in re.findall(r"`(\w+)`", cell)]
    assert len(names) > 12
    places = [PLACES[name] for position, name in enumerate(names) if name not in names[:position]]
    assert places == sorted(places)
