"""How the demo ends: whatever it started is stopped, however it is asked and however often.

A process that only sleeps stands for the gateway and the models; the real ones: tests/integration.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

CHILD = "import signal, time; {}; time.sleep(60)"
PROGRAM = """
import sys
from pathlib import Path
from gateway.runtime import demo

class Bare(demo.Demo):
    def _start(self):
        self.folder.mkdir()
        for name in ("gateway", "model"):
            self._spawn(name, [sys.executable, "-c", {child!r}])
        self._say(" ".join(str(child.process.pid) for child in self.children))
        {starting}

    def _reloads(self, told):
        return told

    def lines(self):
        return "up"

demo.GRACE = 0.5
sys.exit(Bare(Path("policies")).run())
"""


def alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


class Bare:
    """A demo of two sleeping children."""

    def __init__(self, folder: Path, *, child: str = "pass", starting: str = "pass", shell: str = "") -> None:
        program = PROGRAM.format(child=CHILD.format(child), starting=starting)
        command = [sys.executable, "-c", program]
        if shell:
            (folder / "demo.py").write_text(program)
            command = ["sh", "-c", shell.format(f"{sys.executable} {folder / 'demo.py'}")]
        path = {**os.environ, "PYTHONPATH": os.getcwd()}
        self.process = subprocess.Popen(
            command, cwd=folder, env=path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        words = self.process.stdout.readline().split()
        assert len(words) == 2, self.process.communicate()
        self.children = [int(word) for word in words]
        if starting == "pass":
            assert self.process.stdout.readline() == "up\n"

    def ends(self) -> int:
        """Wait for its end; returns the exit code. Nothing may outlive it."""
        try:
            self.process.communicate(timeout=10)
            assert [child for child in self.children if alive(child)] == []
            return self.process.returncode
        finally:
            for child in self.children:
                if alive(child):
                    os.kill(child, signal.SIGKILL)
            self.process.kill()
            self.process.communicate()


SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_a_signal_stops_everything(tmp_path: Path, number: signal.Signals) -> None:
    demo = Bare(tmp_path)
    demo.process.send_signal(number)
    assert demo.ends() == 0


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_a_signal_while_it_starts_stops_what_is_there(tmp_path: Path, number: signal.Signals) -> None:
    demo = Bare(tmp_path, starting="self._until('nothing', lambda: 'never')")
    demo.process.send_signal(number)
    assert demo.ends() == 0


def test_an_impatient_second_signal_does_not_save_a_stubborn_child(tmp_path: Path) -> None:
    demo = Bare(tmp_path, child="signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True)")
    end = time.monotonic() + 10  # the children must have refused SIGTERM before it comes
    while any((tmp_path / ".demo" / f"{name}.log").stat().st_size == 0 for name in ("gateway", "model")):
        assert time.monotonic() < end
        time.sleep(0.01)
    for _ in range(3):
        demo.process.send_signal(signal.SIGINT)
        time.sleep(0.1)
    assert demo.ends() == 0


def test_a_demo_in_the_background_of_a_script_hears_sigterm(tmp_path: Path) -> None:
    """A shell that is not interactive starts what stands before `&` with SIGINT ignored."""
    demo = Bare(tmp_path, shell="{} & echo $! >pid; wait $!; sleep 0.1")
    os.kill(int((tmp_path / "pid").read_text()), signal.SIGTERM)
    demo.ends()


def test_a_gateway_that_ends_by_itself_ends_the_demo(tmp_path: Path) -> None:
    demo = Bare(tmp_path)
    os.kill(demo.children[0], signal.SIGKILL)
    assert demo.ends() == 3


def test_a_model_that_ends_by_itself_is_told_and_the_demo_goes_on(tmp_path: Path) -> None:
    demo = Bare(tmp_path)
    os.kill(demo.children[1], signal.SIGKILL)
    assert demo.process.stdout is not None
    assert demo.process.stdout.readline().startswith("model ended; start it again with")
    demo.process.send_signal(signal.SIGTERM)
    assert demo.ends() == 0
