"""Children that don't outlive their parent."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

PARENT = """
import subprocess, sys, time
from pathlib import Path
from gateway.runtime.demo import Demo
demo = Demo(Path("policies"))
demo.folder = Path(sys.argv[1])
demo._spawn("child", [sys.executable, "-c", "import time; time.sleep(60)"])
print(demo.children[0].process.pid, flush=True)
time.sleep(60)
"""


def runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux's prctl")
def test_the_children_of_a_demo_that_is_killed_end_with_it(tmp_path: Path) -> None:
    command = [sys.executable, "-c", PARENT, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert runs(child)
        parent.kill()
        ends = time.monotonic() + 10
        while runs(child) and time.monotonic() < ends:
            time.sleep(0.01)
        assert not runs(child)
