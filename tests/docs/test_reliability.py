"""docs/reliability.md and docs/THREAT_MODEL.md name tests that exist; every code of the gateway is listed."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.codes import PAGE, documented_codes
from tests.docs.test_coverage import NAMED_TEST, ROOT, definitions

THREATS = ROOT / "docs/THREAT_MODEL.md"
CALLS = {
    "Refusal",
    "BadRequest",
    "InvalidToken",
    "problem",
    "_refuse",
}  # (status, code …), (code …), (text, code)
CODE = re.compile(r"[a-z]+(_[a-z]+)*")


def codes_of(path: Path) -> Iterator[str]:
    """Codes as they are written in calls and as class or module constants."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
            match node.args if name in CALLS else []:
                case [ast.Constant(value=int()), code, *_]:
                    yield from texts(code)
                case [ast.Constant(value=str()) as first, *others]:
                    yield from texts(others[0] if name == "InvalidToken" and others else first)
        elif isinstance(node, ast.ClassDef) and any(isinstance(base, ast.Name) for base in node.bases):
            for line in node.body:
                target = getattr(line, "target", None) or (getattr(line, "targets", None) or [None])[0]
                if isinstance(target, ast.Name) and target.id == "code":
                    yield from texts(getattr(line, "value", None))


def texts(node: ast.AST | None) -> Iterator[str]:
    match node:
        case ast.Constant(value=str(text)) if CODE.fullmatch(text):
            yield text
        case ast.IfExp(body=body, orelse=orelse):
            yield from texts(body)
            yield from texts(orelse)


def codes() -> dict[str, str]:
    """Every code of the data plane, with a file that says it."""
    found = {}
    for path in sorted((ROOT / "gateway").rglob("*.py")):
        if "admin" not in path.parts:
            found.update(dict.fromkeys(codes_of(path), str(path.relative_to(ROOT))))
    constants = ast.parse((ROOT / "gateway/dialects/errors.py").read_text()).body
    for node in constants:
        if isinstance(node, ast.AnnAssign) and isinstance(node.value, ast.Constant):
            found.update(dict.fromkeys(texts(node.value), "gateway/dialects/errors.py"))
    return found


def test_every_code_that_a_client_may_see_is_documented() -> None:
    found = codes()
    assert len(found) > 40
    assert {code: path for code, path in found.items() if code not in documented_codes()} == {}


def test_no_code_is_documented_that_nobody_says() -> None:
    text = "".join(path.read_text() for path in (ROOT / "gateway").rglob("*.py"))

    def said(code: str) -> bool:
        head, _, tail = code.rpartition("_")  # some are put together: f"{found}_certificate"
        return f'"{code}"' in text or (f'"{head}"' in text and f'}}_{tail}"' in text)

    assert [code for code in sorted(documented_codes()) if not said(code)] == []


@pytest.mark.parametrize("page", [PAGE, THREATS], ids=lambda page: page.name)
def test_every_promise_names_a_test_that_exists_or_says_that_there_is_none(page: Path) -> None:
    rows = [
        [cell.strip() for cell in line.strip("|").split(" | ")]
        for line in page.read_text().splitlines()
        if (line.startswith("| ") and "tests/" in line) or (line.startswith("| ") and "not tested" in line)
    ]
    assert len(rows) > 15
    for row in rows:
        named = NAMED_TEST.findall(" ".join(row))
        assert named or "not tested" in " ".join(row), row
        for path, name in named:
            assert (ROOT / path).is_file(), f"{path} does not exist"
            assert name in definitions(ROOT / path), f"{path} has no {name}"
