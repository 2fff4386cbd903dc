"""All that a fuzzer ever found, and the tables, played through every target, and by the compiled twin."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conformance.fuzz.guided import Lines, mutate
from tests.conformance.fuzz.targets import TARGETS, seeds

ROOT = Path(__file__).resolve().parents[2]
CORPUS = ROOT / "tests/conformance/corpus"
NATIVE = ROOT / ".native/lib"


def inputs(name: str) -> list[bytes]:
    folder = CORPUS / name
    found = sorted(folder.iterdir()) if folder.is_dir() else []
    return [path.read_bytes() for path in found] + seeds(name)


def readings() -> dict[str, str]:
    """Return, per target, a digest of how its whole corpus is read."""
    digests = {}
    for name, run in TARGETS.items():
        digest = hashlib.sha256()
        for data in inputs(name):
            digest.update(run(data).encode())
        digests[name] = digest.hexdigest()
    return digests


@pytest.mark.parametrize("name", TARGETS)
def test_the_corpus_breaks_no_law(name: str) -> None:
    for data in inputs(name):
        TARGETS[name](data)


@pytest.mark.parametrize("name", [name for name in TARGETS if name not in ("config", "exchange")])
def test_changed_inputs_break_no_law(name: str) -> None:
    corpus = inputs(name) or [b""]

    @settings(max_examples=300, deadline=None)
    @given(st.sampled_from(corpus), st.randoms(use_true_random=False))
    def play(data: bytes, rng: object) -> None:
        TARGETS[name](mutate(data, corpus, rng))  # type: ignore[arg-type]

    play()


def test_every_target_reads_something() -> None:
    """A target that accepts nothing of its corpus would hold any law."""
    read = {
        name: {TARGETS[name](data)[:7] for data in inputs(name)}
        for name in ("request_head", "chunked", "target")
    }
    assert all(len(kinds) > 1 for kinds in read.values())


@pytest.mark.pure
def test_the_small_fuzzer_notices_new_lines() -> None:
    lines = Lines()
    assert lines.of(TARGETS["target"], b"/a")
    assert not lines.of(TARGETS["target"], b"/a")
    assert lines.of(TARGETS["target"], b"/%2f")


@pytest.mark.skipif(not NATIVE.is_dir(), reason="the compiled gateway is not built here (make native)")
def test_the_compiled_twin_reads_the_corpus_alike() -> None:
    env = {**os.environ, "PYTHONPATH": f"{NATIVE}{os.pathsep}{ROOT}", "PYTHONSAFEPATH": "1"}
    script = (
        "import gateway.http.parse as parse, json, tests.conformance.test_corpus as corpus; "
        "print(json.dumps([parse.__file__, corpus.readings()]))"
    )
    command = [sys.executable, "-c", script]
    ran = subprocess.run(command, env=env, capture_output=True, text=True, timeout=100, check=True)
    file, theirs = json.loads(ran.stdout)
    assert file.startswith(str(NATIVE))
    assert not file.endswith(".py")
    assert theirs == readings()
