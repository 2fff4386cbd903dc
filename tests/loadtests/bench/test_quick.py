"""The bench itself, once and short, with what tests have: NGINX and the gateway as it is."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest

from loadtests.bench import processes
from loadtests.bench.__main__ import QUICK_ROWS, TOOLS, main
from loadtests.bench.peers import ROOT

NEEDED = (*TOOLS, "nginx")


@pytest.mark.slow
@pytest.mark.service("nginx")
@pytest.mark.timeout(180)
@pytest.mark.skipif(not {0, 1} <= os.sched_getaffinity(0), reason="one core: nothing to pin to")
@pytest.mark.skipif(
    any(shutil.which(tool, path=processes.PATH) is None for tool in NEEDED),
    reason=f"one of these is not installed: {', '.join(NEEDED)}",
)
def test_a_quick_run_measures_nginx_and_headgate_at_the_same_work() -> None:
    command = [sys.executable, "-m", "loadtests.bench", "--quick", "--json"]
    ran = subprocess.run(
        [*command, "--peers", "nginx,headgate-pure,caddy", "--rounds", "1"],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert ran.returncode == 0, ran.stderr
    run = json.loads(ran.stdout)
    assert set(run["rows"]) == set(QUICK_ROWS)
    assert run["whole"] is False
    for name, row in run["rows"].items():
        assert {"nginx", "headgate-pure"} <= set(row["peers"]), (name, row["skipped"])
        assert not [note for note in row["notes"] if "failed" in note]
    for name in ("plain", "policy"):
        figures = run["rows"][name]["peers"]["headgate-pure"]
        assert 0.2 < figures["ratio_median"] < 20  # a smoke: what it costs is not judged here
        assert figures["cpu_us_median"] > 1
    latency = run["rows"]["latency"]["peers"]
    assert latency["direct"]["p50_ms"] < latency["headgate-pure"]["p50_ms"]


def test_a_run_without_its_tools_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(processes, "PATH", "/nowhere")
    assert main(["--quick"]) == 2
    assert "wrk gcc libc6-dev util-linux openssl" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [(["--rows", "plain,nothing"], "nothing"), (["--peers", "apache"], "apache")],
    ids=["row", "peer"],
)
def test_an_unknown_row_or_peer_is_an_error_that_names_what_there_is(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(words)
    error = capsys.readouterr().err
    assert f"no such thing: {said}" in error
    assert "growth" in error or "headgate-pure" in error


def test_one_core_is_too_few(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(shutil, "which", lambda tool, path: f"/bin/{tool}")
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0})
    assert main(["--quick"]) == 2
    assert "needs cores 0 and 1" in capsys.readouterr().err
