"""The lines that the demo prints can be copied: a shell runs all of them, in their order."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from tests.integration.running import Demo, clean_env, until

pytestmark = pytest.mark.slow


def printed_lines(demo: Demo) -> list[str]:
    """The indented lines below the headline, those that go on with a backslash put together."""
    text = demo.output().partition("Headgate is up")[2].partition("Ctrl-C")[0]
    indented = re.findall(r"^  (\S.*(?:(?<=\\)\n.*)*)$", text, re.MULTILINE)
    return [line.replace("\\\n", " ") for line in indented]


# What each line's output must hold, in their order
SAID = (
    r"HTTP/1.1 200 .*\"label\":3",
    r"HTTP/1.1 200 .*\"outputs\"",
    r"digits 1 .*label",
    r"UNAUTHENTICATED ",
    r"serving_default",
    r"\"FP32\"",
    r"HTTP/1.1 401 ",
    r"HTTP/1.1 403 ",
    r"HTTP/1.1 422 .*wrong_shape",
    r"200\n.*429\n",
    r"\d+ x-headgate-version: 1",
    r"HTTP/1.1 200 .*x-headgate-version: 2",
    r"HTTP/1.1 200 .*digits-v1 .* bad",
    r"",  # the instance that is started again, in the background
    r"free-tier .*=> ",
    r"throttle: 1/s.*\nends ",
    r"degrade: digits-lite.*\nends ",
    r"\n-digits: ",
)


def run(line: str, folder: Path) -> tuple[str, int]:
    """Run one line as a shell does. Returns its output and its process group."""
    with (folder / "said.txt").open("w+") as told:
        shell = subprocess.Popen(
            line,
            shell=True,
            cwd=folder,
            env=clean_env(),
            stdin=subprocess.DEVNULL,
            stdout=told,
            stderr=told,
            start_new_session=True,
        )
        shell.wait(30)
        told.seek(0)
        return told.read(), shell.pid


@pytest.mark.service("curl")
def test_every_printed_line_does_what_is_said_of_it(tmp_path: Path) -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    with Demo(tmp_path, "--policies", "elsewhere") as demo:
        lines = printed_lines(demo)
        for line, expected in zip(lines, SAID, strict=True):
            said, group = run(line, tmp_path)
            if line.endswith("&"):
                try:
                    until(lambda: demo.up("digits-v1") == 2, "the restarted instance", 20)
                finally:
                    os.killpg(group, signal.SIGTERM)
            assert re.search(expected, said, re.DOTALL), f"{line}\n{said}"
        assert (tmp_path / "elsewhere/overrides.yaml").exists()
