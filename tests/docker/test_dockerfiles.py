from __future__ import annotations

import fnmatch
import re
from pathlib import Path

import pytest

from tests.docker.files import DOCKER, ROOT, Instruction, read_dockerfile, stages

FILES = sorted(DOCKER.glob("*.Dockerfile"))
each_file = pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)

FIXED_TAG = re.compile(r"[a-z0-9./-]+:[0-9]+\.[0-9]+(\.[0-9]+)?[a-z0-9.-]*")
SECRET = re.compile(r"(?i)(token|password|secret|api_?key)")


def last_stage(path: Path) -> list[Instruction]:
    return stages(read_dockerfile(path))[-1]


def only(word: str, stage: list[Instruction]) -> Instruction:
    found = [instruction for instruction in stage if instruction.word == word]
    assert len(found) == 1, f"{word} stands {len(found)} times"
    return found[0]


def test_there_is_an_image_of_everything_that_we_build() -> None:
    assert [path.name for path in FILES] == [
        "backend-cuda.Dockerfile",
        "backend.Dockerfile",
        "gateway.Dockerfile",
        "load.Dockerfile",
    ]


@each_file
def test_every_base_image_has_a_fixed_tag(path: Path) -> None:
    for stage in stages(read_dockerfile(path)):
        image = stage[0].words[0]
        assert FIXED_TAG.fullmatch(image), f"{image} may be another image tomorrow"


@each_file
def test_what_is_built_is_not_what_is_shipped(path: Path) -> None:
    build, ship = stages(read_dockerfile(path))
    assert build[0].words[1:] == ["AS", "build"]
    assert "pip install" not in " ".join(step.text for step in ship)
    assert any(step.word == "COPY" and step.words[0] == "--from=build" for step in ship)


@each_file
def test_every_copied_path_exists_and_reaches_the_builder(path: Path) -> None:
    for step in read_dockerfile(path):
        if step.word != "COPY" or step.words[0].startswith("--from="):
            continue
        for source in step.words[:-1]:
            assert (ROOT / source).exists(), f"line {step.line}: {source}"
            assert in_context(path, source), f"line {step.line}: {source} is ignored"


def in_context(path: Path, source: str) -> bool:
    """Whether the Dockerfile's own .dockerignore lets a path in: the last line that fits decides."""
    let_in = True
    for line in (path.parent / f"{path.name}.dockerignore").read_text().splitlines():
        if not line or line.startswith("#"):
            continue
        pattern = line.removeprefix("!")
        parents = [source.rsplit("/", up)[0] for up in range(source.count("/") + 1)]
        if any(fnmatch.fnmatch(parent, pattern) for parent in (source, *parents)):
            let_in = line.startswith("!")
    return let_in


@each_file
def test_the_context_holds_neither_history_nor_environment_nor_secrets(path: Path) -> None:
    assert not any(in_context(path, name) for name in (".git", ".venv", "docker/.env", "tests", ".demo"))


@each_file
def test_packages_are_pinned(path: Path) -> None:
    installs = [step.text for step in read_dockerfile(path) if "pip install" in step.text]
    assert len(installs) == 1
    assert "-c constraints.txt" in installs[0]
    asked_for = installs[0].split("constraints.txt", 1)[1].split()
    for requirement in asked_for:
        assert requirement.strip("'").startswith(".") or "==" in requirement


@each_file
def test_it_runs_as_a_fixed_user_that_is_not_root(path: Path) -> None:
    stage = last_stage(path)
    uid, gid = only("USER", stage).text.split(":")
    assert int(uid) >= 10_000
    assert int(gid) >= 10_000
    created = next(step.text for step in stage if step.word == "RUN" and "useradd" in step.text)
    assert f"--uid {uid} " in created
    assert f"--gid {gid} " in created
    after = stage[stage.index(only("USER", stage)) :]
    assert not any(step.word in ("RUN", "COPY", "ADD") for step in after)


@each_file
def test_it_says_whether_it_is_well(path: Path) -> None:
    check = only("HEALTHCHECK", last_stage(path)).text
    assert "--interval=" in check
    assert "--timeout=" in check
    code = Instruction("CMD", check.split("CMD ", 1)[1], 0).exec_form
    assert code[:2] == ["python", "-c"]
    compile(code[2], path.name, "exec")


@each_file
def test_signals_reach_the_server_itself(path: Path) -> None:
    stage = last_stage(path)
    assert only("ENTRYPOINT", stage).exec_form
    assert only("CMD", stage).exec_form


@each_file
def test_no_secret_stands_in_a_layer(path: Path) -> None:
    for step in read_dockerfile(path):
        if step.word in ("ENV", "ARG", "RUN", "LABEL"):
            assert not SECRET.search(step.text), f"line {step.line}"


@each_file
def test_nothing_is_added_from_the_network(path: Path) -> None:
    assert not any(step.word == "ADD" for step in read_dockerfile(path))


@pytest.mark.parametrize(
    "text",
    ["FORM python:3.11", "FROM a \\", "RUN true\nnonsense"],
    ids=["misspelt", "unfinished", "no instruction"],
)
def test_what_is_no_dockerfile_is_noticed(tmp_path: Path, text: str) -> None:
    (tmp_path / "Dockerfile").write_text(text)
    with pytest.raises(ValueError, match=r"instruction"):
        read_dockerfile(tmp_path / "Dockerfile")
